//! Login: a ticket that stands for the client in later requests. (KMIP 2.1, 6.1)

use crate::attribute::UsageLimits;
use crate::enums::TicketType;
use crate::wire::{Interval, SecretBytes, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// How long the ticket is wanted.
        lease_time: opt Interval = LeaseTime @ V2_0,
        /// For how many requests it is wanted.
        request_count: opt i32 = RequestCount @ V2_0,
        /// How much may be protected under it.
        usage_limits: opt UsageLimits = UsageLimits @ V2_0,
    }
}

wire_struct! {
    /// A ticket.
    #[derive(Debug)]
    pub struct Ticket {
        /// Kind.
        kind: one TicketType = TicketType @ V2_0,
        /// What proves it; secret.
        value: one SecretBytes = TicketValue @ V2_0,
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
