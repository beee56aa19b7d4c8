//! New keys of applications, made in the token. Enter through [`Lane::generate`].

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, MlDsaParameterSetType, ObjectHandle};
use km_core::usage::{DsaSet, KeyKind, der};

use super::judge::unsupported;
use super::using::Extractable;
use super::{Lane, OpError};
use crate::profile::{Kind, Role};

impl Lane {
    /// A key as session object that can be wrapped, its public half, and all objects made for it.
    #[allow(clippy::type_complexity, reason = "one caller")]
    pub(super) fn generate(
        &mut self,
        kind: KeyKind,
        bits: u32,
    ) -> Result<(ObjectHandle, Option<Vec<u8>>, Vec<ObjectHandle>), OpError> {
        let mut template = self.template(kind, Extractable::Yes);
        let value_len = |bits: u32| Attribute::ValueLen(u64::from(bits / 8).into());
        let rsa_pair = self.profile.keys.rsa_pair();
        let mechanism = match kind {
            KeyKind::Aes => Mechanism::AesKeyGen,
            KeyKind::Hmac => Mechanism::GenericSecretKeyGen,
            KeyKind::Rsa => rsa_pair.bare(),
            KeyKind::Ec(_) => Mechanism::EccKeyPairGen,
            KeyKind::Ed25519 => Mechanism::EccEdwardsKeyPairGen,
            KeyKind::MlDsa(_) => Mechanism::MlDsaKeyPairGen,
            KeyKind::X25519 => Mechanism::EccMontgomeryKeyPairGen,
            KeyKind::TripleDes | KeyKind::Local(_) => {
                return Err(unsupported("no token is asked for it".to_owned()));
            }
        };
        self.check_mechanism(&mechanism.mechanism_type())?;
        if !kind.is_pair() {
            template.push(value_len(bits));
            let made = self.session()?.generate_key(&mechanism, &template);
            let handle = made.map_err(|error| self.judge(error))?;
            return Ok((handle, None, vec![handle]));
        }
        let mut public = vec![Attribute::Token(false), Attribute::Private(false)];
        if kind != KeyKind::X25519 {
            public.push(Attribute::Verify(true));
        }
        match kind {
            KeyKind::Ec(curve) => public.push(Attribute::EcParams(der::curve_oid(curve).to_vec())),
            KeyKind::Ed25519 => public.push(Attribute::EcParams(der::ED25519_OID.to_vec())),
            KeyKind::X25519 => public.push(Attribute::EcParams(der::X25519_OID.to_vec())),
            KeyKind::MlDsa(set) => public.push(Attribute::ParameterSet(parameters(set).into())),
            _ => {
                public.push(Attribute::ModulusBits(u64::from(bits).into()));
                public.push(Attribute::PublicExponent(vec![1, 0, 1]));
            }
        }
        self.profile.keys.shape(Role::Public, Kind::of(kind), &mut public);
        // Class and type follow from the mechanism.
        template.retain(|a| !matches!(a, Attribute::Class(_) | Attribute::KeyType(_)));
        let made = self.session()?.generate_key_pair(&mechanism, &public, &template);
        let (open, secret) = made.map_err(|error| self.judge(error))?;
        let public = self.public_half(kind, open)?;
        Ok((secret, Some(public), vec![open, secret]))
    }

    /// The public key of `kind` as [`km_core::usage::public`] reads it.
    fn public_half(&self, kind: KeyKind, handle: ObjectHandle) -> Result<Vec<u8>, OpError> {
        let of_length = |bytes: Vec<u8>, len: usize| match bytes.len() == len {
            true => Ok(bytes),
            // By the standard a point stands inside an OCTET STRING; some tokens leave that out.
            false => der::octets(&bytes)
                .filter(|inner| inner.len() == len)
                .map(<[u8]>::to_vec)
                .ok_or_else(|| unsupported("the token's public key has no known form".to_owned())),
        };
        let shown = |kind| self.shown(handle, kind);
        Ok(match kind {
            KeyKind::Ec(curve) => {
                let point = shown(AttributeType::EcPoint)?;
                der::ec_public(curve, &of_length(point, 2 * curve.bytes() + 1)?)
            }
            KeyKind::Ed25519 => {
                der::ed25519_public(&of_length(shown(AttributeType::EcPoint)?, 32)?)
            }
            KeyKind::X25519 => der::x25519_public(&of_length(shown(AttributeType::EcPoint)?, 32)?),
            KeyKind::MlDsa(set) => {
                let key = shown(AttributeType::Value)?;
                der::ml_dsa_public(set, &of_length(key, set.public_bytes())?)
            }
            _ => {
                let modulus = shown(AttributeType::Modulus)?;
                der::rsa_public(&modulus, &shown(AttributeType::PublicExponent)?)
            }
        })
    }

    fn shown(&self, handle: ObjectHandle, kind: AttributeType) -> Result<Vec<u8>, OpError> {
        match self.session()?.get_attributes(handle, &[kind])?.into_iter().next() {
            Some(
                Attribute::EcPoint(bytes)
                | Attribute::Value(bytes)
                | Attribute::Modulus(bytes)
                | Attribute::PublicExponent(bytes),
            ) => Ok(bytes),
            _ => Err(unsupported("the token does not show the public key".to_owned())),
        }
    }
}

pub(super) fn parameters(set: DsaSet) -> MlDsaParameterSetType {
    match set {
        DsaSet::MlDsa44 => MlDsaParameterSetType::ML_DSA_44,
        DsaSet::MlDsa65 => MlDsaParameterSetType::ML_DSA_65,
        DsaSet::MlDsa87 => MlDsaParameterSetType::ML_DSA_87,
    }
}
