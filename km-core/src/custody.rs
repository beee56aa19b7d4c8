//! Where the keys of each function are while it works, as seen in this process. Enter through
//! [`Custodies`].
//!
//! What a token can do for a function is learnt by trying ([`Custodies::survey`]) and from use; what
//! became of each use is counted.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    hsm::{Custody, Hsm, HsmError, TokenKey},
    material::ClearBytes,
    usage::{Action, Cipher, Curve, DsaSet, Hash, KeyKind, Scheme, process::make},
};

/// Sealing of blocks of pools.
pub const SEAL_BLOCKS: &str = "seal-blocks";
/// Sealing of managed objects.
pub const SEAL_OBJECTS: &str = "seal-objects";
/// Agreement on secrets with private keys.
pub const AGREEMENT: &str = "agreement";
/// Key encapsulation between KMs.
pub const ML_KEM: &str = "ml-kem";

/// Kinds of keys that any token makes at once, with their bits.
pub const QUICK: &[(KeyKind, u32)] =
    &[(KeyKind::Aes, 256), (KeyKind::Hmac, 256), (KeyKind::Ec(Curve::P256), 256)];
/// Kinds whose keys may take seconds, or which few tokens have.
pub const SLOW: &[(KeyKind, u32)] =
    &[(KeyKind::Rsa, 2048), (KeyKind::Ed25519, 256), (KeyKind::MlDsa(DsaSet::MlDsa65), 0)];

const TRIAL_AAD: &[u8] = b"qkm custody trial 1\0";
/// A block of a cipher, and a hash.
const TRIAL: [u8; 32] = [0xC3; 32];

/// One function as an operator sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CustodyView {
    /// Where its keys are at best; `Some(None)` when it cannot be used here at all, `None` as long as
    /// it is not known.
    pub best: Option<Option<Custody>>,
    /// Uses in which the key never left the token.
    pub in_token: u64,
    /// Uses in which the key was in a process of this host for their time.
    pub host_transient: u64,
}

/// What is known of all functions. Keys are used under the name of their kind.
#[derive(Debug, Default)]
pub struct Custodies(Mutex<BTreeMap<&'static str, CustodyView>>);

impl Custodies {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, CustodyView>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every function of which something is known, by name.
    pub fn list(&self) -> Vec<(&'static str, CustodyView)> {
        self.lock().iter().map(|(name, view)| (*name, *view)).collect()
    }

    /// Counts a use.
    pub(crate) fn used(&self, function: &'static str, custody: Custody) {
        let mut all = self.lock();
        let view = all.entry(function).or_default();
        match custody {
            Custody::InToken => view.in_token += 1,
            Custody::HostTransient => view.host_transient += 1,
        }
    }

    /// Counts a use that also shows what the token does now.
    pub(crate) fn shown(&self, function: &'static str, custody: Custody) {
        self.used(function, custody);
        self.learnt(function, Some(custody));
    }

    /// What is the best for `function`; none when there is no way at all.
    pub(crate) fn learnt(&self, function: &'static str, best: Option<Custody>) {
        self.lock().entry(function).or_default().best = Some(best);
    }

    /// Makes and uses a key of each of `kinds` in the token, and where it does not do so, brings in
    /// one or looks whether `process` allows to use it there. Nothing is kept.
    ///
    /// # Errors
    /// [`HsmError::Unavailable`] when the token went away meanwhile.
    pub async fn survey(
        &self,
        hsm: &dyn Hsm,
        kinds: &[(KeyKind, u32)],
        process: bool,
    ) -> Result<(), HsmError> {
        for (kind, bits) in kinds {
            let made = made_there(hsm, *kind, *bits).await;
            if let KeyKind::Ec(_) = kind {
                let best = agreement(hsm, made.as_ref().ok(), process).await?;
                self.learnt(AGREEMENT, best);
            }
            let best = match made {
                Err(HsmError::Unavailable(why)) => return Err(HsmError::Unavailable(why)),
                Ok(_) => Some(Custody::InToken),
                Err(_) if process => Some(Custody::HostTransient),
                Err(_) => match brought_in(hsm, *kind).await {
                    Err(HsmError::Unavailable(why)) => return Err(HsmError::Unavailable(why)),
                    done => done.ok().map(|()| Custody::HostTransient),
                },
            };
            self.learnt(kind.name(), best);
        }
        Ok(())
    }
}

/// Makes a key that never leaves the token, and uses it.
async fn made_there(hsm: &dyn Hsm, kind: KeyKind, bits: u32) -> Result<TokenKey, HsmError> {
    let sealed = hsm.make_key(TRIAL_AAD, kind, bits).await?.sealed;
    let (name, aad) = ([TRIAL_AAD, kind.name().as_bytes()].concat(), TRIAL_AAD.to_vec());
    let key = TokenKey { name, kind, wrapped: true, aad, sealed };
    used(hsm, &key).await?;
    Ok(key)
}

/// Where secrets are agreed on at best; `key` is one that was made in the token.
async fn agreement(
    hsm: &dyn Hsm,
    key: Option<&TokenKey>,
    process: bool,
) -> Result<Option<Custody>, HsmError> {
    let here = process.then_some(Custody::HostTransient);
    let Some(key) = key else { return Ok(here) };
    let other = ClearBytes::from_vec(make(key.kind, 0)?.public);
    match tried(hsm, key, &Action::Agree, &other).await {
        Err(HsmError::Unavailable(why)) => Err(HsmError::Unavailable(why)),
        Ok(()) => Ok(Some(Custody::InToken)),
        Err(_) => Ok(here),
    }
}

/// Uses a secret key whose bytes this process seals.
async fn brought_in(hsm: &dyn Hsm, kind: KeyKind) -> Result<(), HsmError> {
    if !matches!(kind, KeyKind::Aes | KeyKind::Hmac) {
        return Err(HsmError::Unsupported("only secret keys are just bytes".to_owned()));
    }
    let sealed = hsm.seal(TRIAL_AAD, &ClearBytes::copy_from(&TRIAL)).await?;
    let (name, aad) = ([TRIAL_AAD, kind.name().as_bytes(), b"+"].concat(), TRIAL_AAD.to_vec());
    used(hsm, &TokenKey { name, kind, wrapped: false, aad, sealed }).await
}

async fn used(hsm: &dyn Hsm, key: &TokenKey) -> Result<(), HsmError> {
    let action = match key.kind {
        KeyKind::Aes => Action::Encrypt(Cipher::Ecb { padded: false }),
        KeyKind::Hmac => Action::Mac(Hash::Sha256),
        KeyKind::Rsa => Action::Sign(Scheme::RsaPkcs1(Hash::Sha256)),
        KeyKind::Ec(_) => Action::Sign(Scheme::Ecdsa(Hash::Sha256)),
        KeyKind::Ed25519 => Action::Sign(Scheme::Ed25519),
        KeyKind::TripleDes | KeyKind::Local(_) | KeyKind::X25519 => {
            return Err(HsmError::Unsupported("it is not tried".to_owned()));
        }
        KeyKind::MlDsa(_) => Action::Sign(Scheme::MlDsa),
    };
    tried(hsm, key, &action, &ClearBytes::copy_from(&TRIAL)).await
}

async fn tried(
    hsm: &dyn Hsm,
    key: &TokenKey,
    action: &Action,
    input: &ClearBytes,
) -> Result<(), HsmError> {
    let done = hsm.use_key(key, action, input).await;
    hsm.forget_key(&key.name).await;
    done.map(drop)
}
