//! Delegated Login: a ticket with which somebody else may do a part of what the client may.
//! (KMIP 2.1, 6.1)

use super::login::{Lease, Ticket};
use super::query_asynchronous_requests::Operations;
use crate::attribute::{UniqueIdentifier, UsageLimits};
use crate::wire::wire_struct;

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Request {
        /// How long the ticket is wanted.
        lease_time: opt Lease = LeaseTime @ V2_0,
        /// For how many requests it is wanted.
        request_count: opt i32 = RequestCount @ V2_0,
        /// How much may be protected under it.
        usage_limits: opt UsageLimits = UsageLimits @ V2_0,
        /// What its holder may do.
        rights: one Rights = Rights @ V2_0,
    }
}

wire_struct! {
    /// What is allowed: what any of them allows.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Rights {
        /// The rights.
        list: many Right = Right @ V2_0,
    }
}

wire_struct! {
    /// One right: these operations on these objects; what is absent is not bounded.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Right {
        /// How much may be protected under it.
        usage_limits: opt UsageLimits = UsageLimits @ V2_0,
        /// The operations.
        operations: opt Operations = Operations @ V2_0,
        /// The objects.
        objects: opt Objects = Objects @ V2_0,
        /// The groups of objects (2.1).
        groups: opt ObjectGroups = ObjectGroups @ V2_1,
    }
}

wire_struct! {
    /// A list of objects.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Objects {
        /// Their identifiers.
        list: many UniqueIdentifier = UniqueIdentifier @ V2_0,
    }
}

wire_struct! {
    /// A list of groups.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct ObjectGroups {
        /// Their names.
        list: many String = ObjectGroup @ V2_1,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Debug)]
    pub struct Response {
        /// The ticket.
        ticket: one Ticket = Ticket @ V2_0,
    }
}
