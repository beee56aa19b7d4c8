//! Who leads: this KM for a [`Term`], or another, which it asks at its desk.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::{Desk, REQUEST_DEADLINE, Supply, SupplyError, ahead::Ahead};
use crate::{
    ids::{ClusterId, PoolTag},
    pool::Pool,
};

/// Between two tries to find out who leads.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The time during which this KM leads: its pools, and what it hands out from memory.
pub(super) struct Term {
    pub(super) pools: HashMap<ClusterId, Arc<Pool>>,
    pub(super) ahead: Ahead,
    pub(super) holds: Holds,
}

/// Whether this KM may still take what it has in memory for what is stored. Nothing rests on it but
/// that a KM which was paused does not deny keys it has not heard of.
pub type Holds = Box<dyn Fn() -> bool + Send + Sync>;

impl Term {
    pub(super) fn over(pools: impl IntoIterator<Item = Arc<Pool>>, holds: Holds) -> Arc<Self> {
        let pools = pools.into_iter().map(|pool| (pool.config().peer.clone(), pool)).collect();
        Arc::new(Self { pools, ahead: Ahead::default(), holds })
    }

    pub(super) fn pool(&self, tag: PoolTag) -> Option<&Arc<Pool>> {
        self.pools.values().find(|pool| pool.tag() == tag)
    }
}

impl Supply {
    /// From now on this KM leads, with these pools, as long as `holds`.
    pub fn lead(&self, pools: impl IntoIterator<Item = Arc<Pool>>, holds: Holds) {
        let term = Term::over(pools, holds);
        self.drawn.clear();
        *self.term.write().unwrap_or_else(PoisonError::into_inner) = Some(term);
    }

    /// This KM leads no more. What it handed out from memory ends with the term; whoever leads next
    /// burns the rest.
    pub fn resign(&self) {
        *self.term.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The term that goes on, also while it is not sure that this KM leads still.
    pub(super) fn begun(&self) -> Option<Arc<Term>> {
        self.term.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn term(&self) -> Option<Arc<Term>> {
        self.begun().filter(|term| (term.holds)())
    }

    pub(super) fn desk(&self) -> Result<&Arc<dyn Desk>, SupplyError> {
        let desk = self.desk.as_ref();
        desk.ok_or_else(|| SupplyError::NotLed("this one has stopped".to_owned()))
    }

    /// Whether this KM leads.
    pub fn leads(&self) -> bool {
        self.term().is_some()
    }

    /// Does it here or at the desk, again as long as nobody leads.
    pub(super) async fn where_led<T, F>(
        &self,
        act: impl Fn(Option<Arc<Term>>) -> F,
    ) -> Result<T, SupplyError>
    where
        F: Future<Output = Result<T, SupplyError>>,
    {
        let until = Instant::now() + REQUEST_DEADLINE;
        loop {
            let term = self.term();
            let done = match &term {
                // This KM's own desk could say no more.
                None if self.begun().is_some() => Err(lost()),
                _ => act(term.clone()).await,
            };
            // What was denied from memory while the lead was lost may be there all the same.
            let stale = term.is_some_and(|term| !(term.holds)());
            let done = match done {
                Err(
                    SupplyError::Collect(_)
                    | SupplyError::NoKeys(_)
                    | SupplyError::BelowGrade { .. },
                ) if stale => Err(lost()),
                done => done,
            };
            match done {
                Err(SupplyError::NotLed(_)) if Instant::now() < until => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                done => return done,
            }
        }
    }
}

pub(super) fn lost() -> SupplyError {
    SupplyError::NotLed("the lead was lost meanwhile".to_owned())
}
