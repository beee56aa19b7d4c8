//! What can be done with a key without giving it out: an [`Action`] on a key of a [`KeyKind`].
//! Enter through [`Objects::use_key`](crate::objects::Objects::use_key).
//!
//! The token does it where it can. What it cannot is done in this process ([`process`]), for keys
//! whose bytes this process may see and where the operator allows it. What needs only a public
//! key is always done here ([`public`]).

pub mod agree;
pub mod der;
pub mod derive;
pub mod kem;
pub mod key_wrap;
pub mod local;
pub mod private;
pub mod process;
pub mod public;
mod rsa;
pub mod seeded;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use sha3::{Digest, Sha3_224};

use crate::material::ClearBytes;
use derive::Derivation;

/// What a key is, as far as using it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyKind {
    /// AES of 128, 192 or 256 bits.
    Aes,
    /// A secret for HMAC.
    Hmac,
    /// RSA private key.
    Rsa,
    /// Private key on a NIST curve, for ECDSA and ECDH.
    Ec(Curve),
    /// Ed25519 private key.
    Ed25519,
    /// X25519 private key, for [`Action::Agree`] only.
    X25519,
    /// A symmetric key whose algorithm no token is asked for.
    Local(local::Algorithm),
    /// ML-DSA private key (FIPS 204).
    MlDsa(DsaSet),
    /// Triple DES with two or three keys, for what exists already.
    TripleDes,
}

impl KeyKind {
    /// As metrics and operators call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes => "aes",
            Self::Hmac => "hmac",
            Self::Rsa => "rsa",
            Self::Ec(_) => "ec",
            Self::Ed25519 => "ed25519",
            Self::X25519 => "x25519",
            Self::Local(_) => "local",
            Self::MlDsa(_) => "ml-dsa",
            Self::TripleDes => "triple-des",
        }
    }

    /// Whether it is a private key, which has a public half.
    pub fn is_pair(self) -> bool {
        !matches!(self, Self::Aes | Self::Hmac | Self::TripleDes | Self::Local(_))
    }
}

/// The lengths of RSA keys that are made, in bits. Longer ones take a token longer than any deadline.
pub const RSA_BITS: [u32; 3] = [2048, 3072, 4096];

/// Parameter sets of ML-DSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DsaSet {
    /// ML-DSA-44, security category 2.
    MlDsa44,
    /// ML-DSA-65, security category 3.
    MlDsa65,
    /// ML-DSA-87, security category 5.
    MlDsa87,
}

impl DsaSet {
    /// Bytes of a public key.
    pub fn public_bytes(self) -> usize {
        match self {
            Self::MlDsa44 => 1312,
            Self::MlDsa65 => 1952,
            Self::MlDsa87 => 2592,
        }
    }

    /// Bytes of a signature.
    pub fn signature_bytes(self) -> usize {
        match self {
            Self::MlDsa44 => 2420,
            Self::MlDsa65 => 3309,
            Self::MlDsa87 => 4627,
        }
    }
}

/// NIST curves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Curve {
    /// secp256r1.
    P256,
    /// secp384r1.
    P384,
    /// secp521r1.
    P521,
}

impl Curve {
    /// Bytes of a coordinate, and of each half of a signature.
    pub fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// Hash functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Hash {
    /// SHA-1, for what exists already.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// SHA3-224.
    Sha3_224,
    /// SHA3-256.
    Sha3_256,
    /// SHA3-384.
    Sha3_384,
    /// SHA3-512.
    Sha3_512,
}

impl Hash {
    /// Bytes of a hash.
    pub fn len(self) -> usize {
        self.algorithm().map_or(<Sha3_224 as Digest>::output_size(), |known| known.output_len())
    }

    /// Never: a hash has bytes.
    pub fn is_empty(self) -> bool {
        false
    }

    /// The hash of `data`.
    pub fn of(self, data: &[u8]) -> Vec<u8> {
        match self.algorithm() {
            Some(algorithm) => digest::digest(algorithm, data).as_ref().to_vec(),
            None => Sha3_224::digest(data).to_vec(),
        }
    }

    /// As aws-lc-rs has it; it has no SHA3-224.
    fn algorithm(self) -> Option<&'static digest::Algorithm> {
        Some(match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha224 => &digest::SHA224,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
            Self::Sha3_256 => &digest::SHA3_256,
            Self::Sha3_384 => &digest::SHA3_384,
            Self::Sha3_512 => &digest::SHA3_512,
            Self::Sha3_224 => return None,
        })
    }

    /// `bytes` as a hash of this function, when they have its length.
    pub(crate) fn import(self, bytes: &[u8]) -> Option<digest::Digest> {
        digest::Digest::import_less_safe(bytes, self.algorithm()?).ok()
    }
}

/// A cipher with its parameters. Initialization vectors are chosen before the key is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cipher {
    /// Each block by itself; for whole blocks.
    Ecb {
        /// PKCS #5 padding.
        padded: bool,
    },
    /// Cipher block chaining; without padding for whole blocks.
    Cbc {
        /// Initialization vector.
        iv: [u8; 16],
        /// PKCS #5 padding.
        padded: bool,
    },
    /// Counter mode; the whole block counts up.
    Ctr {
        /// First counter block.
        iv: [u8; 16],
    },
    /// Authenticated; the tag stands at the end of the ciphertext.
    Gcm {
        /// Nonce; 96 bits are best.
        #[serde(with = "serde_bytes")]
        iv: Vec<u8>,
        /// Associated data.
        #[serde(with = "serde_bytes")]
        aad: Vec<u8>,
        /// Bytes of the tag: 12 to 16.
        tag: u8,
    },
    /// Cipher feedback of whole blocks (CFB128); data of any length.
    Cfb {
        /// Initialization vector.
        iv: [u8; 16],
    },
    /// Output feedback; data of any length.
    Ofb {
        /// Initialization vector.
        iv: [u8; 16],
    },
    /// Authenticated by a CBC-MAC; the tag stands at the end of the ciphertext.
    Ccm {
        /// Nonce of 7, 12 or 13 bytes.
        #[serde(with = "serde_bytes")]
        nonce: Vec<u8>,
        /// Associated data.
        #[serde(with = "serde_bytes")]
        aad: Vec<u8>,
        /// Bytes of the tag: 8, 12 or 16.
        tag: u8,
    },
    /// AES key wrap: see [`key_wrap`].
    KeyWrap {
        /// RFC 5649, for any length, in place of RFC 3394.
        padded: bool,
    },
    /// Cipher block chaining where blocks have 8 bytes: Triple DES and Blowfish.
    Cbc8 {
        /// Initialization vector.
        iv: [u8; 8],
        /// PKCS #5 padding.
        padded: bool,
    },
    /// RSA with PKCS #1 version 1.5 padding.
    RsaPkcs1,
    /// RSA with OAEP.
    RsaOaep {
        /// Hash of the label.
        hash: Hash,
        /// Hash of the mask generator.
        mask: Hash,
        /// Label (P Source).
        #[serde(with = "serde_bytes")]
        label: Vec<u8>,
    },
    /// Any other; no token is asked for it.
    Local(local::Mode),
}

/// A signature scheme. All but Ed25519 and ML-DSA take the hash of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(Hash),
    /// RSASSA-PSS, the same hash in its mask generator.
    RsaPss {
        /// Hash.
        hash: Hash,
        /// Bytes of salt.
        salt: u16,
    },
    /// ECDSA; signatures are DER as in X.509.
    Ecdsa(Hash),
    /// Ed25519, of the message itself.
    Ed25519,
    /// ML-DSA, of the message itself and with an empty context.
    MlDsa,
}

impl Scheme {
    /// The hash that is signed; none where the message itself is.
    pub fn hash(self) -> Option<Hash> {
        match self {
            Self::RsaPkcs1(hash) | Self::RsaPss { hash, .. } | Self::Ecdsa(hash) => Some(hash),
            Self::Ed25519 | Self::MlDsa => None,
        }
    }
}

/// What is done with a secret or private key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Clear to ciphertext.
    Encrypt(Cipher),
    /// Ciphertext to clear.
    Decrypt(Cipher),
    /// A hash (or message) to a signature.
    Sign(Scheme),
    /// A message to its HMAC.
    Mac(Hash),
    /// Another's public key (SubjectPublicKeyInfo in DER) to the secret that both keys share; see
    /// [`agree`].
    Agree,
    /// Nothing to bytes that depend on the key.
    Derive {
        /// By what.
        how: Derivation,
        /// How many bytes.
        len: u32,
    },
}

/// One action and what it is done to.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// What is done.
    pub action: Action,
    /// Clear or not, as the action takes it.
    pub input: ClearBytes,
}
