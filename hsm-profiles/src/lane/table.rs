//! Which mechanisms of PKCS #11 an action with a key is: one table, asked before the token is. What is
//! not in it, or what the token does not offer of it, is done in the KM's process, where it may see the
//! key. Enter through [`needs`] and [`with_cipher`].
//!
//! cryptoki 0.12 has no words for some of these mechanisms. They are called by their numbers, with the
//! parameters of `cryptoki_sys`.

use cryptoki::error::Error;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki_sys::*;
use km_core::hsm::HsmError;
use km_core::usage::derive::Derivation;
use km_core::usage::{Action, Cipher, Hash, KeyKind, Scheme};

use super::OpError;
use crate::profile::mechanism;

pub(super) const KEY_WRAP: MechanismType = MechanismType::AES_KEY_WRAP;
pub(super) const KEY_WRAP_PADDED: MechanismType = mechanism(CKM_AES_KEY_WRAP_KWP);
const AES_OFB: MechanismType = mechanism(CKM_AES_OFB);
const AES_CCM: MechanismType = mechanism(CKM_AES_CCM);
const DES3_CBC: MechanismType = mechanism(CKM_DES3_CBC);
pub(super) const PBKDF2: MechanismType = mechanism(CKM_PKCS5_PBKD2);

/// Mechanisms of this table that cryptoki leaves out of the list of a token.
pub(crate) const UNLISTED: [MechanismType; 13] = [
    AES_OFB,
    AES_CCM,
    DES3_CBC,
    PBKDF2,
    mechanism(CKM_SHA224),
    mechanism(CKM_SHA3_224),
    mechanism(CKM_SHA3_256),
    mechanism(CKM_SHA3_384),
    mechanism(CKM_SHA3_512),
    mechanism(CKM_SHA3_224_HMAC),
    mechanism(CKM_SHA3_256_HMAC),
    mechanism(CKM_SHA3_384_HMAC),
    mechanism(CKM_SHA3_512_HMAC),
];

/// Mechanisms that some tokens have for wrapping objects only, not for data.
pub(crate) const FOR_DATA: [MechanismType; 2] = [KEY_WRAP, KEY_WRAP_PADDED];

/// All mechanisms that `action` needs of the token.
pub(super) fn needs(kind: KeyKind, action: &Action) -> Result<Vec<MechanismType>, OpError> {
    use MechanismType as M;
    Ok(match (kind, action) {
        (KeyKind::Aes, Action::Encrypt(cipher) | Action::Decrypt(cipher)) => vec![match cipher {
            // By whole blocks, padded here: every token has it, and the length is known before. Key
            // wrap has mechanisms of its own in some.
            Cipher::Ecb { .. } | Cipher::Ctr { .. } | Cipher::KeyWrap { .. } => M::AES_ECB,
            Cipher::Cbc { .. } => M::AES_CBC,
            Cipher::Gcm { .. } => M::AES_GCM,
            Cipher::Ccm { .. } => AES_CCM,
            Cipher::Cfb { .. } => M::AES_CFB128,
            Cipher::Ofb { .. } => AES_OFB,
            _ => return Err(no_such()),
        }],
        (
            KeyKind::TripleDes,
            Action::Encrypt(Cipher::Cbc8 { .. }) | Action::Decrypt(Cipher::Cbc8 { .. }),
        ) => vec![DES3_CBC],
        (KeyKind::Rsa, Action::Decrypt(Cipher::RsaPkcs1)) => vec![M::RSA_PKCS],
        (KeyKind::Rsa, Action::Decrypt(Cipher::RsaOaep { hash, mask, .. })) => {
            with_sha3(M::RSA_PKCS_OAEP, &[*hash, *mask])
        }
        (KeyKind::Rsa, Action::Sign(Scheme::RsaPkcs1(_))) => vec![M::RSA_PKCS],
        (KeyKind::Rsa, Action::Sign(Scheme::RsaPss { hash, .. })) => {
            with_sha3(M::RSA_PKCS_PSS, &[*hash])
        }
        (KeyKind::Ec(_), Action::Sign(Scheme::Ecdsa(_))) => vec![M::ECDSA],
        (KeyKind::Ed25519, Action::Sign(Scheme::Ed25519)) => vec![M::EDDSA],
        (KeyKind::MlDsa(_), Action::Sign(Scheme::MlDsa)) => vec![M::ML_DSA],
        (KeyKind::Hmac, Action::Mac(hash)) => vec![hmac(*hash)],
        (KeyKind::Ec(_), Action::Agree) => vec![M::ECDH1_DERIVE],
        (KeyKind::X25519, Action::Agree) => {
            vec![M::ECDH1_DERIVE, M::ECC_MONTGOMERY_KEY_PAIR_GEN]
        }
        (_, Action::Derive { how: Derivation::Hash(hash), .. }) if !kind.is_pair() => {
            vec![digest(*hash)]
        }
        (KeyKind::Hmac, Action::Derive { how: Derivation::Hkdf { hash, .. }, .. }) => {
            with_sha3(M::HKDF_DERIVE, &[*hash])
        }
        (KeyKind::Hmac, Action::Derive { how: Derivation::Pbkdf2 { .. }, .. }) => vec![PBKDF2],
        _ => return Err(no_such()),
    })
}

/// Tokens without SHA-3 do not say well that they lack it as a parameter.
fn with_sha3(mechanism: MechanismType, hashes: &[Hash]) -> Vec<MechanismType> {
    let is_sha3 = |hash: &&Hash| {
        matches!(hash, Hash::Sha3_224 | Hash::Sha3_256 | Hash::Sha3_384 | Hash::Sha3_512)
    };
    std::iter::once(mechanism).chain(hashes.iter().filter(is_sha3).map(|h| digest(*h))).collect()
}

pub(super) fn no_such() -> OpError {
    OpError::Answer(HsmError::Unsupported("this kind of key is not for this action".to_owned()))
}

/// Without parameter.
pub(super) fn bare(mechanism: MechanismType) -> Mechanism<'static> {
    Mechanism::VendorDefined(VendorDefinedMechanism::new::<()>(mechanism, None))
}

pub(super) fn with<T>(mechanism: MechanismType, parameter: &T) -> Mechanism<'_> {
    Mechanism::VendorDefined(VendorDefinedMechanism::new(mechanism, Some(parameter)))
}

/// Runs with the mechanism of a symmetric cipher whose clear data has `len` bytes.
pub(super) fn with_cipher<T>(
    cipher: &Cipher,
    len: usize,
    run: impl FnOnce(&Mechanism) -> Result<T, Error>,
) -> Result<T, OpError> {
    let done = match cipher {
        Cipher::Ecb { .. } => run(&Mechanism::AesEcb),
        Cipher::Cbc { iv, .. } => run(&Mechanism::AesCbc(*iv)),
        Cipher::Cbc8 { iv, .. } => run(&Mechanism::Des3Cbc(*iv)),
        Cipher::Cfb { iv } => run(&with(MechanismType::AES_CFB128, iv)),
        Cipher::Ofb { iv } => run(&with(AES_OFB, iv)),
        Cipher::Gcm { iv, aad, tag } => {
            let mut iv = iv.clone();
            let bits = u64::from(*tag) * 8;
            run(&Mechanism::AesGcm(GcmParams::new(&mut iv, aad, bits.into())?))
        }
        Cipher::Ccm { nonce, aad, tag } => {
            let parameters = CK_CCM_PARAMS {
                ulDataLen: ulong(len)?,
                pNonce: nonce.as_ptr().cast_mut(),
                ulNonceLen: ulong(nonce.len())?,
                pAAD: aad.as_ptr().cast_mut(),
                ulAADLen: ulong(aad.len())?,
                ulMACLen: CK_ULONG::from(*tag),
            };
            run(&with(AES_CCM, &parameters))
        }
        _ => return Err(no_such()),
    };
    Ok(done?)
}

pub(super) fn ulong(len: usize) -> Result<CK_ULONG, OpError> {
    CK_ULONG::try_from(len).map_err(|_| OpError::Token(Error::InvalidValue))
}

/// The block of a cipher that takes whole blocks, in bytes, and whether data is padded to them.
pub(super) fn block_of(cipher: &Cipher) -> Option<(usize, bool)> {
    match cipher {
        Cipher::Ecb { padded } | Cipher::Cbc { padded, .. } => Some((16, *padded)),
        Cipher::Cbc8 { padded, .. } => Some((8, *padded)),
        _ => None,
    }
}

/// Bytes that ciphertext is longer than (padded) clear data.
pub(super) fn tag_of(cipher: &Cipher) -> usize {
    match cipher {
        Cipher::Gcm { tag, .. } | Cipher::Ccm { tag, .. } => usize::from(*tag),
        _ => 0,
    }
}

/// The same cipher with parameters that every token takes.
pub(super) fn plain(cipher: &Cipher) -> Cipher {
    match cipher {
        Cipher::Gcm { .. } => Cipher::Gcm { iv: vec![0; 12], aad: Vec::new(), tag: 16 },
        Cipher::Ccm { .. } => Cipher::Ccm { nonce: vec![0; 12], aad: Vec::new(), tag: 16 },
        other => other.clone(),
    }
}

pub(super) fn digest(hash: Hash) -> MechanismType {
    mechanism(match hash {
        Hash::Sha1 => CKM_SHA_1,
        Hash::Sha224 => CKM_SHA224,
        Hash::Sha256 => CKM_SHA256,
        Hash::Sha384 => CKM_SHA384,
        Hash::Sha512 => CKM_SHA512,
        Hash::Sha3_224 => CKM_SHA3_224,
        Hash::Sha3_256 => CKM_SHA3_256,
        Hash::Sha3_384 => CKM_SHA3_384,
        Hash::Sha3_512 => CKM_SHA3_512,
    })
}

pub(super) fn hmac(hash: Hash) -> MechanismType {
    mechanism(match hash {
        Hash::Sha1 => CKM_SHA_1_HMAC,
        Hash::Sha224 => CKM_SHA224_HMAC,
        Hash::Sha256 => CKM_SHA256_HMAC,
        Hash::Sha384 => CKM_SHA384_HMAC,
        Hash::Sha512 => CKM_SHA512_HMAC,
        Hash::Sha3_224 => CKM_SHA3_224_HMAC,
        Hash::Sha3_256 => CKM_SHA3_256_HMAC,
        Hash::Sha3_384 => CKM_SHA3_384_HMAC,
        Hash::Sha3_512 => CKM_SHA3_512_HMAC,
    })
}

/// The mask generator by a hash.
fn mask_by(hash: Hash) -> CK_RSA_PKCS_MGF_TYPE {
    match hash {
        Hash::Sha1 => CKG_MGF1_SHA1,
        Hash::Sha224 => CKG_MGF1_SHA224,
        Hash::Sha256 => CKG_MGF1_SHA256,
        Hash::Sha384 => CKG_MGF1_SHA384,
        Hash::Sha512 => CKG_MGF1_SHA512,
        Hash::Sha3_224 => CKG_MGF1_SHA3_224,
        Hash::Sha3_256 => CKG_MGF1_SHA3_256,
        Hash::Sha3_384 => CKG_MGF1_SHA3_384,
        Hash::Sha3_512 => CKG_MGF1_SHA3_512,
    }
}

pub(super) fn pss(hash: Hash, salt: u16) -> CK_RSA_PKCS_PSS_PARAMS {
    CK_RSA_PKCS_PSS_PARAMS {
        hashAlg: *digest(hash),
        mgf: mask_by(hash),
        sLen: CK_ULONG::from(salt),
    }
}

/// Runs with RSA-OAEP.
pub(crate) fn with_oaep<T>(
    (hash, mask, label): (Hash, Hash, &[u8]),
    run: impl FnOnce(&Mechanism) -> Result<T, Error>,
) -> Result<T, OpError> {
    let parameters = CK_RSA_PKCS_OAEP_PARAMS {
        hashAlg: *digest(hash),
        mgf: mask_by(mask),
        source: CKZ_DATA_SPECIFIED,
        pSourceData: match label.is_empty() {
            true => std::ptr::null_mut(),
            false => label.as_ptr().cast_mut().cast(),
        },
        ulSourceDataLen: ulong(label.len())?,
    };
    Ok(run(&with(MechanismType::RSA_PKCS_OAEP, &parameters))?)
}
