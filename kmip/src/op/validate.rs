//! Validate: whether certificates form a chain that holds. (KMIP 2.1, 6.1)

use crate::attribute::UniqueIdentifier;
use crate::enums::ValidityIndicator;
use crate::object::Certificate;
use crate::wire::{DateTime, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// Certificates that come with the request.
        certificates: many Certificate = Certificate @ V1_0,
        /// Certificates the server has.
        ids: many UniqueIdentifier = UniqueIdentifier @ V1_0,
        /// When the chain is to hold; absent means now.
        date: opt DateTime = ValidityDate @ V1_0,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {
        /// Whether it holds.
        validity: one ValidityIndicator = ValidityIndicator @ V1_0,
    }
}
