//! Which network, which load, which faults.

use std::{fmt, str::FromStr};

use crate::network::{MOST_BPS, Network};

/// How clusters are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each with two neighbours.
    Ring,
    /// A grid with wrapped edges: each with four neighbours.
    Mesh,
    /// A long line with rungs: two chains side by side, joined at every fourth place.
    Backbone,
    /// A random tree and half as many links more.
    Random,
}

impl FromStr for Shape {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ring" => Ok(Self::Ring),
            "mesh" => Ok(Self::Mesh),
            "backbone" => Ok(Self::Backbone),
            "random" => Ok(Self::Random),
            _ => Err("a topology is ring, mesh, backbone or random".to_owned()),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ring => "ring",
            Self::Mesh => "mesh",
            Self::Backbone => "backbone",
            Self::Random => "random",
        })
    }
}

/// A simulation.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How clusters are joined.
    pub shape: Shape,
    /// What is simulated instead of a `shape`; it has `nodes` clusters, and tells its satellites itself.
    pub network: Option<Network>,
    /// Clusters, 4 to 1000.
    pub nodes: usize,
    /// Everything random follows from it.
    pub seed: u64,
    /// Simulated hours.
    pub hours: f64,
    /// Simulated seconds between two looks at the network.
    pub step_s: u64,
    /// Secret bits per second of a QKD link.
    pub rate_bps: u64,
    /// Most bytes an end of a pool holds.
    pub pool_bytes: u64,
    /// Pairs of clusters that want keys, for each cluster.
    pub pairs: usize,
    /// Batches each pair asks for in a step, on average.
    pub load: f64,
    /// Bytes of a batch, 32 to 65504.
    pub batch: usize,
    /// Faults that begin in an hour, in the whole network; each lasts some minutes.
    pub faults: f64,
    /// Share of frames that somebody in the middle drops, repeats, changes or holds back.
    pub mischief: f64,
    /// Clusters of these (the last ones) are satellites: their QKD links work ten minutes in 95.
    pub satellites: usize,
    /// Bits per second that may be relayed over each link of a satellite; none: as many as there are.
    pub ration_bps: Option<u64>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            shape: Shape::Mesh,
            network: None,
            nodes: 100,
            seed: 1,
            hours: 1.0,
            step_s: 60,
            rate_bps: 2_000_000,
            pool_bytes: 32 << 20,
            pairs: 4,
            load: 1.0,
            batch: 65_504,
            faults: 6.0,
            mischief: 0.0,
            satellites: 0,
            ration_bps: None,
        }
    }
}

impl Plan {
    /// What contradicts itself, in words.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self) -> Result<(), String> {
        let share = 0.0..=1.0;
        let fits = |network: &Network| network.nodes() == self.nodes && self.satellites == 0;
        let rules = [
            ((4..=1000).contains(&self.nodes), "nodes must be 4 to 1000"),
            (self.hours > 0.0 && self.hours <= 1e6, "hours must be above 0, up to a million"),
            ((1..=3600).contains(&self.step_s), "a step must be 1 to 3600 seconds"),
            (
                (32..=relay::hop::MAX_MATERIAL).contains(&self.batch)
                    && self.batch.is_multiple_of(32),
                "a batch must be 32 to 65504 bytes, a multiple of 32",
            ),
            (self.load >= 0.0 && self.load <= 1000.0, "load must be 0 to 1000"),
            (self.faults >= 0.0 && self.faults <= 1e6, "faults must be 0 to a million"),
            (share.contains(&self.mischief), "mischief must be 0 to 1"),
            (self.satellites < self.nodes, "not all clusters can be satellites"),
            (
                self.network.as_ref().is_none_or(fits),
                "nodes and satellites are what the network says",
            ),
            (self.ration_bps != Some(0), "a ration of nothing is no ration"),
            (self.rate_bps <= MOST_BPS && self.pool_bytes <= 1 << 40, "rate or pool too large"),
        ];
        let broken = rules.iter().find(|(holds, _)| !holds);
        broken.map_or(Ok(()), |(_, rule)| Err((*rule).to_owned()))
    }

    pub(crate) fn steps(&self) -> u64 {
        ((self.hours * 3600.0) as u64).div_ceil(self.step_s)
    }
}
