//! Using the key of an object: in the token where it can, else in this process.

use std::sync::Arc;

use super::{Object, ObjectError, Objects, sealing};
use crate::{
    custody::AGREEMENT,
    hsm::{Custody, HsmError},
    material::ClearBytes,
    provenance::Origin,
    usage::{
        Action, KeyKind, KeyUse,
        process::{self, MadePair},
        seeded,
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
        let used = |custody| self.vault.custodies().used(function(kind, action), custody);
        let done = match kind {
            KeyKind::Local(_) => Err(HsmError::Unsupported("no token is asked for it".to_owned())),
            _ => {
                let input = input.expose(ClearBytes::copy_from);
                let one = Arc::from([KeyUse { action: action.clone(), input }]);
                self.use_sealed(object, sealed, kind, &one).await.and_then(only)
            }
        };
        match done {
            Err(HsmError::Unsupported(why)) if sealed.is_only_in_token() => {
                let why = format!("{why}; the key was made in the token and never leaves it");
                Err(HsmError::Unsupported(why).into())
            }
            Err(HsmError::Unsupported(_)) => {
                self.check_process()?;
                let key = self.open(object).await?;
                let done = match action {
                    Action::Derive { .. } => {
                        let (action, nothing) = (action.clone(), ClearBytes::from_vec(Vec::new()));
                        off_thread(move || process::act(kind, &action, &key, &nothing)).await?
                    }
                    _ => process::act(kind, action, &key, input)?,
                };
                used(Custody::HostTransient);
                Ok(done)
            }
            done => {
                let done = done?;
                used(custody_of(sealed));
                Ok(done)
            }
        }
    }

    /// As [`Objects::use_key`], several uses of one key, for which the token is asked once; their
    /// results in the same order.
    pub async fn use_key_each(
        &self,
        object: &Object,
        kind: KeyKind,
        uses: &Arc<[KeyUse]>,
    ) -> Vec<Result<ClearBytes, ObjectError>> {
        let done = match (&object.sealed, kind) {
            (None, _) | (_, KeyKind::Local(_)) => None,
            (Some(sealed), _) => Some((sealed, self.use_sealed(object, sealed, kind, uses).await)),
        };
        match done {
            Some((sealed, Ok(done))) => {
                for one in uses.iter() {
                    let function = function(kind, &one.action);
                    self.vault.custodies().used(function, custody_of(sealed));
                }
                done.into_iter().map(Ok).collect()
            }
            Some((_, Err(error @ (HsmError::Unavailable(_) | HsmError::Setup(_))))) => {
                uses.iter().map(|_| Err(error.clone().into())).collect()
            }
            // One of them does not fit, or the token does none: each by itself tells.
            _ => {
                let mut all = Vec::with_capacity(uses.len());
                for one in uses.iter() {
                    all.push(self.use_key(object, kind, &one.action, &one.input).await);
                }
                all
            }
        }
    }

    async fn use_sealed(
        &self,
        object: &Object,
        sealed: &SealedObject,
        kind: KeyKind,
        uses: &Arc<[KeyUse]>,
    ) -> Result<Vec<ClearBytes>, HsmError> {
        let identity = (object.uid.as_str(), object.owner.as_str());
        let named = (sealing(object, sealed), kind);
        let error = match self.vault.use_object(identity, sealed, named, uses).await {
            Err(error @ (HsmError::Refused(_) | HsmError::Unsupported(_))) => error,
            done => return done,
        };
        // It may have been sealed anew, and the old KEK destroyed, since it was read.
        let now = self.get(&object.owner, &object.uid).await.ok().and_then(|(now, _)| now.sealed);
        let done = match now.filter(|now| now != sealed) {
            Some(now) => {
                let named = (sealing(object, &now), kind);
                self.vault.use_object(identity, &now, named, uses).await
            }
            None => Err(error),
        };
        done.inspect_err(|error| self.vault.note_refusal(Kind::Object, &object.uid, error))
    }

    /// Makes the key of the object `new` inside the token, of what the private key of `object` and
    /// `public` agree on: the first bytes of it. To be stored with [`Objects::create_sealed`].
    ///
    /// # Errors
    /// As [`Objects::use_key`] with [`Action::Agree`]; [`HsmError::Unsupported`] inside
    /// [`ObjectError::Hsm`] also when the token keeps no such keys to itself, or does not do `trial`
    /// with the new one.
    pub async fn agree_in_token(
        &self,
        (object, agreed_by): (&Object, KeyKind),
        public: &[u8],
        new: (&str, &str),
        (kind, bits, trial): (KeyKind, u32, Option<Action>),
    ) -> Result<SealedObject, ObjectError> {
        let sealed = object.sealed.as_ref();
        let sealed = sealed.ok_or_else(|| ObjectError::Destroyed(object.uid.clone()))?;
        let identity = (object.uid.as_str(), object.owner.as_str());
        let base = self.vault.token_key(identity, sealed, (sealing(object, sealed), agreed_by));
        let made = self.vault.agree_object(&base.await?, public, new, (kind, bits)).await;
        let made =
            made.inspect_err(|error| self.vault.note_refusal(Kind::Object, &object.uid, error))?;
        if let Some(trial) = trial {
            self.vault.prove_object(new, &made, kind, trial).await?;
        }
        self.vault.custodies().used(AGREEMENT, custody_of(sealed));
        Ok(made)
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
    /// [`Objects::create_sealed`]. The token must do `trial` with it: tokens differ in which keys they
    /// take for an HMAC.
    ///
    /// # Errors
    /// [`HsmError::Unsupported`] inside [`ObjectError::Hsm`] when the token makes no such keys.
    pub async fn make_in_token(
        &self,
        new: (&str, &str),
        (kind, bits): (KeyKind, u32),
        trial: Option<Action>,
    ) -> Result<MadeObject, ObjectError> {
        let made = self.vault.make_object(new.0, new.1, kind, bits).await?;
        if let Some(trial) = trial {
            self.vault.prove_object(new, &made.sealed, kind, trial).await?;
        }
        Ok(made)
    }

    /// Makes a key pair in this process, where the operator allows it, of the random numbers of this KM.
    /// RSA numbers come from the library's generator, and only while all random sources are well.
    ///
    /// # Errors
    /// As [`Objects::check_process`] and [`process::make`]; [`ObjectError::Random`].
    pub async fn make_in_process(
        &self,
        kind: KeyKind,
        bits: u32,
    ) -> Result<(MadePair, Origin), ObjectError> {
        self.check_process()?;
        let random = self.vault.random();
        let Some(len) = seeded::seed_bytes(kind) else {
            random.check().await?;
            let pair = off_thread(move || process::make(kind, bits)).await?;
            return Ok((pair, Origin::Library));
        };
        loop {
            let seed = random.bytes(len).await?;
            if let Some(pair) = off_thread(move || seeded::make(kind, &seed)).await? {
                return Ok((pair, random.origin()));
            }
        }
    }
}

fn only(mut results: Vec<ClearBytes>) -> Result<ClearBytes, HsmError> {
    results.pop().ok_or_else(|| HsmError::Unavailable("the token gave no result".to_owned()))
}

/// What a use counts as.
fn function(kind: KeyKind, action: &Action) -> &'static str {
    match action {
        Action::Agree => AGREEMENT,
        _ => kind.name(),
    }
}

/// Where a key is that the token used. What is only sealed was in the worker process to become an
/// object of the token.
fn custody_of(sealed: &SealedObject) -> Custody {
    match sealed.is_only_in_token() {
        true => Custody::InToken,
        false => Custody::HostTransient,
    }
}

/// Runs what takes long where nobody else waits for the thread.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HsmError> + Send + 'static,
) -> Result<T, ObjectError> {
    let stopped = |_| HsmError::Unavailable("this KM is shutting down".to_owned());
    Ok(tokio::task::spawn_blocking(|| wiped::leaving_none(work)).await.map_err(stopped)??)
}
