//! Bits that are missing now, for whoever can bring some: the relay that feeds the pool.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

use super::Pool;
use crate::provenance::Grade;

/// No more than this is remembered as missing, in bytes.
const MOST: u64 = 16 << 20;

/// What applications asked in vain, and what an operator asked for.
#[derive(Default)]
pub(super) struct Wanted {
    heard: AtomicBool,
    missed: AtomicU64,
    its: AtomicU64,
    ordered: AtomicU64,
    news: Notify,
}

/// Bytes somebody waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Applications asked for them, or the other end did.
    pub missed: u64,
    /// Of these, bytes that must claim [`Grade::ItsRelay`].
    pub its: u64,
    /// An operator did.
    pub ordered: u64,
}

impl Pool {
    /// From now on somebody brings what is missing, here or at the other end.
    pub fn hears_demand(&self) {
        self.wanted.heard.store(true, Relaxed);
    }

    /// `bytes` that claim at least `grade` were asked for and not there. Whether it makes sense to wait for
    /// them.
    pub fn miss(&self, bytes: u64, grade: Grade) -> bool {
        add(&self.wanted.missed, bytes);
        if grade == Grade::ItsRelay {
            add(&self.wanted.its, bytes);
        }
        self.wanted.news.notify_waiters();
        self.wanted.heard.load(Relaxed)
    }

    /// An operator orders `bytes`.
    pub fn order(&self, bytes: u64) {
        add(&self.wanted.ordered, bytes);
        self.wanted.news.notify_waiters();
    }

    /// What was asked for since this was last called.
    pub fn take_demand(&self) -> Demand {
        let Wanted { missed, its, ordered, .. } = &self.wanted;
        let [its, missed, ordered] = [its, missed, ordered].map(|sum| sum.swap(0, Relaxed));
        Demand { missed: missed.max(its), its, ordered }
    }

    /// Ends with the first demand after this call.
    pub fn demanded(&self) -> impl Future<Output = ()> + '_ {
        self.wanted.news.notified()
    }
}

fn add(sum: &AtomicU64, bytes: u64) {
    let _ = sum.fetch_update(Relaxed, Relaxed, |now| Some(now.saturating_add(bytes).min(MOST)));
}
