//! Set Constraints: what new objects must be like (2.1). (KMIP 2.1, 6.1 and 7)

use super::delegated_login::ObjectGroups;
use super::set_defaults::ObjectTypes;
use crate::attribute::Attributes;
use crate::wire::wire_struct;

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// What holds from now on.
        constraints: one Constraints = Constraints @ V2_1,
    }
}

wire_struct! {
    /// All constraints.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Constraints {
        /// Each of them.
        list: many Constraint = Constraint @ V2_1,
    }
}

wire_struct! {
    /// What new objects must be like; what is absent is not bounded.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Constraint {
        /// Of these types alone.
        object_types: opt ObjectTypes = ObjectTypes @ V2_1,
        /// Of objects in these groups alone.
        groups: opt ObjectGroups = ObjectGroups @ V2_1,
        /// Their attributes.
        attributes: opt Attributes = Attributes @ V2_1,
    }
}

wire_struct! {
    /// Response payload: nothing.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {}
}
