//! Get Constraints: what new objects must be like (2.1). (KMIP 2.1, 6.1)

use super::set_constraints::Constraints;
use crate::wire::wire_struct;

wire_struct! {
    /// Request payload: nothing.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {}
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {
        /// What holds.
        constraints: one Constraints = Constraints @ V2_1,
    }
}
