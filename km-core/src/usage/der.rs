//! The few DER structures around public keys and signatures.

use super::{Curve, DsaSet, Hash, KeyKind};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
/// `AlgorithmIdentifier` of RSA: rsaEncryption and NULL.
const RSA: &[u8] =
    &[0x30, 0x0D, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01, 0x05, 0x00];
/// `AlgorithmIdentifier` of Ed25519.
const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70];
/// `AlgorithmIdentifier` of X25519.
const X25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x6E];
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01];

/// The object identifier of Ed25519, as PKCS #11 takes it for `CKA_EC_PARAMS`.
pub const ED25519_OID: &[u8] = &[0x06, 0x03, 0x2B, 0x65, 0x70];
/// The object identifier of X25519, likewise.
pub const X25519_OID: &[u8] = &[0x06, 0x03, 0x2B, 0x65, 0x6E];

fn ml_dsa(set: DsaSet) -> [u8; 13] {
    let last = match set {
        DsaSet::MlDsa44 => 0x11,
        DsaSet::MlDsa65 => 0x12,
        DsaSet::MlDsa87 => 0x13,
    };
    [0x30, 0x0B, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, last]
}

/// SubjectPublicKeyInfo of an ML-DSA key (RFC 9881).
pub fn ml_dsa_public(set: DsaSet, key: &[u8]) -> Vec<u8> {
    wrap(SEQUENCE, &[&ml_dsa(set), &wrap(BIT_STRING, &[&[0], key])])
}

/// `AlgorithmIdentifier` of private keys of `kind` (PKCS #8); none for those that are no pairs.
pub(super) fn algorithm(kind: KeyKind) -> Option<Vec<u8>> {
    Some(match kind {
        KeyKind::Rsa => RSA.to_vec(),
        KeyKind::Ec(curve) => wrap(SEQUENCE, &[EC_PUBLIC_KEY, curve_oid(curve)]),
        KeyKind::Ed25519 => ED25519.to_vec(),
        KeyKind::X25519 => X25519.to_vec(),
        KeyKind::MlDsa(set) => ml_dsa(set).to_vec(),
        KeyKind::Aes | KeyKind::Hmac | KeyKind::TripleDes | KeyKind::Local(_) => return None,
    })
}

/// The object identifier of a curve, as PKCS #11 takes it for `CKA_EC_PARAMS`.
pub fn curve_oid(curve: Curve) -> &'static [u8] {
    match curve {
        Curve::P256 => &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07],
        Curve::P384 => &[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x22],
        Curve::P521 => &[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x23],
    }
}

/// SubjectPublicKeyInfo of an uncompressed point.
pub fn ec_public(curve: Curve, point: &[u8]) -> Vec<u8> {
    let algorithm = wrap(SEQUENCE, &[EC_PUBLIC_KEY, curve_oid(curve)]);
    wrap(SEQUENCE, &[&algorithm, &wrap(BIT_STRING, &[&[0], point])])
}

/// SubjectPublicKeyInfo of an Ed25519 key.
pub fn ed25519_public(key: &[u8]) -> Vec<u8> {
    wrap(SEQUENCE, &[ED25519, &wrap(BIT_STRING, &[&[0], key])])
}

/// SubjectPublicKeyInfo of an X25519 key.
pub fn x25519_public(key: &[u8]) -> Vec<u8> {
    wrap(SEQUENCE, &[X25519, &wrap(BIT_STRING, &[&[0], key])])
}

/// PKCS #1 RSAPublicKey.
pub fn rsa_public(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    wrap(SEQUENCE, &[&integer(modulus), &integer(exponent)])
}

/// SubjectPublicKeyInfo of a PKCS #1 RSAPublicKey.
pub(super) fn rsa_info(key: &[u8]) -> Vec<u8> {
    wrap(SEQUENCE, &[RSA, &wrap(BIT_STRING, &[&[0], key])])
}

/// What stands before the hash in a DigestInfo (RFC 8017, 9.2).
pub fn digest_info(hash: Hash) -> Vec<u8> {
    let nist = |last| vec![0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last];
    let name = match hash {
        Hash::Sha1 => vec![0x06, 0x05, 0x2B, 0x0E, 0x03, 0x02, 0x1A],
        Hash::Sha256 => nist(0x01),
        Hash::Sha384 => nist(0x02),
        Hash::Sha512 => nist(0x03),
        Hash::Sha224 => nist(0x04),
        Hash::Sha3_224 => nist(0x07),
        Hash::Sha3_256 => nist(0x08),
        Hash::Sha3_384 => nist(0x09),
        Hash::Sha3_512 => nist(0x0A),
    };
    let algorithm = wrap(SEQUENCE, &[&name, &[0x05, 0x00]]);
    let octets = head(0x04, hash.len());
    let whole = head(SEQUENCE, algorithm.len() + octets.len() + hash.len());
    [whole, algorithm, octets].concat()
}

/// The two halves of a signature, as X.509 has them.
pub fn ec_signature(halves: &[u8]) -> Vec<u8> {
    let (r, s) = halves.split_at(halves.len() / 2);
    wrap(SEQUENCE, &[&integer(r), &integer(s)])
}

/// The content of a DER OCTET STRING that is all of `bytes`; some tokens put points into one.
pub fn octets(bytes: &[u8]) -> Option<&[u8]> {
    match bytes {
        [0x04, len, content @ ..] if *len < 0x80 && content.len() == usize::from(*len) => {
            Some(content)
        }
        [0x04, 0x81, len, content @ ..] if content.len() == usize::from(*len) => Some(content),
        _ => None,
    }
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let bytes = bytes.get(start..).unwrap_or_default();
    match bytes.first() {
        Some(first) if first & 0x80 == 0 => wrap(INTEGER, &[bytes]),
        _ => wrap(INTEGER, &[&[0], bytes]),
    }
}

fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = head(tag, parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

/// Tag and length of an element whose content has `len` bytes.
pub(super) fn head(tag: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![tag];
    let size = len.to_be_bytes();
    let used = size.iter().position(|byte| *byte != 0).unwrap_or(size.len() - 1);
    let size = size.get(used..).unwrap_or_default();
    if len >= 0x80 {
        bytes.push(0x80 | u8::try_from(size.len()).unwrap_or(0));
    }
    bytes.extend_from_slice(size);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_positive_and_short() {
        assert_eq!(integer(&[0, 0, 0x7F]), [2, 1, 0x7F]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0, 0]), [2, 1, 0]);
    }

    #[test]
    fn lengths_have_their_short_and_long_forms() {
        assert_eq!(wrap(4, &[&[7; 127]])[..2], [4, 127]);
        assert_eq!(wrap(4, &[&[7; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(wrap(4, &[&[7; 300]])[..4], [4, 0x82, 1, 44]);
        assert_eq!(octets(&wrap(4, &[&[7; 133]])), Some(&[7; 133][..]));
        assert_eq!(octets(&[4, 2, 7]), None);
    }
}
