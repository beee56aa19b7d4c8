//! Login: a ticket that stands for the client in later requests. (KMIP 2.1, 6.1)

use crate::attribute::UsageLimits;
use crate::enums::TicketType;
use crate::tag::Tag;
use crate::ttlv::{Item, Result, Type, Writer};
use crate::version::Version;
use crate::wire::{DateTime, Field, Interval, SecretBytes, wire_struct};

/// How long a ticket is wanted: for some time, or until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// For so long.
    For(Interval),
    /// Until then.
    Until(DateTime),
}

impl Lease {
    /// Seconds from `now`, which is in seconds since 1970.
    pub fn seconds(self, now: i64) -> u32 {
        match self {
            Self::For(Interval(seconds)) => seconds,
            Self::Until(DateTime(then)) => {
                u32::try_from(then.saturating_sub(now).max(0)).unwrap_or(u32::MAX)
            }
        }
    }
}

impl Field for Lease {
    fn read(item: &Item<'_>) -> Result<Self> {
        match item.kind() {
            Type::DateTime => Field::read(item).map(Self::Until),
            _ => Field::read(item).map(Self::For),
        }
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        match self {
            Self::For(interval) => interval.write(w, tag, version),
            Self::Until(date) => date.write(w, tag, version),
        }
    }
}

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// How long the ticket is wanted.
        lease_time: opt Lease = LeaseTime @ V2_0,
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
