//! What is sealed, and keys of applications that are: stored outside of the token.

use serde::{Deserialize, Serialize};

use super::{Custody, KekId};
use crate::usage::KeyKind;

/// The format of [`Sealed`] that this version writes and reads.
pub const SEALED_FORMAT: u8 = 1;

/// How a message was sealed. Part of the sealed message: a change of the profile strands nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SealMethod {
    /// AES-256-GCM in the token, under the KEK itself.
    TokenGcm,
    /// AES-256-GCM in this process, under a data key of this one message that the KEK protects.
    WrappedKeyGcm {
        /// How the KEK protects the data key.
        protection: KeyProtection,
        /// The protected data key.
        #[serde(with = "serde_bytes")]
        data_key: Vec<u8>,
    },
}

/// How a KEK protects the data key of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyProtection {
    /// AES key wrap (RFC 3394) in the token.
    KeyWrap,
    /// AES-CBC in the token, without padding, under this fresh initialization vector. Not
    /// authenticated by itself: the message's tag is, since it covers the protected key as well.
    Cbc {
        /// 128 random bits.
        iv: [u8; 16],
    },
    /// AES-GCM in the token, for messages that are too long to be encrypted there themselves.
    Gcm {
        /// The nonce, as in [`Sealed::iv`].
        #[serde(with = "serde_bytes")]
        iv: Vec<u8>,
    },
    /// AES key wrap with padding (RFC 5649) in the token.
    KeyWrapPadded,
}

impl SealMethod {
    /// Where the keys were while the message was sealed.
    pub fn custody(&self) -> Custody {
        match self {
            Self::TokenGcm => Custody::InToken,
            Self::WrappedKeyGcm { .. } => Custody::HostTransient,
        }
    }

    /// What the tag of a message sealed this way covers besides the message: format, method,
    /// protected data key, and the caller's `aad`.
    pub fn associated_data(&self, aad: &[u8]) -> Vec<u8> {
        // Postcard tells the length of each part before it, so the parts cannot be shifted.
        let mut bound = postcard::to_allocvec(&(SEALED_FORMAT, self)).unwrap_or_default();
        bound.extend_from_slice(aad);
        bound
    }
}

/// A sealed message with all that is needed to open it again, the KEK and the caller's header
/// excepted. Safe to store; worthless without the KEK.
///
/// Only an [`Hsm`] makes a meaningful one, and only the vault binds it to a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// [`SEALED_FORMAT`] of the version that sealed it.
    pub format: u8,
    /// The KEK that opens it.
    pub kek: KekId,
    /// How it was sealed.
    pub method: SealMethod,
    /// The GCM nonce: 96 bits, or 128 where the token makes it and wants so.
    #[serde(with = "serde_bytes")]
    pub iv: Vec<u8>,
    /// Ciphertext with the 128-bit tag at its end.
    #[serde(with = "serde_bytes")]
    pub ciphertext: Vec<u8>,
}

impl Sealed {
    /// A message sealed by this version.
    pub fn new(kek: KekId, method: SealMethod, iv: Vec<u8>, ciphertext: Vec<u8>) -> Self {
        Self { format: SEALED_FORMAT, kek, method, iv, ciphertext }
    }
}

/// A managed key as a token is asked to use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenKey {
    /// Names this sealing of this object; the token may keep the key at hand under it.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// What the key is.
    pub kind: KeyKind,
    /// Whether what is sealed is the key wrapped by the token for itself alone ([`super::Hsm::make_key`]),
    /// or the bytes of the key.
    pub wrapped: bool,
    /// What it was sealed with.
    #[serde(with = "serde_bytes")]
    pub aad: Vec<u8>,
    /// The key.
    pub sealed: Sealed,
}

/// A key that was made in the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeKey {
    /// The key, wrapped in the token and sealed.
    pub sealed: Sealed,
    /// Its public half as [`crate::usage::public`] reads it; none for secret keys.
    pub public: Option<Vec<u8>>,
}
