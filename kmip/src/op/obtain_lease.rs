//! Obtain Lease: how long what a client knows of an object may be relied on. (KMIP 2.1, 6.1)

use crate::attribute::UniqueIdentifier;
use crate::wire::{DateTime, Interval, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// The object; absent means the ID placeholder.
        id: opt UniqueIdentifier = UniqueIdentifier @ V1_0,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {
        /// The object.
        id: one String = UniqueIdentifier @ V1_0,
        /// From now on.
        lease_time: one Interval = LeaseTime @ V1_0,
        /// When the object changed last.
        last_change_date: one DateTime = LastChangeDate @ V1_0,
    }
}
