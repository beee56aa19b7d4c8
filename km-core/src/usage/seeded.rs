//! Key pairs of random numbers that are given, in this process. Enter through [`make`].

use aws_lc_rs::{
    agreement::{PrivateKey, X25519},
    signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair, PqdsaKeyPair},
};
use wiped::Wiped;

use super::{
    Curve, KeyKind, agree, der, private,
    process::{MadePair, cannot, dsa, signing},
};
use crate::{hsm::HsmError, material::ClearBytes};

/// Of an Ed25519, X25519 or ML-DSA key.
const SEED_BYTES: usize = 32;
/// Of the first byte of a number on P-521.
const P521_BITS: u8 = 0x01;

/// Random bytes that a pair of `kind` is made of. `None` where the library asks its own generator: RSA.
pub fn seed_bytes(kind: KeyKind) -> Option<usize> {
    match kind {
        KeyKind::Ec(curve) => Some(curve.bytes()),
        KeyKind::Ed25519 | KeyKind::X25519 | KeyKind::MlDsa(_) => Some(SEED_BYTES),
        _ => None,
    }
}

/// The key pair of `kind` that [`seed_bytes`] random bytes are. `None` when they are no number of the
/// curve, as one in 2^32 is not: others are to be drawn (FIPS 186-5, A.2.2).
///
/// # Errors
/// [`HsmError::Unsupported`] for other kinds and other lengths.
pub fn make(kind: KeyKind, seed: &ClearBytes) -> Result<Option<MadePair>, HsmError> {
    let failed = || cannot("the library made no key pair");
    if seed_bytes(kind) != Some(seed.len()) {
        return Err(failed());
    }
    seed.expose(|seed| {
        let pair = match kind {
            KeyKind::Ec(curve) => return ec(curve, seed),
            KeyKind::Ed25519 => {
                let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| failed())?;
                let private = pair.to_pkcs8v1().map_err(|_| failed())?;
                MadePair {
                    private: ClearBytes::copy_from(private.as_ref()),
                    public: der::ed25519_public(pair.public_key().as_ref()),
                }
            }
            KeyKind::MlDsa(set) => {
                let pair = PqdsaKeyPair::from_seed(dsa(set), seed).map_err(|_| failed())?;
                let private = pair.to_pkcs8v1().map_err(|_| failed())?;
                MadePair {
                    private: ClearBytes::copy_from(private.as_ref()),
                    public: der::ml_dsa_public(set, pair.public_key().as_ref()),
                }
            }
            _ => {
                let key = PrivateKey::from_private_key(&X25519, seed).map_err(|_| failed())?;
                let point = key.compute_public_key().map_err(|_| failed())?;
                MadePair {
                    private: private::pkcs8(kind, seed).ok_or_else(failed)?,
                    public: der::x25519_public(point.as_ref()),
                }
            }
        };
        Ok(Some(pair))
    })
}

fn ec(curve: Curve, seed: &[u8]) -> Result<Option<MadePair>, HsmError> {
    let failed = |_| cannot("the library made no key pair");
    let mut secret = Wiped::copy_of(seed);
    if let (Curve::P521, Some(first)) = (curve, secret.first_mut()) {
        *first &= P521_BITS;
    }
    // It refuses zero and what is not below the order.
    let Ok(key) = PrivateKey::from_private_key(agree::ecdh(curve), &secret) else {
        return Ok(None);
    };
    let point = key.compute_public_key().map_err(failed)?;
    let pair =
        EcdsaKeyPair::from_private_key_and_public_key(signing(curve), &secret, point.as_ref());
    let pair = pair.map_err(|_| cannot("the library made no key pair"))?;
    let private = pair.to_pkcs8v1().map_err(failed)?;
    Ok(Some(MadePair {
        private: ClearBytes::copy_from(private.as_ref()),
        public: der::ec_public(curve, point.as_ref()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::{DsaSet, private::parts, private::public_half};

    const KINDS: [KeyKind; 7] = [
        KeyKind::Ec(Curve::P256),
        KeyKind::Ec(Curve::P384),
        KeyKind::Ec(Curve::P521),
        KeyKind::Ed25519,
        KeyKind::X25519,
        KeyKind::MlDsa(DsaSet::MlDsa44),
        KeyKind::MlDsa(DsaSet::MlDsa87),
    ];

    #[test]
    fn a_pair_is_made_of_its_random_numbers_and_of_nothing_else() {
        for kind in KINDS {
            let len = seed_bytes(kind).unwrap();
            let made = |byte: u8| {
                let seed = (1..=len).map(|n| byte.wrapping_mul(n as u8) & 0x7F).collect();
                make(kind, &ClearBytes::from_vec(seed)).unwrap().unwrap()
            };
            let (one, again, other) = (made(3), made(3), made(5));
            assert_eq!((&one.private, &one.public), (&again.private, &again.public), "{kind:?}");
            assert_ne!(one.public, other.public, "{kind:?}");
            one.private.expose(|bytes| {
                let read = parts(kind, bytes).unwrap();
                assert_eq!(public_half(kind, &read).unwrap(), one.public, "{kind:?}");
            });
        }
    }

    #[test]
    fn what_is_no_number_of_the_curve_makes_no_pair() {
        for curve in [Curve::P256, Curve::P384, Curve::P521] {
            for byte in [0, 0xFF] {
                let seed = ClearBytes::from_vec(vec![byte; curve.bytes()]);
                assert!(make(KeyKind::Ec(curve), &seed).unwrap().is_none(), "{curve:?} {byte}");
            }
        }
        let short = ClearBytes::from_vec(vec![7; 31]);
        assert!(KINDS.iter().all(|kind| make(*kind, &short).is_err()));
        assert!(make(KeyKind::Rsa, &short).is_err());
    }
}
