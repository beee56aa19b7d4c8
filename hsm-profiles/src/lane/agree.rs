//! Agreement on secrets by private keys in the token (`CKM_ECDH1_DERIVE` without a key derivation
//! function). Enter through [`Lane::agreed`] for a secret that is read out, and
//! [`Lane::agree_key`] for one that becomes a key inside.

use cryptoki::error::Error;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectHandle};
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
        self.read_agreed(handle, point(kind, public).map_err(OpError::Answer)?, len)
    }

    /// The first `len` bytes as the token cuts them.
    fn read_agreed(
        &self,
        handle: ObjectHandle,
        point: &[u8],
        len: usize,
    ) -> Result<ClearBytes, OpError> {
        let mut template = secret_template();
        template.push(value_len(len));
        let secret = self.derived(handle, point, &template)?;
        taken(self.session()?, secret, len)
    }

    fn derived(
        &self,
        handle: ObjectHandle,
        point: &[u8],
        template: &[Attribute],
    ) -> Result<ObjectHandle, Error> {
        let parameters = Ecdh1DeriveParams::new(EcKdf::null(), point);
        self.session()?.derive_key(&Mechanism::Ecdh1Derive(parameters), handle, template)
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
            self.check_cut(base.kind, handle, len)?;
        }
        let mut template = self.template(kind, Extractable::Yes);
        template.push(value_len(len));
        let derived = match self.derived(handle, point, &template) {
            Err(error) => return Err(self.judge_use(error, base.kind, handle, &Action::Agree)),
            Ok(derived) => derived,
        };
        let way = self.way_for(kind);
        let done = way.and_then(|way| self.wrap_and_prove(aad, kind, derived, &None, &way));
        self.destroy(derived)?;
        Ok(MadeKey { sealed: done?, public: None })
    }

    /// Tokens do not agree on which end of the secret a shorter key is: KMIP has its start. Tried with
    /// a pair that is nobody's.
    fn check_cut(
        &mut self,
        kind: KeyKind,
        handle: ObjectHandle,
        len: usize,
    ) -> Result<(), OpError> {
        let other = process::make(kind, 0).map_err(OpError::Answer)?.public;
        let whole = self.agreed(kind, handle, &other);
        let whole = whole.map_err(|error| self.judged(error))?;
        let point = point(kind, &other).map_err(OpError::Answer)?;
        let cut = self.read_agreed(handle, point, len);
        match whole.slice(0..len) == Some(cut.map_err(|error| self.judged(error))?) {
            true => Ok(()),
            false => Err(unsupported("the token cuts a secret at its start".to_owned())),
        }
    }
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
