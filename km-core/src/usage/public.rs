//! What needs only a public key, by aws-lc-rs: no secret takes part. Enter through [`verify`] and
//! [`encrypt`].

use aws_lc_rs::{
    rsa::{OaepPublicEncryptingKey, Pkcs1PublicEncryptingKey, PublicEncryptingKey},
    signature::{self, RsaParameters, RsaPssSaltLength, UnparsedPublicKey, VerificationAlgorithm},
};

use super::{
    Cipher, Curve, DsaSet, Hash, KeyKind, Scheme, der,
    process::{fitted, oaep},
    rsa,
};
use crate::hsm::HsmError;

/// Lengths of salt that PSS is used with here.
pub(super) enum Salt {
    /// As long as the hash.
    AsHash,
    /// As long as the key allows.
    Longest,
}

/// Shorter RSA keys, in bytes, verify nothing.
const LEAST_MODULUS: usize = 128;

/// Which of the two lengths `salt` is, for a key of `modulus` bytes.
pub(super) fn salt_kind(hash: Hash, salt: u16, modulus: usize) -> Option<Salt> {
    let salt = usize::from(salt);
    match salt {
        _ if salt == hash.len() => Some(Salt::AsHash),
        _ if salt + hash.len() + 2 == modulus => Some(Salt::Longest),
        _ => None,
    }
}

/// Whether `signature` is one of `message` (its hash, where the scheme takes one) under `key`:
/// PKCS #1 or SubjectPublicKeyInfo in DER.
///
/// # Errors
/// [`HsmError::Unsupported`] when the scheme is not had, [`HsmError::Input`] when key or hash do
/// not have the form they should.
pub fn verify(
    kind: KeyKind,
    scheme: Scheme,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<bool, HsmError> {
    let misfit = |what: &str| HsmError::Input(what.to_owned());
    let modulus = match kind {
        KeyKind::Rsa => rsa_modulus(key)?,
        _ => 0,
    };
    let algorithm = match (algorithm(kind, scheme, modulus), kind, scheme) {
        (Some(algorithm), ..) => algorithm,
        (None, KeyKind::Rsa, Scheme::RsaPss { hash, salt }) => {
            return rsa::pss_verify(hash, Some(salt), key, message, signature);
        }
        (None, KeyKind::Rsa, Scheme::RsaPkcs1(hash)) if modulus >= LEAST_MODULUS => {
            return rsa::pkcs1_verify(hash, key, message, signature);
        }
        _ => {
            let why = "this signature is not verified with this key and hash";
            return Err(HsmError::Unsupported(why.to_owned()));
        }
    };
    let key = UnparsedPublicKey::new(algorithm, key);
    if key.parse().is_err() {
        return Err(misfit("the public key cannot be read"));
    }
    let fits = match (kind, scheme.hash()) {
        (KeyKind::Ec(curve), Some(hash)) => {
            key.verify_digest(&fitted(curve, hash, message)?, signature)
        }
        (_, Some(hash)) => {
            let digest =
                hash.import(message).ok_or_else(|| misfit("the hash has another length"))?;
            key.verify_digest(&digest, signature)
        }
        (_, None) => key.verify(message, signature),
    };
    Ok(fits.is_ok())
}

/// As [`verify`] for PSS, with whatever salt was signed.
///
/// # Errors
/// [`HsmError::Input`] when the key cannot be read.
pub fn verify_any_salt(
    hash: Hash,
    key: &[u8],
    digest: &[u8],
    signature: &[u8],
) -> Result<bool, HsmError> {
    rsa::pss_verify(hash, None, key, digest, signature)
}

/// SubjectPublicKeyInfo of an RSA key in PKCS #1; none when it is no such key.
pub fn rsa_info(key: &[u8]) -> Option<Vec<u8>> {
    RsaParameters::public_modulus_len(key).is_ok().then(|| der::rsa_info(key))
}

/// Bytes of the modulus.
fn rsa_modulus(key: &[u8]) -> Result<usize, HsmError> {
    RsaParameters::public_modulus_len(key)
        .map(|bits| bits.div_ceil(8) as usize)
        .or_else(|_| PublicEncryptingKey::from_der(key).map(|key| key.key_size_bytes()))
        .map_err(|_| HsmError::Input("the RSA public key cannot be read".to_owned()))
}

fn algorithm(
    kind: KeyKind,
    scheme: Scheme,
    modulus: usize,
) -> Option<&'static dyn VerificationAlgorithm> {
    use signature as s;
    Some(match (kind, scheme) {
        (KeyKind::Rsa, Scheme::RsaPkcs1(hash)) => match hash {
            Hash::Sha1 => &s::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => &s::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
            Hash::Sha384 => &s::RSA_PKCS1_2048_8192_SHA384,
            Hash::Sha512 => &s::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
            _ => return None,
        },
        (KeyKind::Rsa, Scheme::RsaPss { hash, salt }) => {
            const MAX: RsaPssSaltLength = RsaPssSaltLength::Max;
            match (hash, salt_kind(hash, salt, modulus)?) {
                (Hash::Sha256, Salt::AsHash) => &s::RSA_PSS_2048_8192_SHA256,
                (Hash::Sha384, Salt::AsHash) => &s::RSA_PSS_2048_8192_SHA384,
                (Hash::Sha512, Salt::AsHash) => &s::RSA_PSS_2048_8192_SHA512,
                (Hash::Sha256, Salt::Longest) => {
                    &const { s::RSA_PSS_2048_8192_SHA256.with_pss_salt_length(MAX) }
                }
                (Hash::Sha384, Salt::Longest) => {
                    &const { s::RSA_PSS_2048_8192_SHA384.with_pss_salt_length(MAX) }
                }
                (Hash::Sha512, Salt::Longest) => {
                    &const { s::RSA_PSS_2048_8192_SHA512.with_pss_salt_length(MAX) }
                }
                _ => return None,
            }
        }
        // Of the hash as `fitted` has it.
        (KeyKind::Ec(curve), Scheme::Ecdsa(_)) => match curve {
            Curve::P256 => &s::ECDSA_P256_SHA256_ASN1,
            Curve::P384 => &s::ECDSA_P384_SHA384_ASN1,
            Curve::P521 => &s::ECDSA_P521_SHA512_ASN1,
        },
        (KeyKind::Ed25519, Scheme::Ed25519) => &s::ED25519,
        (KeyKind::MlDsa(set), Scheme::MlDsa) => match set {
            DsaSet::MlDsa44 => &s::ML_DSA_44,
            DsaSet::MlDsa65 => &s::ML_DSA_65,
            DsaSet::MlDsa87 => &s::ML_DSA_87,
        },
        _ => return None,
    })
}

/// `input` under an RSA public key, PKCS #1 or SubjectPublicKeyInfo in DER.
///
/// # Errors
/// As [`verify`]; [`HsmError::Input`] also when the input is too long for the key.
pub fn encrypt(cipher: &Cipher, key: &[u8], input: &[u8]) -> Result<Vec<u8>, HsmError> {
    let cannot = |what: &str| HsmError::Unsupported(what.to_owned());
    let info = der::rsa_info(key);
    let public = PublicEncryptingKey::from_der(&info)
        .or_else(|_| PublicEncryptingKey::from_der(key))
        .map_err(|_| HsmError::Input("the RSA public key cannot be read".to_owned()))?;
    let too_long = |_| HsmError::Input("the data is too long for this RSA key".to_owned());
    let mut sealed = vec![0; public.key_size_bytes()];
    let len = match cipher {
        Cipher::RsaPkcs1 => {
            let key = Pkcs1PublicEncryptingKey::new(public).map_err(too_long)?;
            key.encrypt(input, &mut sealed).map_err(too_long)?.len()
        }
        Cipher::RsaOaep { hash, mask, label } => {
            let Some(algorithm) = oaep(*hash).filter(|_| mask == hash && label.is_empty()) else {
                return rsa::oaep_encrypt((*hash, *mask, label), key, input);
            };
            let key = OaepPublicEncryptingKey::new(public).map_err(too_long)?;
            key.encrypt(algorithm, input, &mut sealed, None).map_err(too_long)?.len()
        }
        _ => return Err(cannot("a public key encrypts with RSA only")),
    };
    sealed.truncate(len);
    Ok(sealed)
}
