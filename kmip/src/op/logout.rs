//! Logout: a ticket is worth nothing any more. (KMIP 2.1, 6.1)

use super::login::Ticket;
use crate::wire::wire_struct;

wire_struct! {
    /// Request payload.
    #[derive(Debug)]
    pub struct Request {
        /// The ticket.
        ticket: one Ticket = Ticket @ V2_0,
    }
}

wire_struct! {
    /// Response payload: nothing.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {}
}
