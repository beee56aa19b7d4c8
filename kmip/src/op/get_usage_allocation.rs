//! Get Usage Allocation: a part of what an object may still be used. (KMIP 2.1, 6.1)

use crate::attribute::UniqueIdentifier;
use crate::wire::wire_struct;

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Request {
        /// The object; absent means the ID placeholder.
        id: opt UniqueIdentifier = UniqueIdentifier @ V1_0,
        /// How much, in the unit of its Usage Limits.
        usage_limits_count: one i64 = UsageLimitsCount @ V1_0,
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
