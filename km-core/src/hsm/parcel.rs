//! KEKs on their way to another token.

use serde::{Deserialize, Serialize};

use crate::usage::Hash;

/// A token that KEKs can be wrapped for: the public half of an RSA pair that it made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KekReceiver {
    /// Big-endian.
    #[serde(with = "serde_bytes")]
    pub modulus: Vec<u8>,
    /// Big-endian.
    #[serde(with = "serde_bytes")]
    pub exponent: Vec<u8>,
    /// Of RSA-OAEP, also for the mask.
    pub hash: Hash,
    /// A public key of ML-KEM-1024 that the token made too, where it has that.
    #[serde(with = "serde_bytes")]
    pub kem: Option<Vec<u8>>,
}

/// What protects a KEK on its way to a token: with ML-KEM, both.
pub fn wrapping(with_kem: bool) -> &'static str {
    match with_kem {
        true => "RSA-OAEP and ML-KEM-1024",
        false => "RSA-OAEP",
    }
}

/// Random bytes that the ML-KEM layers around one KEK are made of ([`super::Hsm::create_kek_for`]).
pub const KEK_SEED_BYTES: usize = 32;

/// The keys of an epoch, wrapped for one token. Whoever takes it must know who made it: anybody can
/// wrap a key of his own for a public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KekParcel {
    /// Of the epoch.
    pub number: u64,
    /// The KEK, and the key that wraps keys of applications where the token that made it does that.
    pub keys: Vec<WrappedKek>,
    /// The ciphertext of ML-KEM that opens a second layer around what RSA-OAEP wrapped; absent when there is
    /// none.
    #[serde(with = "serde_bytes")]
    pub kem: Option<Vec<u8>>,
}

/// One key of a [`KekParcel`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKek {
    /// `CKA_ID`.
    #[serde(with = "serde_bytes")]
    pub id: Vec<u8>,
    /// What it does.
    pub usage: KekUse,
    /// By RSA-OAEP; see [`KekParcel::kem`].
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
}

/// What a key of an epoch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KekUse {
    /// Seals by encryption.
    Encrypts,
    /// Seals by wrapping data keys.
    Wraps,
    /// Wraps keys of applications.
    Keys,
}
