//! The life of an epoch. Enter through [`EpochState::after`].

use serde::{Deserialize, Serialize};

use crate::hsm::KekId;

/// Where an epoch is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpochState {
    /// New data is sealed under it. There is exactly one.
    Active,
    /// It seals nothing more; what it sealed is being sealed anew under the active one.
    Retiring,
    /// Two operators approved: its KEK is being destroyed, and will be after a crash too.
    Destroying,
    /// Its KEK is gone from the token.
    Destroyed,
}

/// What can happen to an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochStep {
    /// A newer one became active.
    Retire,
    /// It is empty, and the second operator approved.
    Decide,
    /// The token does not hold its KEK any more.
    Destroy,
}

/// A step the life of an epoch does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an epoch that is {from:?} cannot {step:?}")]
pub struct BadEpochStep {
    /// Its state.
    pub from: EpochState,
    /// What was asked.
    pub step: EpochStep,
}

impl EpochState {
    /// The one table of an epoch's life.
    ///
    /// # Errors
    /// Any step that is not in it.
    pub fn after(self, step: EpochStep) -> Result<Self, BadEpochStep> {
        use {EpochState::*, EpochStep::*};
        Ok(match (self, step) {
            (Active, Retire) => Retiring,
            (Retiring, Decide) => Destroying,
            (Destroying, Destroy) => Destroyed,
            (from, step) => return Err(BadEpochStep { from, step }),
        })
    }

    /// Whether the token must hold its KEK.
    pub fn needs_kek(self) -> bool {
        matches!(self, Self::Active | Self::Retiring)
    }
}

/// One operator's approval of a destruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The identity of the operator's certificate.
    pub operator: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// One epoch as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its number; a newer epoch has a higher one.
    pub number: u64,
    /// Its sealing KEK.
    pub kek: KekId,
    /// Milliseconds since the Unix epoch when this KM first knew it.
    pub made_ms: u64,
    /// Where it is in its life.
    pub state: EpochState,
    /// Seals set aside ahead of use: it never made more, over all restarts.
    pub seals: u64,
    /// Approvals of its destruction: none, one that waits for another, or the two.
    pub approvals: Vec<Approval>,
    /// Milliseconds since the Unix epoch when its KEK was seen to be gone.
    pub destroyed_ms: Option<u64>,
    /// Of a store that several KMs share: it retired, and nothing was found under it for a while, so that
    /// tokens need its KEK no more.
    pub swept: bool,
}

impl Epoch {
    /// A new active epoch.
    pub(super) fn new(number: u64, kek: KekId, made_ms: u64) -> Self {
        let (state, approvals) = (EpochState::Active, Vec::new());
        let (seals, destroyed_ms, swept) = (0, None, false);
        Self { number, kek, made_ms, state, seals, approvals, destroyed_ms, swept }
    }

    /// The epoch after `step`.
    pub(super) fn after(&self, step: EpochStep) -> Result<Self, BadEpochStep> {
        Ok(Self { state: self.state.after(step)?, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_destroyed_only_after_it_retired_and_was_decided_on() {
        use {EpochState::*, EpochStep::*};
        let all = [Active, Retiring, Destroying, Destroyed];
        for from in all {
            for step in [Retire, Decide, Destroy] {
                let expected = match (from, step) {
                    (Active, Retire) => Ok(Retiring),
                    (Retiring, Decide) => Ok(Destroying),
                    (Destroying, Destroy) => Ok(Destroyed),
                    (from, step) => Err(BadEpochStep { from, step }),
                };
                assert_eq!(from.after(step), expected);
            }
        }
        assert_eq!(all.map(EpochState::needs_kek), [true, true, false, false]);
    }
}
