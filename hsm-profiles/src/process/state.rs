//! What is known of the tokens: how each one stands, and the KEK that all must hold.

use std::sync::{PoisonError, RwLock};

use km_core::hsm::{HsmStatus, KekId, KekInfo};
use tokio::sync::Notify;

use crate::link::Known;

/// Whether a token is used, as an electrical breaker would say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaker {
    /// It works and is used.
    Closed,
    /// Its worker is being started, or tries the token: nobody is sent there unless nothing else
    /// works.
    HalfOpen,
    /// It does not work, and nothing is sent there.
    Open,
}

/// One token as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Whether it is used.
    pub breaker: Breaker,
    /// How often its worker process has been started again.
    pub restarts: u64,
    /// What the token itself says; `ready` also counts whether its KEKs fit the others'.
    pub status: HsmStatus,
}

/// What all members of a KM share.
#[derive(Default)]
pub(super) struct Common {
    /// The KEK that seals; empty until the first token is open.
    current: RwLock<Option<KekId>>,
    /// Told after every change of a member.
    pub(super) changed: Notify,
}

impl Common {
    pub(super) fn current(&self) -> Option<KekId> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_current_in(&self, keks: &[KekInfo]) -> bool {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().is_some_and(|current| keks.iter().any(|kek| kek.id == *current))
    }

    /// A token that holds the KEK in use may bring a newer one; any other set is not followed.
    pub(super) fn learn(&self, known: &Known) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let holds = |current: &KekId| known.keks.iter().any(|kek| kek.id == *current);
        if current.as_ref().is_none_or(holds) && known.sealing.is_some() {
            current.clone_from(&known.sealing);
        }
    }
}
