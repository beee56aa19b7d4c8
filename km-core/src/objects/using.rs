//! Using the key of an object: in the token where it can, else in this process.

use super::{Object, ObjectError, Objects, sealing};
use crate::{
    hsm::{Custody, HsmError},
    material::ClearBytes,
    usage::{
        Action, KeyKind,
        derive::{Derivation, derive},
        process::{self, MadePair},
    },
    vault::{Kind, MadeObject, SealedObject},
};

const TOKEN_ONLY: &str = "the token does not do this, and cryptography outside it is switched off \
                          (crypto_in_process)";

impl Objects {
    /// Does `action` with the key of `object`, which the caller has read just now and found fit
    /// for it: the key is looked up by this sealing of it, so a destroyed or renewed one is not
    /// used again.
    ///
    /// # Errors
    /// [`HsmError::Input`] inside [`ObjectError::Hsm`] when `input` does not fit;
    /// [`HsmError::Unsupported`] when neither the token nor, where it may, this process does it.
    pub async fn use_key(
        &self,
        object: &Object,
        kind: KeyKind,
        action: &Action,
        input: &ClearBytes,
    ) -> Result<ClearBytes, ObjectError> {
        let sealed = object.sealed.as_ref();
        let sealed = sealed.ok_or_else(|| ObjectError::Destroyed(object.uid.clone()))?;
        let used = |custody| self.vault.custodies().used(kind.name(), custody);
        let done = match kind {
            KeyKind::Local(_) => Err(HsmError::Unsupported("no token is asked for it".to_owned())),
            _ => self.use_sealed(object, sealed, kind, action, input).await,
        };
        match done {
            Err(HsmError::Unsupported(why)) if sealed.is_only_in_token() => {
                let why = format!("{why}; the key was made in the token and never leaves it");
                Err(HsmError::Unsupported(why).into())
            }
            Err(HsmError::Unsupported(_)) => {
                self.check_process()?;
                let key = self.open(object).await?;
                let done = process::act(kind, action, &key, input)?;
                used(Custody::HostTransient);
                Ok(done)
            }
            done => {
                let done = done?;
                // What is only sealed was in the worker process to become an object of the token.
                let only = sealed.is_only_in_token();
                used(if only { Custody::InToken } else { Custody::HostTransient });
                Ok(done)
            }
        }
    }

    async fn use_sealed(
        &self,
        object: &Object,
        sealed: &SealedObject,
        kind: KeyKind,
        action: &Action,
        input: &ClearBytes,
    ) -> Result<ClearBytes, HsmError> {
        let identity = (object.uid.as_str(), object.owner.as_str());
        let named = (sealing(object, sealed), kind);
        let error = match self.vault.use_object(identity, sealed, named, action, input).await {
            Err(error @ (HsmError::Refused(_) | HsmError::Unsupported(_))) => error,
            done => return done,
        };
        // It may have been sealed anew, and the old KEK destroyed, since it was read.
        let now = self.get(&object.owner, &object.uid).await.ok().and_then(|(now, _)| now.sealed);
        let done = match now.filter(|now| now != sealed) {
            Some(now) => {
                let named = (sealing(object, &now), kind);
                self.vault.use_object(identity, &now, named, action, input).await
            }
            None => Err(error),
        };
        done.inspect_err(|error| self.vault.note_refusal(Kind::Object, &object.uid, error))
    }

    /// Derives `len` bytes from the key of `object` in this process, where it may see the key and
    /// the operator allows it.
    ///
    /// # Errors
    /// As [`Objects::check_process`] and [`derive`].
    pub async fn derive_in_process(
        &self,
        object: &Object,
        how: Derivation,
        len: usize,
    ) -> Result<ClearBytes, ObjectError> {
        self.check_process()?;
        let key = self.open(object).await?;
        off_thread(move || derive(&how, &key, len)).await
    }

    /// Refuses cryptography in this process where the operator does.
    ///
    /// # Errors
    /// [`HsmError::Unsupported`] inside [`ObjectError::Hsm`], with the setting to change.
    pub fn check_process(&self) -> Result<(), ObjectError> {
        match self.token_only {
            true => Err(HsmError::Unsupported(TOKEN_ONLY.to_owned()).into()),
            false => Ok(()),
        }
    }

    /// Whether keys that need not be extractable must be made in the token.
    pub fn is_token_only(&self) -> bool {
        self.token_only
    }

    /// Makes the key of an object to be in the token, which it never leaves; to be stored with
    /// [`Objects::create_sealed`].
    ///
    /// # Errors
    /// [`HsmError::Unsupported`] inside [`ObjectError::Hsm`] when the token makes no such keys.
    pub async fn make_in_token(
        &self,
        uid: &str,
        owner: &str,
        kind: KeyKind,
        bits: u32,
    ) -> Result<MadeObject, ObjectError> {
        Ok(self.vault.make_object(uid, owner, kind, bits).await?)
    }

    /// Makes a key pair in this process, where the operator allows it.
    ///
    /// # Errors
    /// As [`Objects::check_process`] and [`process::make`].
    pub async fn make_in_process(&self, kind: KeyKind, bits: u32) -> Result<MadePair, ObjectError> {
        self.check_process()?;
        off_thread(move || process::make(kind, bits)).await
    }
}

/// Runs what takes long where nobody else waits for the thread.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HsmError> + Send + 'static,
) -> Result<T, ObjectError> {
    let stopped = |_| HsmError::Unavailable("this KM is shutting down".to_owned());
    Ok(tokio::task::spawn_blocking(work).await.map_err(stopped)??)
}
