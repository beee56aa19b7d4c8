//! What the outside sees of the token's state. Enter through [`Health`]; nothing here blocks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// Ready or not, since when, and why.
pub(crate) struct Health {
    start: Instant,
    ready: AtomicBool,
    /// The token's generator failed its tests: whatever else it does, it is not ready.
    unsound: AtomicBool,
    last_ok_ms: AtomicU64,
    changes: AtomicU64,
    shown: Mutex<Shown>,
}

/// Names and the line for a person.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    pub(crate) token: String,
    pub(crate) serial: String,
    pub(crate) library: String,
    pub(crate) trouble: String,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            ready: AtomicBool::new(false),
            unsound: AtomicBool::new(false),
            last_ok_ms: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            shown: Mutex::new(Shown::default()),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(crate) fn shown(&self) -> Shown {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts what may have changed for those who look at the token.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// To be called after a change.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn connected(&self, token: &str, serial: &str, library: &str) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        token.clone_into(&mut shown.token);
        serial.clone_into(&mut shown.serial);
        library.clone_into(&mut shown.library);
        drop(shown);
        self.changed();
    }

    /// An operation succeeded. The common case is one store and one load.
    pub(crate) fn succeeded(&self) {
        self.last_ok_ms.store(self.now_ms(), Ordering::Relaxed);
        if !self.is_ready() && !self.unsound.load(Ordering::Acquire) {
            self.ready.store(true, Ordering::Release);
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.trouble.clear();
            info!(token = %shown.token, serial = %shown.serial, "HSM ready");
            drop(shown);
            self.changed();
        }
    }

    /// The token does not work; `why` is for the operator.
    pub(crate) fn failed(&self, why: &str) {
        let was_ready = self.ready.swap(false, Ordering::AcqRel);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if was_ready || shown.trouble != why {
            warn!(token = %shown.token, why, "HSM not ready");
        }
        why.clone_into(&mut shown.trouble);
        drop(shown);
        self.changed();
    }

    /// What the tests of the token's generator found last.
    pub(crate) fn generator(&self, found: Result<(), &str>) {
        self.unsound.store(found.is_err(), Ordering::Release);
        if let Err(why) = found {
            self.failed(why);
        }
    }

    /// Whether nothing at all succeeded within the last `period`.
    pub(crate) fn silent_for(&self, period: Duration) -> bool {
        let last = Duration::from_millis(self.last_ok_ms.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last) > period
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
