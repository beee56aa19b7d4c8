//! Revoke: takes an object out of use, with a reason. (KMIP 2.1, 6.1)

use crate::attribute::{RevocationReason, UniqueIdentifier};
use crate::wire::{DateTime, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Request {
        /// The object; absent means the ID placeholder.
        id: opt UniqueIdentifier = UniqueIdentifier @ V1_0,
        /// Why.
        reason: one RevocationReason = RevocationReason @ V1_0,
        /// When it was compromised, if it was.
        compromise_occurrence_date: opt DateTime = CompromiseOccurrenceDate @ V1_0,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {
        /// The object.
        id: one String = UniqueIdentifier @ V1_0,
    }
}
