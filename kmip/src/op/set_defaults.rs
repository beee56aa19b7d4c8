//! Set Defaults: what new objects get that their requests do not say (2.1). (KMIP 2.1, 6.1 and 7)

use super::delegated_login::ObjectGroups;
use crate::attribute::Attributes;
use crate::enums::ObjectType;
use crate::wire::wire_struct;

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// What holds from now on; absent: nothing.
        defaults: opt DefaultsInformation = DefaultsInformation @ V2_0,
    }
}

wire_struct! {
    /// Defaults of several object types.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct DefaultsInformation {
        /// Defaults.
        list: many ObjectDefaults = ObjectDefaults @ V2_0,
    }
}

wire_struct! {
    /// What new objects get: of one type, or of several (2.1).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ObjectDefaults {
        /// One type.
        object_type: opt ObjectType = ObjectType @ V2_0,
        /// Several types (2.1).
        object_types: opt ObjectTypes = ObjectTypes @ V2_1,
        /// The attributes.
        attributes: one Attributes = Attributes @ V2_0,
        /// Of objects in these groups alone (2.1).
        groups: opt ObjectGroups = ObjectGroups @ V2_1,
    }
}

wire_struct! {
    /// A list of object types.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct ObjectTypes {
        /// The types.
        list: many ObjectType = ObjectType @ V2_1,
    }
}

wire_struct! {
    /// Response payload: nothing.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {}
}
