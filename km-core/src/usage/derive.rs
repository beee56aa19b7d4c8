//! Derivations that take the base key itself, and how this process does them. Enter through [`derive`].

use std::num::NonZeroU32;

use aws_lc_rs::{hkdf, pbkdf2};
use serde::{Deserialize, Serialize};
use wiped::Wiped;

use super::Hash;
use crate::{hsm::HsmError, material::ClearBytes};

/// A derivation with its public parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Derivation {
    /// The hash of the key.
    Hash(Hash),
    /// PBKDF2 with HMAC, the key being the password.
    Pbkdf2 {
        /// Hash of the HMAC.
        hash: Hash,
        /// Salt.
        salt: Vec<u8>,
        /// Iterations.
        iterations: NonZeroU32,
    },
    /// HKDF (RFC 5869).
    Hkdf {
        /// Hash of the HMAC.
        hash: Hash,
        /// Salt.
        salt: Vec<u8>,
        /// Context.
        info: Vec<u8>,
    },
}

/// Length of what is derived.
struct Bytes(usize);

impl hkdf::KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

/// `len` bytes derived from `key`.
///
/// # Errors
/// [`HsmError::Input`] when the derivation does not give so many bytes, [`HsmError::Unsupported`]
/// for hashes it is not had with.
pub fn derive(how: &Derivation, key: &[u8], len: usize) -> Result<ClearBytes, HsmError> {
    let too_long = || HsmError::Input(format!("the derivation does not give {len} bytes"));
    let mut derived = Wiped::zeros(len);
    match how {
        Derivation::Hash(hash) => {
            let whole = Wiped::new(hash.of(key));
            derived.copy_from_slice(whole.get(..len).ok_or_else(too_long)?);
        }
        Derivation::Pbkdf2 { hash, salt, iterations } => {
            let algorithm = match hash {
                Hash::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
                Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
                Hash::Sha384 => pbkdf2::PBKDF2_HMAC_SHA384,
                Hash::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
                _ => return Err(without("PBKDF2")),
            };
            pbkdf2::derive(algorithm, *iterations, salt, key, &mut derived);
        }
        Derivation::Hkdf { hash, salt, info } => {
            let algorithm = match hash {
                Hash::Sha1 => hkdf::HKDF_SHA1_FOR_LEGACY_USE_ONLY,
                Hash::Sha256 => hkdf::HKDF_SHA256,
                Hash::Sha384 => hkdf::HKDF_SHA384,
                Hash::Sha512 => hkdf::HKDF_SHA512,
                _ => return Err(without("HKDF")),
            };
            let extracted = hkdf::Salt::new(algorithm, salt).extract(key);
            let info = [&info[..]];
            let expanded = extracted.expand(&info, Bytes(len)).map_err(|_| too_long())?;
            expanded.fill(&mut derived).map_err(|_| too_long())?;
        }
    }
    Ok(derived.into())
}

fn without(what: &str) -> HsmError {
    HsmError::Unsupported(format!("{what} is not had with this hash"))
}
