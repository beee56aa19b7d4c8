//! How often the active epoch may still seal, and who has something sealed in hand.
//!
//! **The bound.** Nonces are 96 random bits; NIST SP 800-38D (8.3) allows 2³² seals under one key.
//! Seals are set aside in the epoch's record before they are made, so the bound holds over
//! restarts: what a process did not use of them is lost with it. Probes of the token's health seal
//! as well and are not counted here; [`MOST_SEALS`] leaves them room for decades.
//!
//! **Pins.** What was sealed and is not stored yet cannot be found by a scan. It holds a [`Pin`];
//! an epoch that retired is looked through only when its last pin is gone.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::hsm::KekId;

/// Seals under one KEK, at most: 2³², less 2²⁸ for the token's own probes.
pub const MOST_SEALS: u64 = (1 << 32) - (1 << 28);

/// The right to seal under one KEK.
#[derive(Debug)]
pub(crate) struct Sealing {
    pub(super) number: u64,
    pub(crate) kek: KekId,
    /// Several KMs share the store: what is sealed is stored only while the epoch is not closed.
    pub(super) shared: bool,
    left: AtomicU64,
}

impl Sealing {
    /// With nothing set aside yet.
    pub(super) fn new(number: u64, kek: KekId, shared: bool) -> Arc<Self> {
        Arc::new(Self { number, kek, shared, left: AtomicU64::new(0) })
    }

    /// Takes one of the seals set aside.
    pub(super) fn take(&self) -> bool {
        self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    pub(super) fn add(&self, seals: u64) {
        self.left.fetch_add(seals, Relaxed);
    }

    pub(super) fn left(&self) -> u64 {
        self.left.load(Relaxed)
    }
}

/// Keeps the epoch of something sealed from being taken for empty, until it is stored. Of no
/// meaning in a comparison, and never stored itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pin {
    pub(super) held: Option<Arc<Sealing>>,
}

impl Pin {
    pub(crate) fn of(sealing: Arc<Sealing>) -> Self {
        Self { held: Some(sealing) }
    }
}

impl PartialEq for Pin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Pin {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_seals_are_taken_than_were_set_aside() {
        let sealing = Sealing::new(1, KekId("01".into()), false);
        assert!(!sealing.take());
        sealing.add(2);
        assert!(sealing.take() && sealing.take() && !sealing.take());
        assert_eq!(sealing.left(), 0);
    }
}
