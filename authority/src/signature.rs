//! Algorithms of X.509 in the words of the domain: which key a SubjectPublicKeyInfo holds, and which
//! signature an AlgorithmIdentifier names.

use der::{Decode, Encode, Reader, SliceReader, asn1::AnyRef, oid::ObjectIdentifier};
use km_core::usage::{Curve, DsaSet, Hash, KeyKind, Scheme, public};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const ML_DSA_44: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.17");
const ML_DSA_65: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.18");
const ML_DSA_87: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.19");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

/// ECDSA with SHA-256: what authorities sign with.
pub(crate) const ECDSA_SHA256: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");

/// What the key of `info` is, when it is of a kind the domain verifies with.
pub(crate) fn kind(info: &SubjectPublicKeyInfoOwned) -> Option<KeyKind> {
    Some(match info.algorithm.oid {
        RSA => KeyKind::Rsa,
        ED25519 => KeyKind::Ed25519,
        ML_DSA_44 => KeyKind::MlDsa(DsaSet::MlDsa44),
        ML_DSA_65 => KeyKind::MlDsa(DsaSet::MlDsa65),
        ML_DSA_87 => KeyKind::MlDsa(DsaSet::MlDsa87),
        EC => {
            let named = info.algorithm.parameters.as_ref()?.decode_as::<ObjectIdentifier>().ok()?;
            KeyKind::Ec(match named {
                P256 => Curve::P256,
                P384 => Curve::P384,
                P521 => Curve::P521,
                _ => return None,
            })
        }
        _ => return None,
    })
}

/// The signature that `algorithm` names. RSASSA-PSS and SHA-1 are not verified.
fn scheme(algorithm: &AlgorithmIdentifierOwned) -> Option<Scheme> {
    Some(match algorithm.oid.to_string().as_str() {
        "1.2.840.113549.1.1.11" => Scheme::RsaPkcs1(Hash::Sha256),
        "1.2.840.113549.1.1.12" => Scheme::RsaPkcs1(Hash::Sha384),
        "1.2.840.113549.1.1.13" => Scheme::RsaPkcs1(Hash::Sha512),
        "1.2.840.10045.4.3.2" => Scheme::Ecdsa(Hash::Sha256),
        "1.2.840.10045.4.3.3" => Scheme::Ecdsa(Hash::Sha384),
        "1.2.840.10045.4.3.4" => Scheme::Ecdsa(Hash::Sha512),
        _ => match algorithm.oid {
            ED25519 => Scheme::Ed25519,
            ML_DSA_44 | ML_DSA_65 | ML_DSA_87 => Scheme::MlDsa,
            _ => return None,
        },
    })
}

/// Whether `signature` is one of `signed` under the key of `info`; `None` when the algorithms are
/// not had.
pub(crate) fn verify(
    info: &SubjectPublicKeyInfoOwned,
    algorithm: &AlgorithmIdentifierOwned,
    signed: &[u8],
    signature: &[u8],
) -> Option<bool> {
    let (kind, scheme) = (kind(info)?, scheme(algorithm)?);
    let key = info.to_der().ok()?;
    let digest = scheme.hash().map(|hash| hash.of(signed));
    public::verify(kind, scheme, &key, digest.as_deref().unwrap_or(signed), signature).ok()
}

/// A SubjectPublicKeyInfo in DER; also one of RSA in PKCS #1.
pub(crate) fn read_key(der: &[u8]) -> Option<SubjectPublicKeyInfoOwned> {
    let info = SubjectPublicKeyInfoOwned::from_der(der).ok();
    info.or_else(|| SubjectPublicKeyInfoOwned::from_der(&public::rsa_info(der)?).ok())
}

/// The part of a certificate or request that is signed, as it was signed.
pub(crate) fn signed_part(der: &[u8]) -> Option<&[u8]> {
    let outer = AnyRef::from_der(der).ok()?;
    SliceReader::new(outer.value()).ok()?.tlv_bytes().ok()
}
