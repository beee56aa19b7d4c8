//! Bytes derived from a key in the token, which the KM reads. Enter through [`Lane::derived_bytes`], or
//! [`Lane::by_password`] for PBKDF2, which tokens take for the making of a key from a password that
//! comes in clear.

use std::num::NonZeroU32;

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::hkdf::{HkdfParams, HkdfSalt};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki_sys::*;
use km_core::hsm::TokenKey;
use km_core::material::ClearBytes;
use km_core::usage::Hash;
use km_core::usage::derive::Derivation;

use super::action::{as_long_as, misfit};
use super::judge::unsupported;
use super::kem::{secret_template, taken};
use super::table::{PBKDF2, bare, digest, no_such, ulong, with};
use super::{Lane, OpError};

/// Most HMACs of one PBKDF2 in the token, so that no session is held for longer than about half a
/// second.
const MOST_ROUNDS: u64 = 200_000;

impl Lane {
    /// `len` bytes that `how` gives of the object `handle`.
    pub(super) fn derived_bytes(
        &self,
        handle: ObjectHandle,
        how: &Derivation,
        len: usize,
    ) -> Result<ClearBytes, OpError> {
        let session = self.session()?;
        let too_long = || misfit(&format!("the derivation does not give {len} bytes"));
        match how {
            Derivation::Hash(hash) => {
                session.digest_init(&bare(digest(*hash)))?;
                if let Err(error) = session.digest_key(handle) {
                    // Some tokens leave the operation open.
                    let _ = session.digest_final();
                    return Err(error.into());
                }
                let whole = as_long_as(hash.len(), session.digest_final()?)?;
                ClearBytes::from_vec(whole).slice(0..len).ok_or_else(too_long)
            }
            Derivation::Hkdf { hash, .. } if len > 255 * hash.len() => Err(too_long()),
            Derivation::Hkdf { hash, salt, info } => {
                let salt = match salt.is_empty() {
                    true => HkdfSalt::Null,
                    false => HkdfSalt::Data(salt),
                };
                let parameters = HkdfParams::new(digest(*hash), Some(salt), Some(info));
                let (hkdf, template) = (Mechanism::HkdfDerive(parameters), readable(len));
                taken(session, session.derive_key(&hkdf, handle, &template)?, len)
            }
            Derivation::Pbkdf2 { .. } => Err(no_such()),
        }
    }

    /// `len` bytes that PBKDF2 gives of a key whose bytes are sealed.
    pub(super) fn by_password(
        &mut self,
        key: &TokenKey,
        (hash, salt, iterations): (Hash, &[u8], NonZeroU32),
        len: usize,
    ) -> Result<ClearBytes, OpError> {
        let rounds = u64::from(iterations.get()) * len.div_ceil(hash.len()) as u64;
        if key.wrapped || salt.is_empty() || rounds > MOST_ROUNDS {
            let text = "tokens take passwords in clear, with a salt, and for a moment only";
            return Err(unsupported(text.to_owned()));
        }
        let prf = match hash {
            Hash::Sha1 => CKP_PKCS5_PBKD2_HMAC_SHA1,
            Hash::Sha224 => CKP_PKCS5_PBKD2_HMAC_SHA224,
            Hash::Sha256 => CKP_PKCS5_PBKD2_HMAC_SHA256,
            Hash::Sha384 => CKP_PKCS5_PBKD2_HMAC_SHA384,
            Hash::Sha512 => CKP_PKCS5_PBKD2_HMAC_SHA512,
            _ => return Err(unsupported("PBKDF2 has no number for SHA-3".to_owned())),
        };
        let password = self.open_sealed(&key.aad, &key.sealed)?;
        let session = self.session()?;
        let made = password.expose(|password| -> Result<_, OpError> {
            let parameters = CK_PKCS5_PBKD2_PARAMS2 {
                saltSource: CKZ_SALT_SPECIFIED,
                pSaltSourceData: salt.as_ptr().cast_mut().cast(),
                ulSaltSourceDataLen: ulong(salt.len())?,
                iterations: CK_ULONG::from(iterations.get()),
                prf,
                pPrfData: std::ptr::null_mut(),
                ulPrfDataLen: 0,
                pPassword: password.as_ptr().cast_mut(),
                ulPasswordLen: ulong(password.len())?,
            };
            Ok(session.generate_key(&with(PBKDF2, &parameters), &readable(len)))
        });
        match made? {
            Ok(secret) => taken(session, secret, len),
            Err(error) => Err(self.judge(error)),
        }
    }
}

/// A secret of `len` bytes that is read once.
fn readable(len: usize) -> Vec<Attribute> {
    let mut template = secret_template();
    template.push(Attribute::ValueLen((len as u64).into()));
    template
}
