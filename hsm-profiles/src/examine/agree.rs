//! The trial of key agreement.

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use km_core::material::ClearBytes;
use km_core::usage::agree::point;
use km_core::usage::{Action, Curve, KeyKind, der, process};

use super::abilities::{Bench, Trial, told};

const KIND: KeyKind = KeyKind::Ec(Curve::P256);
const SECRET_BYTES: u64 = 32;

impl Bench<'_> {
    /// Both ends agree on one secret, the other end being the library; a point beside the curve must be
    /// refused.
    pub(super) fn ecdh(&self) -> Trial {
        self.has("ECDH1_DERIVE")?;
        let (public, private) = self.agreeing_pair()?;
        let other = process::make(KIND, 0).map_err(|error| error.to_string())?;
        let mut there = point(KIND, &other.public).map_err(|error| error.to_string())?.to_vec();
        let known = process::act(KIND, &Action::Agree, &other.private, &public);
        if known.map_err(|error| error.to_string())? != self.agreed(private, &there)? {
            return Err("agrees on another secret than the library".to_owned());
        }
        if let Some(last) = there.last_mut() {
            *last ^= 1;
        }
        Ok(match self.agreed(private, &there) {
            Ok(_) => "takes a point beside the curve: points are checked before".to_owned(),
            Err(_) => String::new(),
        })
    }

    /// A pair of this session, its public half as a SubjectPublicKeyInfo.
    fn agreeing_pair(&self) -> Result<(ClearBytes, ObjectHandle), String> {
        let open =
            [Attribute::Token(false), Attribute::EcParams(der::curve_oid(Curve::P256).to_vec())];
        let mut secret = vec![
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Derive(true),
        ];
        self.profile.keys.fit(&mut secret);
        let pair = self.session.generate_key_pair(&Mechanism::EccKeyPairGen, &open, &secret);
        let (open, secret) = pair.map_err(told)?;
        let shown = self.session.get_attributes(open, &[AttributeType::EcPoint]).map_err(told)?;
        let Some(Attribute::EcPoint(shown)) = shown.into_iter().next() else {
            return Err("does not show its public key".to_owned());
        };
        let own = der::ec_public(Curve::P256, der::octets(&shown).unwrap_or(&shown));
        Ok((ClearBytes::from_vec(own), secret))
    }

    fn agreed(&self, private: ObjectHandle, point: &[u8]) -> Result<ClearBytes, String> {
        let mut template = vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Token(false),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::ValueLen(SECRET_BYTES.into()),
        ];
        self.profile.keys.fit(&mut template);
        let ecdh = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), point));
        let secret = self.session.derive_key(&ecdh, private, &template).map_err(told)?;
        let value = self.session.get_attributes(secret, &[AttributeType::Value]).map_err(told)?;
        match value.into_iter().next() {
            Some(Attribute::Value(bytes)) => Ok(ClearBytes::from_vec(bytes)),
            _ => Err("does not show a secret made to be read".to_owned()),
        }
    }
}
