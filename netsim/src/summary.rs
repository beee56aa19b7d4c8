//! What came out of a simulation.

use std::fmt;

use serde::Serialize;

/// Counts of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Clusters.
    pub nodes: usize,
    /// KM links.
    pub links: usize,
    /// Simulated hours.
    pub hours: f64,
    /// Keys of 256 bits that arrived, equal at both ends.
    pub delivered_keys: u64,
    /// Of these, with nothing but one-time pad on the way and born of QKD.
    pub its_keys: u64,
    /// Of all, put together of two or more disjoint ways by exclusive or.
    pub split_keys: u64,
    /// Batches that found no way or no pad at their first hop.
    pub blocked: u64,
    /// Batches that were lost on the way.
    pub lost: u64,
    /// Hops of the batches that arrived.
    pub hops: u64,
    /// Bytes of pad, of keys of tags, and burned.
    pub pad_bytes: u64,
    /// See `pad_bytes`.
    pub tag_bytes: u64,
    /// See `pad_bytes`.
    pub burned_bytes: u64,
    /// Bytes of keys relayed over the link of a satellite that carried most.
    pub satellite_bytes: u64,
    /// Bytes the QKD links made and the pools had room for.
    pub made_bytes: u64,
    /// Faults that began.
    pub faults: u64,
    /// Changes of best ways.
    pub reroutes: u64,
    /// Frames that were dropped, changed, repeated or held back. No changed one opened, none twice.
    pub mischief: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, links, hours, .. } = self;
        writeln!(f, "network       {nodes} clusters, {links} links, {hours} simulated hours")?;
        let (all, its, split) = (self.delivered_keys, self.its_keys, self.split_keys);
        writeln!(f, "keys          {all} delivered, {its} its-relay, {split} split over ways")?;
        writeln!(f, "batches       {} blocked, {} lost on the way", self.blocked, self.lost)?;
        writeln!(f, "hops          {}", self.hops)?;
        let (pad, tag, burned) = (self.pad_bytes, self.tag_bytes, self.burned_bytes);
        writeln!(
            f,
            "bytes         {} made, {pad} pad, {tag} tag, {burned} burned",
            self.made_bytes
        )?;
        if self.satellite_bytes > 0 {
            writeln!(f, "satellites    {} bytes over the link with most", self.satellite_bytes)?;
        }
        writeln!(f, "faults        {}, {} reroutes", self.faults, self.reroutes)?;
        writeln!(
            f,
            "mischief      {} frames; no changed one opened, and none twice",
            self.mischief
        )?;
        write!(
            f,
            "checked       every account balanced, no pad twice, all keys equal, no way through what is out, \
             no grade too high"
        )
    }
}
