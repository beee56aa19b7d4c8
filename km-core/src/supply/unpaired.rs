//! Pairs that are registered here and not at the peer. Each refused run is burned, so they are
//! remembered for a while and refused without asking. Enter through [`Unpaired::remembers`].

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::ids::SaeId;

/// The peer is asked again after this.
const REMEMBERED: Duration = Duration::from_secs(30);

type Pair = (SaeId, Vec<SaeId>);

/// The pairs refused lately, and when. Each costs a round trip to the peer to get in here, and
/// those that are over are dropped, so there are never many.
#[derive(Default)]
pub(super) struct Unpaired(Mutex<HashMap<Pair, Instant>>);

impl Unpaired {
    fn lately(&self) -> MutexGuard<'_, HashMap<Pair, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer said these applications are not paired there.
    pub(super) fn remember(&self, master: &SaeId, slaves: &[SaeId]) {
        tracing::warn!(%master, first_slave = slaves.first().map(SaeId::as_str), slaves = slaves.len(),
            alarm = "pair-unknown-to-peer",
            "the peer's KM does not know this pair; register it at both ends");
        let mut lately = self.lately();
        lately.retain(|_, since| since.elapsed() < REMEMBERED);
        lately.insert((master.clone(), slaves.to_vec()), Instant::now());
    }

    /// Whether it said so lately.
    pub(super) fn remembers(&self, master: &SaeId, slaves: &[SaeId]) -> bool {
        let pair = (master.clone(), slaves.to_vec());
        self.lately().get(&pair).is_some_and(|since| since.elapsed() < REMEMBERED)
    }
}
