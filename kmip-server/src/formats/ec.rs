//! Keys on named elliptic curves: SEC1, PKCS#8, X.509 and transparent forms.

use kmip::{enums::KeyFormatType as Format, tag::Tag};
use pkcs8::{
    AlgorithmIdentifierRef, ObjectIdentifier, PrivateKeyInfoRef, SubjectPublicKeyInfoRef,
    der::{
        Decode, Encode,
        asn1::{AnyRef, BitStringRef, OctetStringRef},
    },
};
use sec1::{EcParameters, EcPrivateKey};
use wiped::Wiped;

use super::{Encoded, transparent};

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// A curve with its number in KMIP and the bytes of a coordinate.
#[derive(Clone, Copy)]
pub(super) struct Curve {
    oid: ObjectIdentifier,
    number: u32,
    bytes: usize,
}

const CURVES: [Curve; 5] = [
    Curve { oid: ObjectIdentifier::new_unwrap("1.3.132.0.33"), number: 0x04, bytes: 28 },
    Curve { oid: ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"), number: 0x07, bytes: 32 },
    Curve { oid: ObjectIdentifier::new_unwrap("1.3.132.0.34"), number: 0x0A, bytes: 48 },
    Curve { oid: ObjectIdentifier::new_unwrap("1.3.132.0.35"), number: 0x0D, bytes: 66 },
    // secp256k1.
    Curve { oid: ObjectIdentifier::new_unwrap("1.3.132.0.10"), number: 0x19, bytes: 32 },
];

impl Curve {
    fn of_oid(oid: ObjectIdentifier) -> Option<Self> {
        CURVES.into_iter().find(|curve| curve.oid == oid)
    }

    fn of_number(number: u32) -> Option<Self> {
        CURVES.into_iter().find(|curve| curve.number == number)
    }
}

/// A private key: its number, and its point when it came along.
pub(super) struct Private {
    curve: Curve,
    number: Encoded,
    point: Option<Vec<u8>>,
}

/// Reads a private key of the form `stored`.
pub(super) fn private(bytes: &[u8], stored: Format) -> Option<Private> {
    match stored {
        Format::EcPrivateKey => from_sec1(bytes, None),
        Format::Pkcs8 => {
            let info = PrivateKeyInfoRef::from_der(bytes).ok()?;
            (info.algorithm.oid == EC_PUBLIC_KEY).then_some(())?;
            let curve = info.algorithm.parameters_oid().ok()?;
            from_sec1(info.private_key.as_bytes(), Some(curve))
        }
        _ if is_transparent_private(stored) => {
            let whole = transparent::whole(bytes);
            let item = transparent::open(&whole)?;
            let curve = item.required(Tag::RecommendedCurve).ok()?.enumeration().ok()?;
            let curve = Curve::of_number(curve)?;
            let number = padded(transparent::number(&item, Tag::D)?, curve.bytes)?;
            Some(Private { curve, number, point: None })
        }
        _ => None,
    }
}

fn from_sec1(bytes: &[u8], outer: Option<ObjectIdentifier>) -> Option<Private> {
    let key = EcPrivateKey::from_der(bytes).ok()?;
    let inner = key.parameters.and_then(EcParameters::named_curve);
    let curve = Curve::of_oid(inner.or(outer)?)?;
    let number = padded(key.private_key, curve.bytes)?;
    Some(Private { curve, number, point: key.public_key.map(<[u8]>::to_vec) })
}

/// `number` with leading zeros up to `len`.
fn padded(number: &[u8], len: usize) -> Option<Encoded> {
    let zeros = len.checked_sub(number.len())?;
    let mut padded = Wiped::zeros(len);
    padded.get_mut(zeros..)?.copy_from_slice(number);
    Some(padded)
}

fn is_transparent_private(format: Format) -> bool {
    matches!(
        format,
        Format::TransparentEcPrivateKey
            | Format::TransparentEcdsaPrivateKey
            | Format::TransparentEcdhPrivateKey
            | Format::TransparentEcmqvPrivateKey
    )
}

fn is_transparent_public(format: Format) -> bool {
    matches!(
        format,
        Format::TransparentEcPublicKey
            | Format::TransparentEcdsaPublicKey
            | Format::TransparentEcdhPublicKey
            | Format::TransparentEcmqvPublicKey
    )
}

impl Private {
    /// The key in the form `wanted`.
    pub(super) fn say(&self, wanted: Format) -> Option<Encoded> {
        match wanted {
            Format::EcPrivateKey => self.sec1(true),
            Format::Pkcs8 => {
                // The algorithm names the curve already.
                let inner = self.sec1(false)?;
                let key = OctetStringRef::new(&inner).ok()?;
                let info = PrivateKeyInfoRef::new(algorithm(&self.curve), key);
                info.to_der().ok().map(Wiped::new)
            }
            _ if is_transparent_private(wanted) => Some(transparent::write(|w| {
                w.enumeration(Tag::RecommendedCurve, self.curve.number);
                let zeros = self.number.iter().take_while(|byte| **byte == 0).count();
                let number = self.number.get(zeros..).unwrap_or_default();
                transparent::put_number(w, Tag::D, number);
            })),
            _ => None,
        }
    }

    fn sec1(&self, named: bool) -> Option<Encoded> {
        let parameters = named.then_some(EcParameters::NamedCurve(self.curve.oid));
        let public_key = self.point.as_deref();
        let key = EcPrivateKey { private_key: &self.number, parameters, public_key };
        key.to_der().ok().map(Wiped::new)
    }
}

fn algorithm(curve: &Curve) -> AlgorithmIdentifierRef<'_> {
    AlgorithmIdentifierRef { oid: EC_PUBLIC_KEY, parameters: Some(AnyRef::from(&curve.oid)) }
}

/// A public key: a point on a curve.
pub(super) struct Public {
    curve: Curve,
    point: Vec<u8>,
}

/// Reads a public key of the form `stored`.
pub(super) fn public(bytes: &[u8], stored: Format) -> Option<Public> {
    match stored {
        Format::X509 => {
            let info = SubjectPublicKeyInfoRef::from_der(bytes).ok()?;
            (info.algorithm.oid == EC_PUBLIC_KEY).then_some(())?;
            let curve = Curve::of_oid(info.algorithm.parameters_oid().ok()?)?;
            Public::new(curve, info.subject_public_key.as_bytes()?)
        }
        _ if is_transparent_public(stored) => {
            let whole = transparent::whole(bytes);
            let item = transparent::open(&whole)?;
            let curve = item.required(Tag::RecommendedCurve).ok()?.enumeration().ok()?;
            let point = item.required(Tag::QString).ok()?.bytes().ok()?;
            Public::new(Curve::of_number(curve)?, point)
        }
        _ => None,
    }
}

impl Public {
    /// Compressed or not, the point has the length of its curve.
    fn new(curve: Curve, point: &[u8]) -> Option<Self> {
        let len = match point.first()? {
            2 | 3 => 1 + curve.bytes,
            4 => 1 + 2 * curve.bytes,
            _ => return None,
        };
        (point.len() == len).then(|| Self { curve, point: point.to_vec() })
    }

    /// The key in the form `wanted`.
    pub(super) fn say(&self, wanted: Format) -> Option<Encoded> {
        match wanted {
            Format::X509 => {
                let subject_public_key = BitStringRef::from_bytes(&self.point).ok()?;
                let algorithm = algorithm(&self.curve);
                let info = SubjectPublicKeyInfoRef { algorithm, subject_public_key };
                info.to_der().ok().map(Wiped::new)
            }
            _ if is_transparent_public(wanted) => Some(transparent::write(|w| {
                w.enumeration(Tag::RecommendedCurve, self.curve.number);
                w.bytes(Tag::QString, &self.point);
            })),
            _ => None,
        }
    }
}
