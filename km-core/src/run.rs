//! Runs: slices of one block assigned ahead to an application pair. Enter through [`RunSpec`].
//!
//! The owner end makes a run durable here and at the peer before it hands out the first key of
//! it, so most requests need neither a write nor a round trip. What a run did not use when it
//! ends is burned.

use serde::{Deserialize, Serialize};

use crate::{
    block::MAX_BLOCK,
    ids::{BlockId, SaeId},
    key_id::{KeyId, Slice},
};

/// Most slave applications of one run (ETSI 014 multicast).
pub const MAX_SLAVES: usize = 16;
/// Most keys in one run.
pub const MAX_RUN_KEYS: u16 = 2048;

/// Names a run: the block and the first byte. No two runs of a pool overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId {
    /// The block.
    pub block: BlockId,
    /// First byte in the block.
    pub offset: u16,
}

/// What the owner end tells the peer about a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Its name and start.
    pub id: RunId,
    /// Bytes in each key, at least 1.
    pub key_len: u16,
    /// Number of keys, 1 to [`MAX_RUN_KEYS`].
    pub count: u16,
    /// The application at the owner end.
    pub master: SaeId,
    /// The applications at the peer that may each collect every key once, sorted.
    pub slaves: Vec<SaeId>,
}

impl RunSpec {
    /// Bytes the run covers.
    pub fn bytes(&self) -> u32 {
        u32::from(self.key_len) * u32::from(self.count)
    }

    /// First byte after the run. Only meaningful when [`RunSpec::sound`].
    pub fn end(&self) -> u32 {
        u32::from(self.id.offset) + self.bytes()
    }

    /// Whether lengths and counts are within bounds; everything taken from a peer is asked first.
    pub fn sound(&self) -> bool {
        self.key_len > 0
            && (1..=MAX_RUN_KEYS).contains(&self.count)
            && self.end() <= MAX_BLOCK as u32
            && (1..=MAX_SLAVES).contains(&self.slaves.len())
            && self.slaves.is_sorted_by(|a, b| a < b)
    }

    /// The slice of key `index`.
    pub fn slice(&self, index: u16) -> Slice {
        let offset = u32::from(self.id.offset) + u32::from(index) * u32::from(self.key_len);
        Slice { block: self.id.block, offset: offset as u16, len: self.key_len }
    }

    /// The identifier of key `index`.
    pub fn key_id(&self, index: u16) -> KeyId {
        KeyId::of(self.slice(index))
    }

    /// Which key of this run `slice` is.
    pub fn index_of(&self, slice: Slice) -> Option<u16> {
        let inside = slice.block == self.id.block
            && slice.len == self.key_len
            && slice.offset >= self.id.offset;
        let distance = slice.offset.checked_sub(self.id.offset)?;
        let index = distance / self.key_len.max(1);
        (inside && distance % self.key_len == 0 && index < self.count).then_some(index)
    }
}

/// The durable record of a run at either end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// What was assigned.
    pub spec: RunSpec,
    /// What this end does with it.
    pub side: Side,
    /// Milliseconds since the Unix epoch after which uncollected keys are burned, as the clock was when the
    /// run was accepted. Who reads it under another clock leaves them half of their time.
    pub expires_ms: u64,
}

/// A run seen from one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// We own the block and hand the keys out. How many is known in memory only: after a crash
    /// the whole rest is burned.
    Issuer,
    /// The peer hands them out; our applications collect by ID.
    Collector {
        /// One bitmap per slave, in the order of `spec.slaves`: keys it was given.
        collected: Vec<Bitmap>,
        /// Keys from here on were never handed out at the owner end and are burned.
        limit: u16,
    },
}

/// A fixed-size set of small numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bitmap(Vec<u64>);

impl Bitmap {
    /// Room for `count` numbers, none in it.
    pub fn new(count: u16) -> Self {
        Self(vec![0; usize::from(count).div_ceil(64)])
    }
    /// Whether `index` is in it; what has no room is not.
    pub fn has(&self, index: u16) -> bool {
        let word = self.0.get(usize::from(index / 64)).copied().unwrap_or(0);
        word >> (index % 64) & 1 == 1
    }
    /// Adds `index`; `false` when it was in it, or has no room.
    pub fn insert(&mut self, index: u16) -> bool {
        let Some(word) = self.0.get_mut(usize::from(index / 64)) else { return false };
        let bit = 1 << (index % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }
    /// Whether every number below `limit` is in it.
    pub fn is_full_below(&self, limit: u16) -> bool {
        let (whole, rest) = (usize::from(limit / 64), limit % 64);
        let last = (1u64 << rest) - 1;
        let rest_in = rest == 0 || self.0.get(whole).is_some_and(|word| word & last == last);
        rest_in && self.0.len() >= whole && self.0[..whole].iter().all(|word| *word == u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::PoolTag;

    fn spec(offset: u16, key_len: u16, count: u16) -> RunSpec {
        let block = BlockId { pool: PoolTag::from_bits(1), number: 9 };
        let (master, slave) = (SaeId::parse("m").unwrap(), SaeId::parse("s").unwrap());
        RunSpec { id: RunId { block, offset }, key_len, count, master, slaves: vec![slave] }
    }

    proptest! {
        #[test]
        fn every_key_of_a_run_is_found_by_its_slice_and_no_other(
            offset in 0u16..1000, key_len in 1u16..64, count in 1u16..500, probe in any::<u16>()
        ) {
            let run = spec(offset, key_len, count);
            prop_assert!(run.sound());
            let index = probe % count;
            prop_assert_eq!(run.index_of(run.slice(index)), Some(index));
            let stray = Slice { block: run.id.block, offset: probe, len: key_len };
            if let Some(found) = run.index_of(stray) {
                prop_assert_eq!(run.slice(found), stray);
            }
        }

        #[test]
        fn full_below_is_what_it_says(limit in 0u16..200, missing in 0u16..200) {
            let mut set = Bitmap::new(200);
            (0..200).filter(|i| *i != missing).for_each(|i| { set.insert(i); });
            prop_assert_eq!(set.is_full_below(limit), missing >= limit);
        }
    }

    #[test]
    fn runs_past_the_block_or_without_slaves_are_unsound() {
        assert!(!spec(65_000, 32, 100).sound());
        assert!(!spec(0, 0, 1).sound());
        assert!(!spec(0, 32, 0).sound());
        assert!(!RunSpec { slaves: vec![], ..spec(0, 32, 1) }.sound());
    }
}
