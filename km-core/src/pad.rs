//! Pieces of blocks set apart for the relay: one-time pad, tag keys and hop keys of one direction
//! of a KM link. Enter through [`crate::pool::Pool::lend`].
//!
//! The owner end of a block lends from it as it assigns runs: durable here, then durable at the
//! peer, then used from memory. A span is used over one connection only. When it is through, the
//! owner end says how much of it was pad and how much tag keys; the rest is burned. Both ends take
//! that into their accounts, so these agree to the bit; until the peer said that it did, the owner
//! end repeats it at each connection. After a crash of the owner end the whole span is burned.

use serde::{Deserialize, Serialize};

use crate::{block::MAX_BLOCK, ids::LinkId, material::ClearBytes, provenance::Grade, run::RunId};

/// Where a span is, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PadSpan {
    /// Its block and first byte.
    pub id: RunId,
    /// Bytes; at least 1.
    pub len: u16,
}

impl PadSpan {
    /// First byte after it.
    pub fn end(&self) -> u32 {
        u32::from(self.id.offset) + u32::from(self.len)
    }

    /// Whether it lies inside a block; everything taken from a peer is asked first.
    pub fn sound(&self) -> bool {
        self.len > 0 && self.end() <= MAX_BLOCK as u32
    }
}

/// What became of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PadUse {
    /// The span.
    pub span: PadSpan,
    /// Bytes that hid others, or were sent on as keys.
    pub pad: u16,
    /// Bytes that were keys of tags.
    pub tag: u16,
}

impl PadUse {
    /// Nothing of it was used.
    pub fn burned(span: PadSpan) -> Self {
        Self { span, pad: 0, tag: 0 }
    }

    /// Bytes that were neither.
    pub fn rest(&self) -> u16 {
        self.span.len.saturating_sub(self.pad).saturating_sub(self.tag)
    }

    /// Whether the parts are not more than the whole.
    pub fn sound(&self) -> bool {
        self.span.sound() && u32::from(self.pad) + u32::from(self.tag) <= u32::from(self.span.len)
    }
}

/// A span with its bytes, at either end.
#[derive(Debug)]
pub struct Pad {
    /// Where it is.
    pub span: PadSpan,
    /// Its bytes.
    pub bytes: ClearBytes,
    /// What may be claimed for them: what they hide is worth no more.
    pub grade: Grade,
    /// The QKD link they came over; of bits that were relayed, none.
    pub link: Option<LinkId>,
}

/// The durable record of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PadRecord {
    /// Ours, in use by the connection that was up; burned if found at a start.
    Lent(PadSpan),
    /// Ours, through; the peer has not said yet that it knows.
    Through(PadUse),
    /// The peer's; it will say what became of it.
    Borrowed(PadSpan),
}
