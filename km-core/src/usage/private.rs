//! The parts of private keys, as tokens take them, and their public halves. Enter through [`parts`].

use aws_lc_rs::{
    agreement::{self, X25519},
    signature::{Ed25519KeyPair, KeyPair, PqdsaKeyPair},
};

use super::{KeyKind, agree, der, process};
use crate::material::ClearBytes;

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
/// `[0]`, primitive: the seed of an ML-DSA key.
const SEED: u8 = 0x80;
/// `[1]`, constructed: the public half in an EC private key.
const PUBLIC: u8 = 0xA1;
const SEED_BYTES: usize = 32;

/// The secret and other numbers of a private key. All are within the bytes it was read from.
pub enum Parts<'a> {
    /// Modulus, public and private exponent, two primes, their exponents, coefficient.
    Rsa([&'a [u8]; 8]),
    /// The secret number, and the public point where the key tells it.
    Ec(&'a [u8], Option<&'a [u8]>),
    /// The seed of an Ed25519 or ML-DSA key, or the secret bytes of an X25519 key.
    Seed(&'a [u8]),
}

/// The public half of a key of `kind` as [`super::public`] reads it: as the key tells it, else computed
/// from the secret number or seed. `None` when they are none of this kind.
pub fn public_half(kind: KeyKind, parts: &Parts<'_>) -> Option<Vec<u8>> {
    Some(match (kind, parts) {
        (KeyKind::Rsa, Parts::Rsa([n, e, ..])) => der::rsa_public(n, e),
        (KeyKind::Ec(curve), Parts::Ec(_, Some(point))) => der::ec_public(curve, point),
        (KeyKind::Ec(curve), Parts::Ec(secret, None)) => {
            let key = agreement::PrivateKey::from_private_key(agree::ecdh(curve), secret).ok()?;
            der::ec_public(curve, key.compute_public_key().ok()?.as_ref())
        }
        (KeyKind::X25519, Parts::Seed(secret)) => {
            let key = agreement::PrivateKey::from_private_key(&X25519, secret).ok()?;
            der::x25519_public(key.compute_public_key().ok()?.as_ref())
        }
        (KeyKind::Ed25519, Parts::Seed(seed)) => {
            let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
            der::ed25519_public(pair.public_key().as_ref())
        }
        (KeyKind::MlDsa(set), Parts::Seed(seed)) => {
            let pair = PqdsaKeyPair::from_seed(process::dsa(set), seed).ok()?;
            der::ml_dsa_public(set, pair.public_key().as_ref())
        }
        _ => return None,
    })
}

/// Takes a key of `kind` apart: PKCS #8, or the older PKCS #1 and SEC 1, or the bare seed of an
/// Ed25519 or X25519 key. `None` when it is no such key, or of a form that is not read here.
pub fn parts(kind: KeyKind, bytes: &[u8]) -> Option<Parts<'_>> {
    if is_bare(kind, bytes) {
        return Some(Parts::Seed(bytes));
    }
    let mut key = Reader(whole(SEQUENCE, bytes)?);
    key.take(INTEGER)?;
    let inner = match *key.0.first()? {
        SEQUENCE => {
            let mut expected = der::algorithm(kind)?;
            let algorithm = expected.split_off(2);
            (key.take(SEQUENCE)? == algorithm).then_some(())?;
            key.take(OCTETS)?
        }
        _ => bytes,
    };
    match kind {
        KeyKind::Rsa => {
            let mut key = Reader(whole(SEQUENCE, inner)?);
            key.take(INTEGER)?;
            let mut numbers = [&[][..]; 8];
            for number in &mut numbers {
                *number = positive(key.take(INTEGER)?)?;
            }
            Some(Parts::Rsa(numbers))
        }
        KeyKind::Ec(curve) => {
            let mut key = Reader(whole(SEQUENCE, inner)?);
            key.take(INTEGER)?;
            let secret = key.take(OCTETS)?;
            while let Some(tag) = key.0.first().filter(|tag| **tag != PUBLIC) {
                key.take(*tag)?;
            }
            // A BIT STRING, whose first byte counts unused bits.
            let public = key.take(PUBLIC).and_then(|bits| whole(0x03, bits));
            let public = public.and_then(|bits| bits.strip_prefix(&[0]));
            (secret.len() == curve.bytes()).then_some(Parts::Ec(secret, public))
        }
        KeyKind::Ed25519 | KeyKind::X25519 => seed(whole(OCTETS, inner)?),
        KeyKind::MlDsa(_) => match *inner.first()? {
            SEED => seed(whole(SEED, inner)?),
            SEQUENCE => seed(Reader(whole(SEQUENCE, inner)?).take(OCTETS)?),
            _ => None,
        },
        KeyKind::Aes | KeyKind::Hmac | KeyKind::TripleDes | KeyKind::Local(_) => None,
    }
}

/// A key that [`parts`] reads, as PKCS #8. `None` when it is none.
pub fn pkcs8(kind: KeyKind, bytes: &[u8]) -> Option<ClearBytes> {
    parts(kind, bytes)?;
    let bare_seed = is_bare(kind, bytes);
    if !bare_seed {
        let mut key = Reader(whole(SEQUENCE, bytes)?);
        key.take(INTEGER)?;
        if key.0.first() == Some(&SEQUENCE) {
            return Some(ClearBytes::copy_from(bytes));
        }
    }
    let inner = if bare_seed { der::head(OCTETS, bytes.len()) } else { Vec::new() };
    let octets = der::head(OCTETS, inner.len() + bytes.len());
    let before = [&[INTEGER, 1, 0][..], &der::algorithm(kind)?, &octets, &inner].concat();
    let outer = der::head(SEQUENCE, before.len() + bytes.len());
    // Its final length, so that no half of it is left behind by growing.
    let mut all = Vec::with_capacity(outer.len() + before.len() + bytes.len());
    [&outer, &before, bytes].iter().for_each(|part| all.extend_from_slice(part));
    Some(ClearBytes::from_vec(all))
}

/// Whether `bytes` are a key of `kind` by their length alone.
fn is_bare(kind: KeyKind, bytes: &[u8]) -> bool {
    matches!(kind, KeyKind::Ed25519 | KeyKind::X25519) && bytes.len() == SEED_BYTES
}

fn seed(bytes: &[u8]) -> Option<Parts<'_>> {
    (bytes.len() == SEED_BYTES).then_some(Parts::Seed(bytes))
}

fn positive(number: &[u8]) -> Option<&[u8]> {
    match number {
        [0, rest @ ..] if !rest.is_empty() => Some(rest),
        [first, ..] if *first < 0x80 => Some(number),
        _ => None,
    }
}

/// The content of the one element that `bytes` is.
pub(super) fn whole(tag: u8, bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(bytes);
    let content = reader.take(tag)?;
    reader.0.is_empty().then_some(content)
}

/// Elements one after the other, of lengths below 2^16.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_first()?;
        (*found == tag).then_some(())?;
        let (len, rest) = match rest {
            [len, rest @ ..] if *len < 0x80 => (usize::from(*len), rest),
            [0x81, len, rest @ ..] => (usize::from(*len), rest),
            [0x82, high, low, rest @ ..] => (usize::from(*high) << 8 | usize::from(*low), rest),
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::{Curve, DsaSet, process};

    #[test]
    fn keys_that_the_library_makes_are_read_and_others_are_not() {
        let kinds = [
            KeyKind::Rsa,
            KeyKind::Ec(Curve::P256),
            KeyKind::Ec(Curve::P384),
            KeyKind::Ec(Curve::P521),
            KeyKind::Ed25519,
            KeyKind::X25519,
            KeyKind::MlDsa(DsaSet::MlDsa44),
            KeyKind::MlDsa(DsaSet::MlDsa87),
        ];
        for kind in kinds {
            let made = process::make(kind, 2048).unwrap();
            made.private.expose(|bytes| {
                let whole_key = parts(kind, bytes).unwrap();
                assert_eq!(public_half(kind, &whole_key).unwrap(), made.public, "{kind:?}");
                match (kind, whole_key) {
                    (KeyKind::Rsa, Parts::Rsa([n, e, d, p, ..])) => {
                        assert_eq!((n.len(), e, p.len()), (256, &[1, 0, 1][..], 128));
                        assert!(d.len() > 200);
                    }
                    (KeyKind::Ec(curve), Parts::Ec(secret, public)) => {
                        assert_eq!(secret.len(), curve.bytes());
                        assert!(public.is_some());
                        let computed = public_half(kind, &Parts::Ec(secret, None));
                        assert_eq!(computed.unwrap(), made.public, "{kind:?}");
                    }
                    (_, Parts::Seed(seed)) => assert_eq!(seed.len(), SEED_BYTES),
                    _ => panic!("{kind:?}"),
                }
                if matches!(kind, KeyKind::Rsa | KeyKind::Ec(_)) {
                    // PKCS #1, SEC 1.
                    let mut outer = Reader(whole(SEQUENCE, bytes).unwrap());
                    outer.take(INTEGER).unwrap();
                    outer.take(SEQUENCE).unwrap();
                    let bare = outer.take(OCTETS).unwrap();
                    assert!(parts(kind, bare).is_some());
                    let again = pkcs8(kind, bare).unwrap();
                    again.expose(|again| {
                        let same = parts(kind, again).unwrap();
                        assert_eq!(public_half(kind, &same).unwrap(), made.public);
                        assert_ne!(again, bare);
                    });
                }
                assert_eq!(pkcs8(kind, bytes).unwrap().len(), bytes.len());
                if let (KeyKind::Ed25519 | KeyKind::X25519, Some(Parts::Seed(seed))) =
                    (kind, parts(kind, bytes))
                {
                    let again = pkcs8(kind, seed).unwrap();
                    again.expose(|again| {
                        let same = parts(kind, again).unwrap();
                        assert_eq!(public_half(kind, &same).unwrap(), made.public);
                    });
                }
                for other in kinds.iter().filter(|other| **other != kind) {
                    assert!(parts(*other, bytes).is_none(), "{kind:?} as {other:?}");
                }
                // An Ed25519 or X25519 seed is a key by itself.
                for len in (0..bytes.len()).filter(|len| *len != SEED_BYTES) {
                    assert!(parts(kind, &bytes[..len]).is_none(), "{kind:?} cut to {len}");
                }
                let longer = [bytes, &[0]].concat();
                assert!(parts(kind, &longer).is_none());
            });
        }
    }
}
