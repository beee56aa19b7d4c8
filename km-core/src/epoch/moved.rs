//! What becomes of one record when an epoch retires. Enter through [`Moved`].

use super::{Keeper, locked};
use crate::{
    hsm::HsmError,
    vault::{Kind, Vault},
};

/// Records whose alarm is raised by name, at most; more of them have one cause.
const MOST_TOLD: usize = 100;

/// What became of one record under a retiring epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// It is under the active epoch now, durably.
    Done,
    /// It was consumed or changed at the same time; the next look tells.
    Changed,
    /// Its KEK does not open it: it is under no epoch at all.
    Refused,
    /// The token, as it is set up, does not seal it anew: it lacks the key that wraps it, or its
    /// profile the way to. It stays, and so must its KEK.
    Stuck(Stuck),
}

/// A record that only a person can get moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stuck {
    kind: Kind,
    name: String,
    error: HsmError,
}

impl Moved {
    /// What `error` means for the record `name`.
    ///
    /// # Errors
    /// `error` itself, when it says nothing of this record.
    pub(crate) fn failed(
        vault: &Vault,
        kind: Kind,
        name: &str,
        error: HsmError,
    ) -> Result<Self, HsmError> {
        match error {
            HsmError::Refused(_) => {
                vault.note_refusal(kind, name, &error);
                Ok(Self::Refused)
            }
            HsmError::Unsupported(_) | HsmError::Setup(_) => {
                Ok(Self::Stuck(Stuck { kind, name: name.to_owned(), error }))
            }
            error => Err(error),
        }
    }
}

impl Keeper {
    /// Raises an alarm for a record that is stuck, once: each look finds it again.
    ///
    /// # Errors
    /// When nothing can be sealed at all: then no record is to blame.
    pub(super) fn tell(&self, stuck: &Stuck) -> Result<(), HsmError> {
        let Stuck { kind, name, error } = stuck;
        if !self.vault.status().ready || self.epochs.active().left() == 0 {
            return Err(error.clone());
        }
        let mut told = locked(&self.stuck);
        if told.len() < MOST_TOLD && told.insert(format!("{} {name}", kind.name())) {
            tracing::error!(record = kind.name(), %name, %error, alarm = "reseal-stuck",
                "the HSM does not seal it under the new KEK epoch: the old one cannot end");
        }
        Ok(())
    }
}
