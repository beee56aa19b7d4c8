//! Agreement on secrets by private keys in the token (`CKM_ECDH1_DERIVE` without a key derivation
//! function). Enter through [`Lane::agreed`] for a secret that is read out, and
//! [`Lane::agree_key`] for one that becomes a key inside.

use cryptoki::error::Error;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::mechanism::misc::ExtractParams;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use km_core::hsm::{HsmError, MadeKey, TokenKey};
use km_core::material::ClearBytes;
use km_core::usage::agree::{point, secret_bytes};
use km_core::usage::{Action, KeyKind, process};

use super::judge::unsupported;
use super::kem::{secret_template, taken};
use super::using::Extractable;
use super::{Lane, OpError};

impl Lane {
    /// What the private key `handle` of `kind` and `public` agree on. A public key that is not on the
    /// curve does not reach the token.
    pub(super) fn agreed(
        &self,
        kind: KeyKind,
        handle: ObjectHandle,
        public: &[u8],
    ) -> Result<ClearBytes, OpError> {
        let len = full(kind)?;
        let point = point(kind, public).map_err(OpError::Answer)?;
        self.read_agreed(handle, point, Part { len, of: len })
    }

    fn read_agreed(
        &self,
        handle: ObjectHandle,
        point: &[u8],
        part: Part,
    ) -> Result<ClearBytes, OpError> {
        let secret = self.derived(handle, point, part, secret_template())?;
        taken(self.session()?, secret, part.len)
    }

    /// The first bytes of the secret as the token cuts them: it extracts them from the whole, where it
    /// has a mechanism for that, and else makes a shorter key.
    fn derived(
        &self,
        handle: ObjectHandle,
        point: &[u8],
        part: Part,
        mut template: Vec<Attribute>,
    ) -> Result<ObjectHandle, Error> {
        let session = self.session()?;
        let ecdh = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), point));
        template.push(value_len(part.len));
        if part.len == part.of || self.check_mechanism(&EXTRACT).is_err() {
            return session.derive_key(&ecdh, handle, &template);
        }
        let sensitive = template.contains(&Attribute::Sensitive(true));
        let whole = session.derive_key(&ecdh, handle, &whole_secret(part.of, sensitive))?;
        let start = Mechanism::ExtractKeyFromKey(ExtractParams::new(0));
        let made = session.derive_key(&start, whole, &template);
        session.destroy_object(whole)?;
        made
    }

    /// Makes a key of `kind` of the first `bits` of what `base` and `public` agree on. It leaves the
    /// token only wrapped.
    pub(crate) fn agree_key(
        &mut self,
        base: &TokenKey,
        public: &[u8],
        (aad, kind, bits): (&[u8], KeyKind, u32),
    ) -> Result<MadeKey, OpError> {
        if self.profile.keys.token_objects_only {
            return Err(unsupported("the token has no objects for a session".to_owned()));
        }
        let whole = full(base.kind)?;
        let len = usize::try_from(bits / 8).unwrap_or(0);
        if kind.is_pair() || len == 0 || len > whole {
            let text = format!("{bits} bits of {whole} bytes are no key of that kind");
            return Err(unsupported(text));
        }
        self.forget()?;
        self.check_mechanism(&MechanismType::ECDH1_DERIVE)?;
        let handle = self.at_hand(base)?;
        let point = point(base.kind, public).map_err(OpError::Answer)?;
        if len < whole {
            self.check_cut(base.kind, handle, Part { len, of: whole })?;
        }
        let (part, template) = (Part { len, of: whole }, self.template(kind, Extractable::Yes));
        let derived = match self.derived(handle, point, part, template) {
            Err(error) => return Err(self.judge_use(error, base.kind, handle, &Action::Agree)),
            Ok(derived) => derived,
        };
        let way = self.way_for(kind);
        let done = way.and_then(|way| self.wrap_and_prove(aad, kind, derived, &None, &way));
        self.destroy(derived)?;
        Ok(MadeKey { sealed: done?, public: None })
    }

    /// Whether what the token cuts is the start of the secret, as KMIP has it: the standard has tokens
    /// drop the start of what is too long. Tried with a pair that is nobody's.
    fn check_cut(
        &mut self,
        kind: KeyKind,
        handle: ObjectHandle,
        part: Part,
    ) -> Result<(), OpError> {
        let other = process::make(kind, 0).map_err(OpError::Answer)?.public;
        let whole = self.agreed(kind, handle, &other);
        let whole = whole.map_err(|error| self.judged(error))?;
        let point = point(kind, &other).map_err(OpError::Answer)?;
        let cut = self.read_agreed(handle, point, part);
        match whole.slice(0..part.len) == Some(cut.map_err(|error| self.judged(error))?) {
            true => Ok(()),
            false => Err(unsupported(
                "the token keeps the end of a secret, and has no CKM_EXTRACT_KEY_FROM_KEY"
                    .to_owned(),
            )),
        }
    }
}

/// The first `len` bytes of a secret of `of` bytes.
#[derive(Clone, Copy)]
struct Part {
    len: usize,
    of: usize,
}

const EXTRACT: MechanismType = MechanismType::EXTRACT_KEY_FROM_KEY;

/// A secret to take a part of, which is as sensitive.
fn whole_secret(len: usize, sensitive: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(sensitive),
        Attribute::Extractable(true),
        Attribute::Derive(true),
        value_len(len),
    ]
}

/// Bytes of what is agreed on by `kind`.
fn full(kind: KeyKind) -> Result<usize, OpError> {
    secret_bytes(kind).ok_or_else(|| {
        OpError::Answer(HsmError::Unsupported("such keys agree on no secret".to_owned()))
    })
}

fn value_len(len: usize) -> Attribute {
    Attribute::ValueLen((len as u64).into())
}
