//! Check: whether an object may be used so. (KMIP 2.1, 6.1)

use crate::attribute::UniqueIdentifier;
use crate::wire::{Interval, wire_struct};

wire_struct! {
    /// Request payload: the use that is meant.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// The object; absent means the ID placeholder.
        id: opt UniqueIdentifier = UniqueIdentifier @ V1_0,
        /// How much is to be used up, in the unit of its Usage Limits.
        usage_limits_count: opt i64 = UsageLimitsCount @ V1_0,
        /// What for.
        usage_mask: opt i32 = CryptographicUsageMask @ V1_0,
        /// For how long.
        lease_time: opt Interval = LeaseTime @ V1_0,
    }
}

wire_struct! {
    /// Response payload: what of the use is not allowed, when the check is no error.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {
        /// The object.
        id: one String = UniqueIdentifier @ V1_0,
        /// How much may be used up.
        usage_limits_count: opt i64 = UsageLimitsCount @ V1_0,
        /// What it may be used for.
        usage_mask: opt i32 = CryptographicUsageMask @ V1_0,
        /// For how long.
        lease_time: opt Interval = LeaseTime @ V1_0,
    }
}
