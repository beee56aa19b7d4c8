//! Whether both ends hold the same bits (clause 6.2a), without telling anyone which.
//!
//! A block's first 64 bytes of module key are spent as two one-time Poly1305 keys: the proposer's
//! tag and the answer's. The tags cover the block's description and all its bits. If the ends
//! differ anywhere, the tags differ but for a chance of at most 8·⌈L/16⌉ / 2^106 (Bernstein 2005,
//! "The Poly1305-AES message-authentication code", theorem 3.3): below 2^-88 for the largest block
//! with the longest description, 2^-90 when only the bits differ. Each key masks its one tag with 128 uniform bits that are never used again, so a tag seen on the
//! wire says nothing about the bits; a plain hash would.

use km_core::{
    block::{MAX_BLOCK, TAG_KEYS},
    ids::PoolTag,
    material::ClearBytes,
    module::ModuleKey,
    provenance::CombineMethod,
};
use poly1305::{Key, Poly1305, universal_hash::KeyInit};
use subtle::ConstantTimeEq;
use wiped::Wiped;
use zeroize::Zeroizing;

use crate::{
    combine::{KemSecret, combine, combine_tag_keys},
    frame::Proposal,
};

/// Most module keys in one block.
pub const MAX_KEYS: usize = 4096;
/// Fewest bytes a proposal may carry: the tag keys and one shortest key.
pub const MIN_RAW: usize = TAG_KEYS + 8;
/// Most bytes a proposal may carry.
pub const MAX_RAW: usize = TAG_KEYS + MAX_BLOCK;

/// A one-time tag.
pub type Tag = [u8; 16];

/// The module bits of one block at one end: two tag keys, then the usable bits.
pub struct Raw(ClearBytes);

impl Raw {
    /// Joins module keys in order. `None` when the total is out of bounds.
    pub fn join(keys: &[ModuleKey]) -> Option<Self> {
        let total: usize = keys.iter().map(|key| key.bytes.len()).sum();
        if !(MIN_RAW..=MAX_RAW).contains(&total) {
            return None;
        }
        let mut joined = Vec::with_capacity(total);
        for key in keys {
            key.bytes.expose(|bytes| joined.extend_from_slice(bytes));
        }
        Some(Self(ClearBytes::from_vec(joined)))
    }

    /// The same with combined bits, and tag keys that only the holders of the secret know. `None` when
    /// they cannot be combined.
    pub fn combined(
        &self,
        method: CombineMethod,
        secret: &KemSecret,
        pool: PoolTag,
        number: u64,
    ) -> Option<Self> {
        let bits = self.0.slice(TAG_KEYS..self.0.len())?;
        let combined = combine(method, secret, pool, number, &bits)?;
        let tag_keys = combine_tag_keys(secret, pool, number, &self.0.slice(0..TAG_KEYS)?)?;
        let mut raw = Vec::with_capacity(self.0.len());
        tag_keys.expose(|keys| raw.extend_from_slice(keys));
        combined.expose(|bits| raw.extend_from_slice(bits));
        Some(Self(ClearBytes::from_vec(raw)))
    }

    /// Total bytes, tag keys included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing; never, by construction.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The proposer's tag over the description and the bits.
    pub fn proposal_tag(&self, proposal: &Proposal) -> Tag {
        let described = postcard::to_extend(
            &(
                proposal.number,
                &proposal.owner,
                &proposal.provenance,
                &proposal.combined,
                &proposal.keys,
            ),
            b"qkm propose 1\0".to_vec(),
        );
        let described = described.unwrap_or_default();
        self.0.expose(|raw| {
            let bits = &raw[TAG_KEYS..];
            let mut message = Wiped::with_capacity(described.len() + bits.len() + 8);
            message.append(&(described.len() as u64).to_be_bytes());
            message.append(&described);
            message.append(bits);
            one_time(&raw[..TAG_KEYS / 2], &message)
        })
    }

    /// The answer's tag: equal, sealed and durable.
    pub fn confirm_tag(&self, number: u64) -> Tag {
        let message = [b"qkm confirm 1\0".as_slice(), &number.to_be_bytes()].concat();
        self.0.expose(|raw| one_time(&raw[TAG_KEYS / 2..TAG_KEYS], &message))
    }

    /// The usable bits; the tag keys are overwritten with the rest.
    pub fn into_bits(self) -> ClearBytes {
        self.0.expose(|raw| ClearBytes::copy_from(&raw[TAG_KEYS..]))
    }
}

/// A Poly1305 tag under a key of 32 bytes that is used once.
pub(crate) fn one_time(key: &[u8], message: &[u8]) -> Tag {
    let mut one_time_key = Zeroizing::new([0u8; 32]);
    one_time_key.copy_from_slice(key);
    let key: &Key = (&*one_time_key).into();
    Poly1305::new(key).compute_unpadded(message).into()
}

/// Compares tags in constant time.
pub fn equal(a: &Tag, b: &Tag) -> bool {
    a.ct_eq(b).into()
}
