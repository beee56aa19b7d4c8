//! Key agreement: the secret that a private key and another's public key share. Enter through
//! [`kind_of`]; a token takes the other's key as [`point`], this process as it is ([`agree`]).

use aws_lc_rs::agreement::{
    self, Algorithm, ECDH_P256, ECDH_P384, ECDH_P521, ParsedPublicKey, PrivateKey,
    UnparsedPublicKey, X25519,
};

use super::{
    Curve, KeyKind, der,
    private::{Parts, Reader, parts, whole},
};
use crate::{hsm::HsmError, material::ClearBytes};

/// What secrets are agreed on with.
const KINDS: [KeyKind; 4] =
    [KeyKind::Ec(Curve::P256), KeyKind::Ec(Curve::P384), KeyKind::Ec(Curve::P521), KeyKind::X25519];
const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
/// Bytes of a key of X25519, and of what it gives.
const X25519_BYTES: usize = 32;

/// ECDH on a curve.
pub(super) fn ecdh(curve: Curve) -> &'static Algorithm {
    match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
        Curve::P521 => &ECDH_P521,
    }
}

fn algorithm(kind: KeyKind) -> Option<&'static Algorithm> {
    match kind {
        KeyKind::Ec(curve) => Some(ecdh(curve)),
        KeyKind::X25519 => Some(&X25519),
        _ => None,
    }
}

/// Bytes of what keys of `kind` agree on; none for those that agree on nothing.
pub fn secret_bytes(kind: KeyKind) -> Option<usize> {
    match kind {
        KeyKind::Ec(curve) => Some(curve.bytes()),
        KeyKind::X25519 => Some(X25519_BYTES),
        _ => None,
    }
}

/// What a public key (SubjectPublicKeyInfo in DER) is for: a curve that secrets are agreed on with.
/// Whether it is a valid one there is not looked at.
///
/// # Errors
/// [`HsmError::Input`] for any other.
pub fn kind_of(public: &[u8]) -> Result<KeyKind, HsmError> {
    let named = |kind: &KeyKind| inner(*kind, public).is_some();
    let none = || misfit("the public key is not on P-256, P-384, P-521 or X25519");
    KINDS.into_iter().find(named).ok_or_else(none)
}

/// The bare point of a public key of `kind`, as tokens take it: not compressed, or the 32 bytes of
/// X25519. That it is on the curve is looked at here, since not every token does.
///
/// # Errors
/// [`HsmError::Input`] when it is no valid key, [`HsmError::Unsupported`] when it is in another form.
pub fn point(kind: KeyKind, public: &[u8]) -> Result<&[u8], HsmError> {
    let algorithm = algorithm(kind).ok_or_else(|| cannot("such keys agree on no secret"))?;
    let valid = ParsedPublicKey::try_from(UnparsedPublicKey::new(algorithm, public));
    valid.map_err(|_| refused())?;
    let point = inner(kind, public).ok_or_else(refused)?;
    match (kind, point) {
        (KeyKind::Ec(curve), [0x04, rest @ ..]) if rest.len() == 2 * curve.bytes() => Ok(point),
        (KeyKind::X25519, _) if point.len() == X25519_BYTES => Ok(point),
        _ => Err(cannot("tokens are given no compressed points")),
    }
}

/// The shared secret of `private` (PKCS #8 or SEC 1, of `kind`) and `public` (SubjectPublicKeyInfo
/// in DER): for ECDH the x-coordinate in the bytes of the curve, for X25519 32 bytes.
///
/// # Errors
/// [`HsmError::Input`] when one of them is no valid key of `kind`; the result of X25519 is never
/// zero.
pub(super) fn agree(kind: KeyKind, private: &[u8], public: &[u8]) -> Result<ClearBytes, HsmError> {
    let key = key_of(kind, private).ok_or_else(refused)?;
    let public = UnparsedPublicKey::new(key.algorithm(), public);
    agreement::agree(&key, public, refused(), |secret| Ok(ClearBytes::copy_from(secret)))
}

/// The key inside a SubjectPublicKeyInfo whose `AlgorithmIdentifier` is that of `kind`.
fn inner(kind: KeyKind, public: &[u8]) -> Option<&[u8]> {
    let mut info = Reader(whole(SEQUENCE, public)?);
    let mut algorithm = der::algorithm(kind)?;
    let algorithm = algorithm.split_off(2);
    (info.take(SEQUENCE)? == algorithm).then_some(())?;
    info.take(BIT_STRING)?.strip_prefix(&[0])
}

fn key_of(kind: KeyKind, bytes: &[u8]) -> Option<PrivateKey> {
    match kind {
        KeyKind::Ec(curve) => PrivateKey::from_private_key_der(ecdh(curve), bytes).ok(),
        _ => match parts(KeyKind::X25519, bytes) {
            Some(Parts::Seed(secret)) => PrivateKey::from_private_key(&X25519, secret).ok(),
            _ => None,
        },
    }
}

fn refused() -> HsmError {
    misfit("the private and the public key are not two valid keys on one curve")
}

fn misfit(what: &str) -> HsmError {
    HsmError::Input(what.to_owned())
}

fn cannot(what: &str) -> HsmError {
    HsmError::Unsupported(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::process;

    #[test]
    fn points_are_found_where_they_are_valid() {
        for kind in KINDS {
            let made = process::make(kind, 0).unwrap();
            assert_eq!(kind_of(&made.public), Ok(kind));
            let point = point(kind, &made.public).unwrap();
            assert!(made.public.ends_with(point) && point.len() >= 32);
            for other in KINDS.into_iter().filter(|other| *other != kind) {
                assert!(super::point(other, &made.public).is_err(), "{kind:?} as {other:?}");
            }
            let KeyKind::Ec(curve) = kind else { continue };
            // Beside the curve, at infinity, and compressed.
            let mut beside = made.public.clone();
            *beside.last_mut().unwrap() ^= 1;
            let [infinity, compressed] = [&[0][..], &[&[2], &point[1..=curve.bytes()]].concat()]
                .map(|point| der::ec_public(curve, point));
            for wrong in [&beside, &infinity] {
                assert_eq!(kind_of(wrong), Ok(kind));
                assert_eq!(super::point(kind, wrong), Err(refused()), "{kind:?}");
                let private = made.private.expose(|key| agree(kind, key, wrong));
                assert_eq!(private, Err(refused()), "{kind:?}");
            }
            let odd = super::point(kind, &compressed);
            assert!(matches!(odd, Err(HsmError::Unsupported(_))), "{odd:?}");
        }
        let ed25519 = process::make(KeyKind::Ed25519, 0).unwrap();
        assert!(matches!(kind_of(&ed25519.public), Err(HsmError::Input(_))));
        assert!(kind_of(b"").is_err());
    }
}
