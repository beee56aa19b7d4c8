//! Bits that are missing now, for whoever can bring some: the relay that feeds the pool.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

use super::Pool;

/// No more than this is remembered as missing, in bytes.
const MOST: u64 = 16 << 20;

/// What applications asked in vain, and what an operator asked for.
#[derive(Default)]
pub(super) struct Wanted {
    heard: AtomicBool,
    missed: AtomicU64,
    ordered: AtomicU64,
    news: Notify,
}

/// Bytes somebody waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Applications asked for them, or the other end did.
    pub missed: u64,
    /// An operator did.
    pub ordered: u64,
}

impl Pool {
    /// From now on somebody brings what is missing, here or at the other end.
    pub fn hears_demand(&self) {
        self.wanted.heard.store(true, Relaxed);
    }

    /// `bytes` were asked for and not there. Whether it makes sense to wait for them.
    pub fn miss(&self, bytes: u64) -> bool {
        add(&self.wanted.missed, bytes);
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
        let (missed, ordered) = (&self.wanted.missed, &self.wanted.ordered);
        Demand { missed: missed.swap(0, Relaxed), ordered: ordered.swap(0, Relaxed) }
    }

    /// Ends with the first demand after this call.
    pub fn demanded(&self) -> impl Future<Output = ()> + '_ {
        self.wanted.news.notified()
    }
}

fn add(sum: &AtomicU64, bytes: u64) {
    let _ = sum.fetch_update(Relaxed, Relaxed, |now| Some(now.saturating_add(bytes).min(MOST)));
}
