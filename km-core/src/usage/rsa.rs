//! RSA in this process as aws-lc-rs does not have it: OAEP with two hashes or a label, PSS with any
//! salt and hash, PKCS #1 with SHA-224 and SHA-3. By RustCrypto's `rsa`, always with blinding.

use aws_lc_rs::rand;
use rsa::{
    Oaep, Pkcs1v15Sign, PrivateKey, Pss, PublicKey,
    pkcs1::{DecodeRsaPrivateKey, DecodeRsaPublicKey},
    pkcs8::{DecodePrivateKey, DecodePublicKey},
    rand_core::{TryCryptoRng, TryRng},
};
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use sha3::{Sha3_224, Sha3_256, Sha3_384, Sha3_512};

use super::{
    Hash, der,
    process::{cannot, misfit},
};
use crate::{hsm::HsmError, material::ClearBytes};

/// The generator of aws-lc-rs.
struct Library;

#[derive(Debug, thiserror::Error)]
#[error("no random numbers")]
struct NoRandom;

impl TryRng for Library {
    type Error = NoRandom;

    fn try_next_u32(&mut self) -> Result<u32, NoRandom> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, NoRandom> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), NoRandom> {
        rand::fill(bytes).map_err(|_| NoRandom)
    }
}

impl TryCryptoRng for Library {}

fn public_key(key: &[u8]) -> Result<PublicKey, HsmError> {
    PublicKey::from_pkcs1_der(key)
        .or_else(|_| PublicKey::from_public_key_der(key))
        .map_err(|_| misfit("the RSA public key cannot be read"))
}

fn private_key(key: &[u8]) -> Result<PrivateKey, HsmError> {
    PrivateKey::from_pkcs8_der(key)
        .or_else(|_| PrivateKey::from_pkcs1_der(key))
        .map_err(|_| cannot("the bytes are no RSA private key in PKCS #8 or PKCS #1 form"))
}

macro_rules! with_hash {
    ($hash:expr, $name:ident => $done:expr) => {
        match $hash {
            Hash::Sha1 => {
                type $name = Sha1;
                $done
            }
            Hash::Sha224 => {
                type $name = Sha224;
                $done
            }
            Hash::Sha256 => {
                type $name = Sha256;
                $done
            }
            Hash::Sha384 => {
                type $name = Sha384;
                $done
            }
            Hash::Sha512 => {
                type $name = Sha512;
                $done
            }
            Hash::Sha3_224 => {
                type $name = Sha3_224;
                $done
            }
            Hash::Sha3_256 => {
                type $name = Sha3_256;
                $done
            }
            Hash::Sha3_384 => {
                type $name = Sha3_384;
                $done
            }
            Hash::Sha3_512 => {
                type $name = Sha3_512;
                $done
            }
        }
    };
}

/// `input` under a public key, with OAEP.
pub(super) fn oaep_encrypt(
    (hash, mask, label): (Hash, Hash, &[u8]),
    key: &[u8],
    input: &[u8],
) -> Result<Vec<u8>, HsmError> {
    let key = public_key(key)?;
    let done = with_hash!(hash, H => with_hash!(mask, M => {
        let padding = Oaep::<H, M>::new_with_mgf_hash_and_label(label.to_vec());
        key.encrypt(&mut Library, padding, input)
    }));
    done.map_err(|_| misfit("the data is too long for this RSA key"))
}

/// What [`oaep_encrypt`] made of the result.
pub(super) fn oaep_decrypt(
    (hash, mask, label): (Hash, Hash, &[u8]),
    key: &[u8],
    input: &[u8],
) -> Result<ClearBytes, HsmError> {
    let key = private_key(key)?;
    let done = with_hash!(hash, H => with_hash!(mask, M => {
        let padding = Oaep::<H, M>::new_with_mgf_hash_and_label(label.to_vec());
        key.decrypt_blinded(&mut Library, padding, input)
    }));
    done.map(ClearBytes::from_vec).map_err(|_| misfit("the data does not decrypt under this key"))
}

fn pkcs1(hash: Hash) -> Pkcs1v15Sign {
    Pkcs1v15Sign { hash_len: Some(hash.len()), prefix: der::digest_info(hash).into() }
}

/// Signs a hash with PKCS #1 version 1.5.
pub(super) fn pkcs1_sign(hash: Hash, key: &[u8], digest: &[u8]) -> Result<ClearBytes, HsmError> {
    let done = private_key(key)?.sign_with_rng(&mut Library, pkcs1(hash), digest);
    done.map(ClearBytes::from_vec).map_err(|_| misfit("the RSA key is too short for this hash"))
}

/// Whether `signature` is one of a hash with PKCS #1 version 1.5.
pub(super) fn pkcs1_verify(
    hash: Hash,
    key: &[u8],
    digest: &[u8],
    signature: &[u8],
) -> Result<bool, HsmError> {
    Ok(public_key(key)?.verify(pkcs1(hash), digest, signature).is_ok())
}

/// Signs a hash with PSS and `salt` bytes of salt.
pub(super) fn pss_sign(
    hash: Hash,
    salt: u16,
    key: &[u8],
    digest: &[u8],
) -> Result<ClearBytes, HsmError> {
    let key = private_key(key)?;
    let done = with_hash!(hash, H => {
        key.sign_with_rng(&mut Library, Pss::<H>::new_with_salt(salt.into()), digest)
    });
    done.map(ClearBytes::from_vec).map_err(|_| misfit("the RSA key is too short for this hash"))
}

/// Whether `signature` is one of a hash with PSS; without `salt`, of any length of salt.
pub(super) fn pss_verify(
    hash: Hash,
    salt: Option<u16>,
    key: &[u8],
    digest: &[u8],
    signature: &[u8],
) -> Result<bool, HsmError> {
    let key = public_key(key)?;
    let done = with_hash!(hash, H => {
        let scheme = Pss { blinded: true, digest: H::new(), salt_len: salt.map(usize::from) };
        key.verify(scheme, digest, signature)
    });
    Ok(done.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::{
        Action, Cipher, KeyKind, Scheme,
        private::{parts, public_half},
        process,
        public::verify,
    };

    /// `openssl dgst -sign` gives the same.
    #[test]
    fn pkcs1_signatures_are_those_of_openssl() {
        let key = include_bytes!("vectors/rsa_2048.pk8");
        let (private, whole) = (ClearBytes::copy_from(key), parts(KeyKind::Rsa, key).unwrap());
        let public = public_half(KeyKind::Rsa, &whole).unwrap();
        for (hash, known) in [
            (Hash::Sha224, &include_bytes!("vectors/pkcs1_sha224")[..]),
            (Hash::Sha3_256, &include_bytes!("vectors/pkcs1_sha3_256")[..]),
        ] {
            let (scheme, digest) = (Scheme::RsaPkcs1(hash), hash.of(b"signed by OpenSSL"));
            let input = ClearBytes::copy_from(&digest);
            let signed = process::act(KeyKind::Rsa, &Action::Sign(scheme), &private, &input);
            assert_eq!(signed, Ok(ClearBytes::copy_from(known)), "{hash:?}");
            let check = |digest: &[u8]| verify(KeyKind::Rsa, scheme, &public, digest, known);
            assert_eq!(check(&digest), Ok(true));
            assert_eq!(check(&hash.of(b"signed by nobody")), Ok(false));
        }
    }

    /// What OpenSSL 3.0 sealed, `openssl pkeyutl -encrypt` with `rsa_padding_mode:oaep`.
    #[test]
    fn oaep_with_sha3_opens_what_openssl_sealed() {
        let key = ClearBytes::copy_from(include_bytes!("vectors/rsa_2048.pk8"));
        let oaep = |hash, mask| Cipher::RsaOaep { hash, mask, label: Vec::new() };
        let one = oaep(Hash::Sha3_256, Hash::Sha3_256);
        let two = oaep(Hash::Sha3_512, Hash::Sha256);
        for (cipher, sealed) in [
            (one, &include_bytes!("vectors/oaep_sha3_256")[..]),
            (two, &include_bytes!("vectors/oaep_sha3_512_sha256")[..]),
        ] {
            let open = |cipher: &Cipher| {
                let (action, sealed) =
                    (Action::Decrypt(cipher.clone()), ClearBytes::copy_from(sealed));
                process::act(KeyKind::Rsa, &action, &key, &sealed)
            };
            assert_eq!(open(&cipher), Ok(ClearBytes::copy_from(b"sealed by OpenSSL")));
            let other = open(&oaep(Hash::Sha3_384, Hash::Sha3_384));
            assert!(matches!(other, Err(HsmError::Input(_))), "{other:?}");
        }
    }
}
