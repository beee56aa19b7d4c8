//! Parts of a key that was split.

use super::KeyBlock;
use crate::enums::SplitKeyMethod;
use crate::wire::{BigInteger, wire_struct};

wire_struct! {
    /// One part of a key; `threshold` of the `parts` parts give the key back.
    #[derive(Debug)]
    pub struct SplitKey {
        /// Number of parts.
        parts: one i32 = SplitKeyParts @ V1_0,
        /// Which part this is, from 1.
        part: one i32 = KeyPartIdentifier @ V1_0,
        /// How many parts are needed.
        threshold: one i32 = SplitKeyThreshold @ V1_0,
        /// How the key was split.
        method: one SplitKeyMethod = SplitKeyMethod @ V1_0,
        /// The prime, for sharing in a prime field.
        prime_field_size: opt BigInteger = PrimeFieldSize @ V1_0,
        /// Content.
        block: one KeyBlock = KeyBlock @ V1_0,
    }
}
