//! A pool key's identifier *is* its address. Enter through [`KeyId`].
//!
//! A UUID version 8 (RFC 9562), 122 bits of ours: pool 24, block 40, offset 16, length 16, check
//! 26. Any front finds the key in O(1) without a table, and an identifier that was never issued
//! (mistyped, damaged, another system's) is recognised as such. The check is no secret and grants
//! nothing: rights come from the run the slice was assigned in ([`crate::run`]).

use std::fmt;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{BlockId, MAX_BLOCK_NUMBER, PoolTag};

/// Some bytes of one block. Equal bytes at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slice {
    /// The block.
    pub block: BlockId,
    /// First byte, counted in the block's usable bytes.
    pub offset: u16,
    /// Length in bytes, at least 1.
    pub len: u16,
}

/// The identifier of a pool key: ETSI 014 `key_ID`, KMIP Unique Identifier, SKIP keyId.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(Uuid);

impl KeyId {
    /// The identifier of the key in `slice`.
    pub fn of(slice: Slice) -> Self {
        let address = u128::from(slice.block.pool.bits()) << 72
            | u128::from(slice.block.number & MAX_BLOCK_NUMBER) << 32
            | u128::from(slice.offset) << 16
            | u128::from(slice.len);
        Self(pack(address << CHECK_BITS | u128::from(check(address))))
    }

    /// Reads an identifier in UUID text form; `None` when no qkm ever issued it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_uuid(Uuid::try_parse(text).ok()?)
    }

    /// As [`KeyId::parse`], from a UUID.
    pub fn from_uuid(uuid: Uuid) -> Option<Self> {
        let bits = unpack(uuid)?;
        let address = bits >> CHECK_BITS;
        let stated = (bits & ((1 << CHECK_BITS) - 1)) as u32;
        let id = Self(uuid);
        (stated == check(address) && id.slice().len > 0).then_some(id)
    }

    /// Where the key's bytes are.
    pub fn slice(self) -> Slice {
        let address = unpack(self.0).unwrap_or_default() >> CHECK_BITS;
        Slice {
            block: BlockId {
                pool: PoolTag::from_bits((address >> 72) as u32),
                number: (address >> 32) as u64 & MAX_BLOCK_NUMBER,
            },
            offset: (address >> 16) as u16,
            len: address as u16,
        }
    }

    /// As a UUID.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

const CHECK_BITS: u32 = 26;

fn check(address: u128) -> u32 {
    let mut input = [0u8; 24];
    input[..8].copy_from_slice(b"qkm key\0");
    input[8..].copy_from_slice(&address.to_be_bytes());
    let hash = digest::digest(&digest::SHA256, &input);
    let h = hash.as_ref();
    u32::from_be_bytes([h[0], h[1], h[2], h[3]]) >> (32 - CHECK_BITS)
}

/// Spreads 122 bits around the version (8) and variant (2) of a UUID.
fn pack(bits: u128) -> Uuid {
    let a = bits >> 74;
    let b = (bits >> 62) & 0xFFF;
    let c = bits & ((1 << 62) - 1);
    Uuid::from_u128(a << 80 | 0x8 << 76 | b << 64 | 0b10 << 62 | c)
}

fn unpack(uuid: Uuid) -> Option<u128> {
    let bits = uuid.as_u128();
    let is_v8 = (bits >> 76) & 0xF == 0x8 && (bits >> 62) & 0b11 == 0b10;
    is_v8.then_some((bits >> 80) << 74 | ((bits >> 64) & 0xFFF) << 62 | (bits & ((1 << 62) - 1)))
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn address_survives(pool in 0u32..1 << 24, number in 0..=MAX_BLOCK_NUMBER,
                            offset in any::<u16>(), len in 1u16..) {
            let slice = Slice { block: BlockId { pool: PoolTag::from_bits(pool), number }, offset, len };
            let id = KeyId::of(slice);
            prop_assert_eq!(id.slice(), slice);
            prop_assert_eq!(KeyId::parse(&id.to_string()), Some(id));
            prop_assert_eq!(id.uuid().get_version_num(), 8);
        }

        #[test]
        fn one_changed_bit_is_noticed_unless_the_check_collides(bit in 0usize..128) {
            let block = BlockId { pool: PoolTag::from_bits(0x123456), number: 77 };
            let id = KeyId::of(Slice { block, offset: 64, len: 32 });
            let changed = Uuid::from_u128(id.uuid().as_u128() ^ (1 << bit));
            prop_assert_eq!(KeyId::from_uuid(changed), None);
        }
    }
}
