//! The bytes of a managed object as its record has them. Enter through [`SealedObject`]; nothing else
//! knows its forms.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    custody::SEAL_OBJECTS,
    epoch::Pin,
    hsm::{Custody, HsmError, KekId, Sealed, TokenKey},
    material::ClearBytes,
    usage::{Action, KeyKind, KeyUse},
    vault::Vault,
};

/// Key bytes of a managed object, bound to its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedObject {
    form: Form,
    #[serde(skip)]
    pin: Pin,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Form {
    /// Sealed by itself, outside the token.
    Sealed(Sealed),
    /// A key that was made in the token and is wrapped for it alone.
    Wrapped(Sealed),
    /// The name of the object in the token.
    Kept(String),
}

impl SealedObject {
    /// Differs between any two sealings.
    pub(crate) fn nonce(&self) -> &[u8] {
        match &self.form {
            Form::Sealed(sealed) | Form::Wrapped(sealed) => &sealed.iv,
            Form::Kept(name) => name.as_bytes(),
        }
    }

    /// Bytes it takes in a store, about.
    pub(crate) fn stored_len(&self) -> usize {
        match &self.form {
            Form::Sealed(sealed) | Form::Wrapped(sealed) => {
                sealed.iv.len() + sealed.ciphertext.len()
            }
            Form::Kept(name) => name.len(),
        }
    }

    /// What keeps its epoch in use until it is stored.
    pub(crate) fn pin(&self) -> Pin {
        self.pin.clone()
    }

    /// The KEK it is under, if it is under one.
    pub(crate) fn kek(&self) -> Option<&KekId> {
        match &self.form {
            Form::Sealed(sealed) | Form::Wrapped(sealed) => Some(&sealed.kek),
            Form::Kept(_) => None,
        }
    }

    /// The name of the object in the token, if that is where it is.
    pub(crate) fn kept(&self) -> Option<&str> {
        match &self.form {
            Form::Kept(name) => Some(name),
            Form::Sealed(_) | Form::Wrapped(_) => None,
        }
    }

    /// Whether the key has never been outside the token.
    pub fn is_only_in_token(&self) -> bool {
        matches!(self.form, Form::Wrapped(_))
    }

    /// Whether the bytes are an object inside the token, and not in the store.
    pub fn is_kept_in_token(&self) -> bool {
        self.kept().is_some()
    }
}

/// What [`Vault::make_object`] made.
#[derive(Clone, Debug)]
pub struct MadeObject {
    /// The secret or private key.
    pub sealed: SealedObject,
    /// The public half as [`crate::usage::public`] reads it, if it has one.
    pub public: Option<Vec<u8>>,
}

impl Vault {
    /// Seals the bytes of the managed object `uid` of `owner`.
    pub async fn seal_object(
        &self,
        uid: &str,
        owner: &str,
        clear: &ClearBytes,
    ) -> Result<SealedObject, HsmError> {
        let (sealed, pin) = self.seal(&object_aad(uid, owner), clear).await?;
        self.custodies().shown(SEAL_OBJECTS, sealed.method.custody());
        Ok(SealedObject { form: Form::Sealed(sealed), pin })
    }

    /// Keeps the bytes of the managed object `uid` of `owner` inside the token, until they are
    /// discarded.
    pub(crate) async fn keep_object(
        &self,
        uid: &str,
        owner: &str,
        clear: &ClearBytes,
    ) -> Result<SealedObject, HsmError> {
        let name = self.cabinet()?.keep_object(self.hsm(), (uid, owner), clear).await?;
        Ok(SealedObject { form: Form::Kept(name), pin: Pin::default() })
    }

    /// Makes the key of the managed object `uid` of `owner` in the token, which it never leaves.
    pub async fn make_object(
        &self,
        uid: &str,
        owner: &str,
        kind: KeyKind,
        bits: u32,
    ) -> Result<MadeObject, HsmError> {
        let aad = wrapped_aad(uid, owner);
        let make = || self.hsm().make_key(&aad, kind, bits);
        let (made, pin) = self.counted(make, |made| &made.sealed.kek).await?;
        self.custodies().learnt(kind.name(), Some(Custody::InToken));
        let sealed = SealedObject { form: Form::Wrapped(made.sealed), pin };
        Ok(MadeObject { sealed, public: made.public })
    }

    /// Makes the key of the managed object `uid` of `owner` in the token, which it never leaves, of
    /// what the private key `base` and `public` agree on.
    pub(crate) async fn agree_object(
        &self,
        base: &TokenKey,
        public: &[u8],
        (uid, owner): (&str, &str),
        (kind, bits): (KeyKind, u32),
    ) -> Result<SealedObject, HsmError> {
        let aad = wrapped_aad(uid, owner);
        let agree = || self.hsm().agree_key(base, public, &aad, kind, bits);
        let agree = || self.with_kek(&base.sealed.kek, agree);
        let (made, pin) = self.counted(agree, |made| &made.sealed.kek).await?;
        Ok(SealedObject { form: Form::Wrapped(made.sealed), pin })
    }

    /// Uses the key of a managed object in the token, which keeps it at hand under `name`.
    pub(crate) async fn use_object(
        &self,
        identity: (&str, &str),
        object: &SealedObject,
        named: (Vec<u8>, KeyKind),
        uses: &Arc<[KeyUse]>,
    ) -> Result<Vec<ClearBytes>, HsmError> {
        let key = self.token_key(identity, object, named).await?;
        self.with_kek(&key.sealed.kek, || self.hsm().use_key_each(&key, uses)).await
    }

    /// Whether a key that was just made in the token is good for `trial`.
    pub(crate) async fn prove_object(
        &self,
        identity: (&str, &str),
        object: &SealedObject,
        kind: KeyKind,
        trial: Action,
    ) -> Result<(), HsmError> {
        let (name, input) = ([b"trial\0", object.nonce()].concat(), ClearBytes::copy_from(b"?"));
        let one = Arc::from([KeyUse { action: trial, input }]);
        let done = self.use_object(identity, object, (name.clone(), kind), &one).await;
        self.forget(&name).await;
        done.map(drop)
    }

    /// The key of a managed object, as a token is asked to use it.
    pub(crate) async fn token_key(
        &self,
        (uid, owner): (&str, &str),
        object: &SealedObject,
        (name, kind): (Vec<u8>, KeyKind),
    ) -> Result<TokenKey, HsmError> {
        let wrapped = object.is_only_in_token();
        let aad = if wrapped { wrapped_aad(uid, owner) } else { object_aad(uid, owner) };
        let sealed = match &object.form {
            Form::Sealed(sealed) | Form::Wrapped(sealed) => sealed.clone(),
            // A data object is no key: it becomes one on the way every other sealed key takes.
            Form::Kept(_) => {
                let clear = self.open_object(uid, owner, object).await?;
                self.seal(&aad, &clear).await?.0
            }
        };
        Ok(TokenKey { name, kind, wrapped, aad, sealed })
    }

    /// The token need not keep the key of this name at hand any more.
    pub(crate) async fn forget(&self, name: &[u8]) {
        self.hsm().forget_key(name).await;
    }

    /// The same bytes under the active epoch. What is kept in the token is under none, and stays.
    pub(crate) async fn reseal_object(
        &self,
        uid: &str,
        owner: &str,
        object: &SealedObject,
    ) -> Result<SealedObject, HsmError> {
        match &object.form {
            Form::Kept(_) => Ok(object.clone()),
            Form::Wrapped(sealed) => {
                let aad = wrapped_aad(uid, owner);
                let rewrap = || self.hsm().rewrap_key(&aad, sealed);
                let (sealed, pin) = self.counted(rewrap, |sealed| &sealed.kek).await?;
                Ok(SealedObject { form: Form::Wrapped(sealed), pin })
            }
            Form::Sealed(_) => {
                let clear = self.open_object(uid, owner, object).await?;
                self.seal_object(uid, owner, &clear).await
            }
        }
    }

    /// Opens what [`Vault::seal_object`] made for the same object, or reads what the token keeps of it.
    pub async fn open_object(
        &self,
        uid: &str,
        owner: &str,
        object: &SealedObject,
    ) -> Result<ClearBytes, HsmError> {
        match &object.form {
            Form::Sealed(sealed) => self.open(&object_aad(uid, owner), sealed).await,
            Form::Wrapped(_) => {
                let text = "the key was made in the token and never leaves it";
                Err(HsmError::Unsupported(text.to_owned()))
            }
            Form::Kept(name) => match self.cabinet()?.is_of_object((uid, owner), name) {
                true => self.hsm().read_object(name).await,
                false => Err(HsmError::Refused("it names what is kept for another object".into())),
            },
        }
    }
}

fn object_aad(uid: &str, owner: &str) -> Vec<u8> {
    postcard::to_extend(&(uid, owner), b"qkm object 1\0".to_vec()).unwrap_or_default()
}

/// Not that of [`object_aad`]: a wrapped key is never taken for the bytes of a key.
fn wrapped_aad(uid: &str, owner: &str) -> Vec<u8> {
    postcard::to_extend(&(uid, owner), b"qkm wrapped object 1\0".to_vec()).unwrap_or_default()
}
