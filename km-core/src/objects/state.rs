//! The life of a managed object. Enter through [`ObjectState::after`].

use serde::{Deserialize, Serialize};

/// State of a managed object (KMIP, "State" attribute).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ObjectState {
    /// Not to be used yet.
    PreActive,
    /// In use.
    Active,
    /// Only to process what was protected before.
    Deactivated,
    /// Known or feared to be disclosed.
    Compromised,
    /// Its bytes are gone.
    Destroyed,
    /// Disclosed, and its bytes are gone.
    DestroyedCompromised,
}

/// What can happen to a managed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectStep {
    /// Activate, or its activation date came.
    Activate,
    /// Revoke for any reason but compromise, or its deactivation date came.
    Deactivate,
    /// Revoke for compromise.
    Compromise,
    /// Destroy.
    Destroy,
}

/// A step the life of an object does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an object that is {from:?} cannot {step:?}")]
pub struct BadObjectStep {
    /// Its state.
    pub from: ObjectState,
    /// What was asked.
    pub step: ObjectStep,
}

impl ObjectState {
    /// The one table of an object's life (KMIP 1.0 to 2.1, state transitions).
    pub fn after(self, step: ObjectStep) -> Result<Self, BadObjectStep> {
        use {ObjectState::*, ObjectStep as Step};
        Ok(match (self, step) {
            (PreActive, Step::Activate) => Active,
            (Active, Step::Deactivate) => Deactivated,
            (PreActive | Active | Deactivated, Step::Compromise) => Compromised,
            (PreActive | Deactivated, Step::Destroy) => Destroyed,
            (Compromised, Step::Destroy) => DestroyedCompromised,
            (Destroyed, Step::Compromise) => DestroyedCompromised,
            (from, step) => return Err(BadObjectStep { from, step }),
        })
    }

    /// Whether the bytes are gone.
    pub fn is_destroyed(self) -> bool {
        matches!(self, Self::Destroyed | Self::DestroyedCompromised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_object_must_be_revoked_before_it_is_destroyed() {
        use ObjectState::*;
        assert!(Active.after(ObjectStep::Destroy).is_err());
        assert_eq!(Active.after(ObjectStep::Deactivate).unwrap(), Deactivated);
        assert_eq!(Deactivated.after(ObjectStep::Destroy).unwrap(), Destroyed);
        assert_eq!(Compromised.after(ObjectStep::Destroy).unwrap(), DestroyedCompromised);
        assert!(Destroyed.after(ObjectStep::Activate).is_err());
    }
}
