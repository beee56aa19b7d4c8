//! What the peer refuses to applications and not to others: pairs that it does not know, and keys below
//! the grade that its policy asks for. Each refused run is burned, so both are remembered for a while,
//! and the peer is not asked again. Enter through [`Refusals::of`].

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{ids::SaeId, provenance::Grade};

/// The peer is asked again after this.
const REMEMBERED: Duration = Duration::from_secs(30);

/// What the peer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The pair is not registered there.
    NotPaired,
    /// Their keys must claim this there.
    BelowGrade(Grade),
}

type Pair = (SaeId, Vec<SaeId>);

/// The pairs refused lately, and when. Each costs a round trip to the peer to get in here, and
/// those that are over are dropped, so there are never many.
#[derive(Default)]
pub(super) struct Refusals(Mutex<HashMap<Pair, (Instant, Refusal)>>);

impl Refusals {
    fn lately(&self) -> MutexGuard<'_, HashMap<Pair, (Instant, Refusal)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer refused these applications.
    pub(super) fn remember(&self, master: &SaeId, slaves: &[SaeId], refusal: Refusal) {
        let (first_slave, slaves_named) = (slaves.first().map(SaeId::as_str), slaves.len());
        match refusal {
            Refusal::NotPaired => tracing::warn!(%master, first_slave, slaves = slaves_named,
                alarm = "pair-unknown-to-peer",
                "the peer's KM does not know this pair; register it at both ends"),
            Refusal::BelowGrade(grade) => tracing::warn!(%master, first_slave,
                slaves = slaves_named, grade = grade.as_str(), alarm = "grade-differs",
                "the peer's KM asks this pair for a higher grade; set it at both ends"),
        }
        let mut lately = self.lately();
        lately.retain(|_, (since, _)| since.elapsed() < REMEMBERED);
        lately.insert((master.clone(), slaves.to_vec()), (Instant::now(), refusal));
    }

    /// What it said of them lately.
    pub(super) fn of(&self, master: &SaeId, slaves: &[SaeId]) -> Option<Refusal> {
        let pair = (master.clone(), slaves.to_vec());
        let (since, refusal) = *self.lately().get(&pair)?;
        (since.elapsed() < REMEMBERED).then_some(refusal)
    }
}
