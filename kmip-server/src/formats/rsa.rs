//! RSA keys: PKCS#1, PKCS#8, X.509 and transparent forms, all by way of PKCS#1.

use kmip::{enums::KeyFormatType as Format, tag::Tag};
use pkcs1::{RsaPrivateKey, RsaPrivateKeyRef, RsaPublicKey, RsaPublicKeyRef};
use pkcs8::{
    AlgorithmIdentifierRef, PrivateKeyInfoRef, SubjectPublicKeyInfoRef,
    der::{
        Decode, Encode,
        asn1::{BitStringRef, OctetStringRef, UintRef},
    },
};
use wiped::Wiped;

use super::{Encoded, transparent};

/// The PKCS#1 form of a private key, checked.
pub(super) fn private(bytes: &[u8], stored: Format) -> Option<Encoded> {
    match stored {
        Format::Pkcs1 => checked_private(bytes),
        Format::Pkcs8 => {
            let info = PrivateKeyInfoRef::from_der(bytes).ok()?;
            (info.algorithm.oid == pkcs1::ALGORITHM_OID).then_some(())?;
            checked_private(info.private_key.as_bytes())
        }
        Format::TransparentRsaPrivateKey => from_transparent(bytes),
        _ => None,
    }
}

fn checked_private(bytes: &[u8]) -> Option<Encoded> {
    RsaPrivateKeyRef::from_der(bytes).ok()?;
    Some(Wiped::copy_of(bytes))
}

/// Only when all fields are there: what is missing is not computed.
fn from_transparent(fields: &[u8]) -> Option<Encoded> {
    let whole = transparent::whole(fields);
    let item = transparent::open(&whole)?;
    let number = |tag| UintRef::new(transparent::number(&item, tag)?).ok();
    let key = RsaPrivateKey {
        modulus: number(Tag::Modulus)?,
        public_exponent: number(Tag::PublicExponent)?,
        private_exponent: number(Tag::PrivateExponent)?,
        prime1: number(Tag::P)?,
        prime2: number(Tag::Q)?,
        exponent1: number(Tag::PrimeExponentP)?,
        exponent2: number(Tag::PrimeExponentQ)?,
        coefficient: number(Tag::CRTCoefficient)?,
        other_prime_infos: None,
    };
    key.to_der().ok().map(Wiped::new)
}

/// A private key in the form `wanted`.
pub(super) fn say_private(pkcs1: &[u8], wanted: Format) -> Option<Encoded> {
    match wanted {
        Format::Pkcs1 => Some(Wiped::copy_of(pkcs1)),
        Format::Pkcs8 => {
            let key = OctetStringRef::new(pkcs1).ok()?;
            PrivateKeyInfoRef::new(pkcs1::ALGORITHM_ID, key).to_der().ok().map(Wiped::new)
        }
        Format::TransparentRsaPrivateKey => {
            let key = RsaPrivateKeyRef::from_der(pkcs1).ok()?;
            Some(transparent::write(|w| {
                for (tag, number) in [
                    (Tag::Modulus, &key.modulus),
                    (Tag::PrivateExponent, &key.private_exponent),
                    (Tag::PublicExponent, &key.public_exponent),
                    (Tag::P, &key.prime1),
                    (Tag::Q, &key.prime2),
                    (Tag::PrimeExponentP, &key.exponent1),
                    (Tag::PrimeExponentQ, &key.exponent2),
                    (Tag::CRTCoefficient, &key.coefficient),
                ] {
                    transparent::put_number(w, tag, number.as_bytes());
                }
            }))
        }
        _ => None,
    }
}

/// The PKCS#1 form of a public key, checked.
pub(super) fn public(bytes: &[u8], stored: Format) -> Option<Encoded> {
    match stored {
        Format::Pkcs1 => checked_public(bytes),
        Format::X509 => {
            let info = SubjectPublicKeyInfoRef::from_der(bytes).ok()?;
            (info.algorithm.oid == pkcs1::ALGORITHM_OID).then_some(())?;
            checked_public(info.subject_public_key.as_bytes()?)
        }
        Format::TransparentRsaPublicKey => {
            let whole = transparent::whole(bytes);
            let item = transparent::open(&whole)?;
            let number = |tag| UintRef::new(transparent::number(&item, tag)?).ok();
            let (modulus, public_exponent) = (number(Tag::Modulus)?, number(Tag::PublicExponent)?);
            RsaPublicKey { modulus, public_exponent }.to_der().ok().map(Wiped::new)
        }
        _ => None,
    }
}

fn checked_public(bytes: &[u8]) -> Option<Encoded> {
    RsaPublicKeyRef::from_der(bytes).ok()?;
    Some(Wiped::copy_of(bytes))
}

/// A public key in the form `wanted`.
pub(super) fn say_public(pkcs1: &[u8], wanted: Format) -> Option<Encoded> {
    match wanted {
        Format::Pkcs1 => Some(Wiped::copy_of(pkcs1)),
        Format::X509 => {
            let algorithm: AlgorithmIdentifierRef<'_> = pkcs1::ALGORITHM_ID;
            let subject_public_key = BitStringRef::from_bytes(pkcs1).ok()?;
            let info = SubjectPublicKeyInfoRef { algorithm, subject_public_key };
            info.to_der().ok().map(Wiped::new)
        }
        Format::TransparentRsaPublicKey => {
            let key = RsaPublicKeyRef::from_der(pkcs1).ok()?;
            Some(transparent::write(|w| {
                transparent::put_number(w, Tag::Modulus, key.modulus.as_bytes());
                transparent::put_number(w, Tag::PublicExponent, key.public_exponent.as_bytes());
            }))
        }
        _ => None,
    }
}
