//! Derive Key by Asymmetric Key: the two keys of an agreement, and a key of it that never leaves the
//! token. Enter through [`Agreement::find`].

use km_core::{
    hsm::HsmError,
    material::ClearBytes,
    objects::ObjectError,
    usage::{Action, KeyKind, agree},
    vault::SealedObject,
};
use kmip::{
    attribute::UniqueIdentifier,
    enums::{KeyFormatType, ObjectType},
};

use crate::{
    context::Context,
    error::OpError,
    meta::Form,
    usage::{self, DERIVE, Subject, unfit},
    wanted::Wanted,
};

/// A private key and another's public key on one curve.
pub(crate) struct Agreement {
    pub(crate) private: Subject,
    /// SubjectPublicKeyInfo in DER.
    public: Vec<u8>,
    kind: KeyKind,
}

impl Agreement {
    /// Of two keys of the caller, named in either order.
    pub(crate) async fn find(
        cx: &Context<'_>,
        one: Subject,
        other: Option<UniqueIdentifier>,
    ) -> Result<Self, OpError> {
        let other = other.ok_or(OpError::Missing("the second of the two keys is missing"))?;
        let other = Subject::find(cx, Some(other), None, DERIVE).await?;
        let (private, public) = match (one.meta.kind(), other.meta.kind()) {
            (ObjectType::PrivateKey, ObjectType::PublicKey) => (one, other),
            (ObjectType::PublicKey, ObjectType::PrivateKey) => (other, one),
            _ => {
                let text = "Asymmetric Key takes a Private Key and a Public Key".to_owned();
                return Err(OpError::ObjectType(text));
            }
        };
        for (key, formats) in [
            (&private, &[KeyFormatType::Pkcs8, KeyFormatType::EcPrivateKey][..]),
            (&public, &[KeyFormatType::X509][..]),
        ] {
            if key.meta.form != Form::Bytes
                || !key.meta.format().is_some_and(|is| formats.contains(&is))
            {
                let why = format!("its form is none of {formats:?}; register it so");
                return Err(key.unusable(&why));
            }
        }
        let public = public.public_key(cx).await?;
        let kind = agree::kind_of(&public).map_err(unfit)?;
        Ok(Self { private, public, kind })
    }

    /// The secret, read out.
    pub(crate) async fn secret(&self, cx: &Context<'_>) -> Result<ClearBytes, OpError> {
        let public = ClearBytes::copy_from(&self.public);
        self.private.act(cx, self.kind, &Action::Agree, &public).await
    }

    /// The key of the object `uid`, `len` bytes of the secret, inside the token; `None` when the token
    /// makes no such keys of it and the secret may be read out.
    pub(crate) async fn key_in_token(
        &self,
        cx: &Context<'_>,
        wanted: &Wanted,
        (uid, kind, len): (&str, ObjectType, usize),
    ) -> Result<Option<SealedObject>, OpError> {
        let to_be = match kind {
            ObjectType::SecretData => Some((KeyKind::Hmac, None)),
            _ => wanted.algorithm.and_then(usage::secret_kind),
        };
        let Some((to_be, trial)) = to_be else { return Ok(None) };
        let bits = u32::try_from(len * 8).unwrap_or(u32::MAX);
        let (base, owner) = (&self.private.object, cx.caller.tenant().as_str());
        let made = cx.objects().agree_in_token(
            (base, self.kind),
            &self.public,
            (uid, owner),
            (to_be, bits, trial),
        );
        match made.await {
            Err(ObjectError::Hsm(HsmError::Unsupported(_))) => {
                cx.objects().check_process().map_err(usage::used)?;
                Ok(None)
            }
            made => made.map(Some).map_err(usage::used),
        }
    }
}
