//! The account of every bit of a pool. Enter through [`Ledger::balanced_with`].
//!
//! Invariant, after every durable commit and over every crash:
//! absorbed = stored + pad + tag + delivered + burned + rejected.

use serde::{Deserialize, Serialize};

/// Running totals of one pool at one KM, in bits. `stored` is not kept: it follows from the
/// blocks and runs, and must equal what the totals leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Taken in from modules or relay.
    pub absorbed: u64,
    /// Spent as one-time pad.
    pub pad: u64,
    /// Spent as keys of authentication tags.
    pub tag: u64,
    /// Handed to applications here.
    pub delivered: u64,
    /// Erased undelivered: on doubt, at the end of a run, or too short to use.
    pub burned: u64,
    /// Refused at agreement: the ends differed, or one did not have or store the bits.
    pub rejected: u64,
}

impl Ledger {
    /// Bits that must still be stored for the account to balance; `None` when more left than came.
    pub fn due(&self) -> Option<u64> {
        self.absorbed
            .checked_sub(self.pad + self.tag + self.delivered + self.burned + self.rejected)
    }

    /// Whether the account balances with `stored` bits found in blocks and runs.
    pub fn balanced_with(&self, stored: u64) -> bool {
        self.due() == Some(stored)
    }

    /// Adds another account's movements to this one.
    pub fn add(&mut self, change: &Ledger) {
        self.absorbed += change.absorbed;
        self.pad += change.pad;
        self.tag += change.tag;
        self.delivered += change.delivered;
        self.burned += change.burned;
        self.rejected += change.rejected;
    }
}

/// Bytes to bits.
pub(crate) fn bits(bytes: impl Into<u64>) -> u64 {
    bytes.into() * 8
}
