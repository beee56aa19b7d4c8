//! What a module gave and what went wrong, for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Totals since start. Read with [`Counters::totals`].
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) keys_taken: AtomicU64,
    pub(super) bytes_taken: AtomicU64,
    pub(super) keys_collected: AtomicU64,
    pub(super) bytes_collected: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) bad_keys: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) reconnects: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Keys that `take` gave on.
    pub keys_taken: u64,
    /// Their bytes.
    pub bytes_taken: u64,
    /// Keys that `collect` gave on.
    pub keys_collected: u64,
    /// Their bytes.
    pub bytes_collected: u64,
    /// Keys dropped because their identifier came before.
    pub duplicates: u64,
    /// Keys dropped for an unusable identifier, an identifier not asked for, or a wrong size.
    pub bad_keys: u64,
    /// Requests that ended in no usable answer. "No keys now" and "not known yet" are usable.
    pub errors: u64,
    /// Times the module answered usably again after an error.
    pub reconnects: u64,
}

impl Counters {
    /// The totals now.
    pub fn totals(&self) -> Totals {
        Totals {
            keys_taken: self.keys_taken.load(Relaxed),
            bytes_taken: self.bytes_taken.load(Relaxed),
            keys_collected: self.keys_collected.load(Relaxed),
            bytes_collected: self.bytes_collected.load(Relaxed),
            duplicates: self.duplicates.load(Relaxed),
            bad_keys: self.bad_keys.load(Relaxed),
            errors: self.errors.load(Relaxed),
            reconnects: self.reconnects.load(Relaxed),
        }
    }
}

pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Relaxed);
}
