//! The door to hardware security modules as the domain sees it. Implemented in `hsm-profiles`.
//!
//! A key-encryption key (KEK) is generated in the token and never leaves it; everything else is
//! sealed by it, the record's header as associated data (seed clause 9.3). What is sealed says how
//! ([`Sealed`]), so that it opens whatever the token's profile says by then.

mod parcel;
mod sealed;

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    material::ClearBytes,
    usage::{Action, KeyKind, KeyUse, kem::KemSet},
};

pub use parcel::{KEK_SEED_BYTES, KekParcel, KekReceiver, KekUse, WrappedKek, wrapping};
pub use sealed::{KeyProtection, MadeKey, SEALED_FORMAT, SealMethod, Sealed, TokenKey};

/// Names one KEK in the token: `CKA_ID` of the key, in hexadecimal where a person reads it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KekId(pub String);

/// A KEK the token holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KekInfo {
    /// Its name, as in what it sealed.
    pub id: KekId,
    /// Its number; the KEK with the highest one seals. It is the number of its epoch.
    pub number: u64,
}

/// Where a function of the token keeps the keys it works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Custody {
    /// A key of one message, or the operation itself, is in this process's memory for its time.
    HostTransient,
    /// Keys never leave the token.
    InToken,
}

impl Custody {
    /// As metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InToken => "in-token",
            Self::HostTransient => "host-transient",
        }
    }
}

impl std::fmt::Display for Custody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::InToken => "in token",
            Self::HostTransient => "host, transient",
        })
    }
}

/// Why the token did not do it. `Temporary` kinds may be tried again, the others need a person.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum HsmError {
    /// The token is gone, busy past the deadline, or restarting. Trying again may help.
    #[error("the HSM is not available: {0}")]
    Unavailable(String),
    /// The sealed message does not open: changed, moved to another record, or sealed elsewhere.
    #[error("sealed data was refused by the HSM: {0}")]
    Refused(String),
    /// What the application gave does not fit: padding, tag, length. Nothing is wrong here.
    #[error("the data does not fit: {0}")]
    Input(String),
    /// The token has no room for another object. Nothing was stored; what is there still is.
    #[error("the HSM is full: {0}. Destroy objects in it, or store outside it")]
    Full(String),
    /// The request can never work on this token (mechanism, size, rights, missing KEK).
    #[error("the HSM cannot do this: {0}")]
    Unsupported(String),
    /// The configuration is wrong (library, token, PIN). The text says what to change.
    #[error("{0}")]
    Setup(String),
}

/// What a readiness probe and an operator want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HsmStatus {
    /// Logged in, and the last operation or probe succeeded.
    pub ready: bool,
    /// Token label, e.g. `north-1`.
    pub token: String,
    /// Token serial number as the library prints it.
    pub serial: String,
    /// One line for a person: why it is not ready, or the library's description.
    pub detail: String,
}

/// Memory of the token for private objects, as far as it tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRoom {
    /// Bytes free.
    pub free_bytes: Option<u64>,
    /// Bytes altogether.
    pub total_bytes: Option<u64>,
}

/// One token (or HSM cluster) with the KEKs of this KM.
#[async_trait]
pub trait Hsm: Send + Sync + 'static {
    /// The KEK new data is sealed under.
    fn current_kek(&self) -> KekId;

    /// Seals `clear` under the current KEK (AES-256-GCM, fresh nonce) with `aad` authenticated, in
    /// the way the token's profile says ([`SealMethod`]).
    async fn seal(&self, aad: &[u8], clear: &ClearBytes) -> Result<Sealed, HsmError>;

    /// Opens what [`Hsm::seal`] made, under the same `aad`.
    async fn open(&self, aad: &[u8], sealed: &Sealed) -> Result<ClearBytes, HsmError>;

    /// `len` bytes from the token's random number generator.
    async fn random(&self, len: usize) -> Result<ClearBytes, HsmError>;

    /// Makes a key in the token that never leaves it in clear: it is wrapped in the token, and what
    /// comes out is sealed with `aad`. `bits` counts for AES, HMAC and RSA.
    async fn make_key(&self, aad: &[u8], kind: KeyKind, bits: u32) -> Result<MadeKey, HsmError> {
        let _ = (aad, kind, bits);
        Err(HsmError::Unsupported("this token makes no keys for use inside".to_owned()))
    }

    /// As [`Hsm::make_key`], a secret key of what `base` and `public` (SubjectPublicKeyInfo in DER)
    /// agree on: the first `bits` of it.
    ///
    /// # Errors
    /// As [`Hsm::use_key`] with [`Action::Agree`].
    async fn agree_key(
        &self,
        base: &TokenKey,
        public: &[u8],
        aad: &[u8],
        kind: KeyKind,
        bits: u32,
    ) -> Result<MadeKey, HsmError> {
        let _ = (base, public, aad, kind, bits);
        Err(HsmError::Unsupported("this token agrees on no keys for use inside".to_owned()))
    }

    /// Uses a key inside the token, sensitive and not extractable there.
    ///
    /// # Errors
    /// [`HsmError::Unsupported`] when the token does not have the action for this key,
    /// [`HsmError::Input`] when `input` does not fit, [`HsmError::Refused`] when the key does not
    /// open.
    async fn use_key(
        &self,
        key: &TokenKey,
        action: &Action,
        input: &ClearBytes,
    ) -> Result<ClearBytes, HsmError> {
        let input = input.expose(ClearBytes::copy_from);
        let one = KeyUse { action: action.clone(), input };
        let done = self.use_key_each(key, &Arc::from([one])).await?;
        let none = || HsmError::Unavailable("the token gave no result".to_owned());
        done.into_iter().next().ok_or_else(none)
    }

    /// As [`Hsm::use_key`], several uses with one request; their results in the same order.
    ///
    /// # Errors
    /// That of the first use which fails. Then nothing is known of the others, and all may be done
    /// again, each by itself.
    async fn use_key_each(
        &self,
        key: &TokenKey,
        uses: &Arc<[KeyUse]>,
    ) -> Result<Vec<ClearBytes>, HsmError> {
        let _ = (key, uses);
        Err(HsmError::Unsupported("this token does not use keys inside".to_owned()))
    }

    /// How many requests it works on at the same time, about.
    fn sessions(&self) -> usize {
        1
    }

    /// Wraps and seals a key of [`Hsm::make_key`] anew, for the current KEK, without its leaving the
    /// token.
    async fn rewrap_key(&self, aad: &[u8], sealed: &Sealed) -> Result<Sealed, HsmError> {
        let _ = (aad, sealed);
        Err(HsmError::Unsupported("this token makes no keys for use inside".to_owned()))
    }

    /// Drops the key of this name where the token keeps it at hand.
    async fn forget_key(&self, name: &[u8]) {
        let _ = name;
    }

    /// Makes a key pair for key encapsulation in the token, for as long as the login lasts: the
    /// name of the private key there, and the public key.
    async fn kem_key_pair(&self, set: KemSet) -> Result<(Vec<u8>, Vec<u8>), HsmError> {
        let _ = set;
        Err(HsmError::Unsupported("this token has no ML-KEM".to_owned()))
    }

    /// A fresh secret and its ciphertext for the holder of the private key to `public`, made in the
    /// token.
    async fn kem_encapsulate(
        &self,
        set: KemSet,
        public: &[u8],
    ) -> Result<(Vec<u8>, ClearBytes), HsmError> {
        let _ = (set, public);
        Err(HsmError::Unsupported("this token has no ML-KEM".to_owned()))
    }

    /// The secret in `ciphertext`, by the private key of this name in the token.
    ///
    /// # Errors
    /// [`HsmError::Unsupported`] when the token does not hold the key any more.
    async fn kem_decapsulate(
        &self,
        name: &[u8],
        ciphertext: &[u8],
    ) -> Result<ClearBytes, HsmError> {
        let _ = (name, ciphertext);
        Err(HsmError::Unsupported("this token has no ML-KEM".to_owned()))
    }

    /// Destroys the private key of this name. What is not there is no error.
    async fn kem_forget(&self, name: &[u8]) {
        let _ = name;
    }

    /// Does a seal/open round trip and reports.
    async fn probe(&self) -> HsmStatus;

    /// Status as of the last operation or probe; never blocks.
    fn status(&self) -> HsmStatus;

    /// The KEKs in the token, lowest number first; the last one seals.
    async fn keks(&self) -> Result<Vec<KekInfo>, HsmError> {
        Err(HsmError::Unsupported("this HSM does not list its KEKs".into()))
    }

    /// Makes a KEK with a number above all others. From now on it seals.
    async fn create_kek(&self) -> Result<KekInfo, HsmError> {
        Err(HsmError::Unsupported("this HSM makes no KEKs".into()))
    }

    /// As [`Hsm::create_kek`], with a number not below `from`; the keys of the new epoch come wrapped for
    /// each receiver, in order. What is random of the wrapping outside the token is made of `seed`,
    /// [`KEK_SEED_BYTES`] that are used for nothing else. Of several tokens only one has it afterwards: what
    /// the others are to take is in [`Hsm::keks_waiting`], and [`Hsm::bring_kek`] brings it.
    async fn create_kek_for(
        &self,
        from: u64,
        receivers: &[KekReceiver],
        seed: &ClearBytes,
    ) -> Result<(KekInfo, Vec<KekParcel>), HsmError> {
        let _ = (from, receivers, seed);
        Err(HsmError::Unsupported("this HSM gives no KEKs to another".into()))
    }

    /// Whether there are several tokens, so that each KEK is wrapped for the others.
    fn is_several(&self) -> bool {
        false
    }

    /// The names of its tokens, as KEKs are brought to them: that of the first is empty.
    fn tokens(&self) -> Vec<String> {
        vec![String::new()]
    }

    /// The KEKs that any of its tokens holds, of those that answer.
    async fn keks_anywhere(&self) -> Result<Vec<KekInfo>, HsmError> {
        self.keks().await
    }

    /// Whether a token that takes KEKs answers and lacks this one.
    async fn lacks_kek(&self, kek: &KekInfo) -> bool {
        let _ = kek;
        false
    }

    /// Brings a KEK of [`Hsm::create_kek_for`] to the other tokens, once what waits for them is safe. What one
    /// does not take is tried again by itself.
    async fn bring_kek(&self, kek: &KekInfo) {
        let _ = kek;
    }

    /// What other tokens need to wrap a KEK for this one; the same every time.
    async fn kek_receiver(&self) -> Result<KekReceiver, HsmError> {
        Err(HsmError::Unsupported("this HSM takes no KEKs of another".into()))
    }

    /// Takes the keys of an epoch that another token made; what is here already is left. Whoever calls
    /// has made sure of who made the parcel.
    async fn take_kek(&self, parcel: &KekParcel) -> Result<KekInfo, HsmError> {
        let _ = parcel;
        Err(HsmError::Unsupported("this HSM takes no KEKs of another".into()))
    }

    /// How each token of the KM takes KEKs, by its name; that of the first is empty. `None` of one that is
    /// away now; those that take none are left out.
    async fn kek_receivers(&self) -> Result<Vec<(String, Option<KekReceiver>)>, HsmError> {
        Ok(vec![(String::new(), Some(self.kek_receiver().await?))])
    }

    /// As [`Hsm::take_kek`], in the token of that name.
    async fn take_kek_in(&self, token: &str, parcel: &KekParcel) -> Result<KekInfo, HsmError> {
        match token {
            "" => self.take_kek(parcel).await,
            other => Err(HsmError::Unsupported(format!("this HSM has no token {other:?}"))),
        }
    }

    /// KEKs this HSM made that one of its own tokens did not take yet, each with the name of the token:
    /// nobody can wrap them again.
    fn keks_waiting(&self) -> Vec<(String, KekParcel)> {
        Vec::new()
    }

    /// Keeps `clear` inside the token, in every one of several, as a private object. Names are
    /// given once: an equal object of that name is left as it is, another one refused. Slow.
    async fn store_object(&self, _name: &str, _clear: &ClearBytes) -> Result<(), HsmError> {
        Err(HsmError::Unsupported("this HSM keeps no objects".into()))
    }

    /// The bytes kept as `name`; [`HsmError::Refused`] when there are none.
    async fn read_object(&self, _name: &str) -> Result<ClearBytes, HsmError> {
        Err(HsmError::Unsupported("this HSM keeps no objects".into()))
    }

    /// Destroys what is kept as `name`. What is not there is no error.
    async fn delete_object(&self, _name: &str) -> Result<(), HsmError> {
        Err(HsmError::Unsupported("this HSM keeps no objects".into()))
    }

    /// The names of the objects kept that begin with `prefix`.
    async fn object_names(&self, _prefix: &str) -> Result<Vec<String>, HsmError> {
        Err(HsmError::Unsupported("this HSM keeps no objects".into()))
    }

    /// How much room the token says it has for objects.
    async fn room(&self) -> Result<TokenRoom, HsmError> {
        Err(HsmError::Unsupported("this HSM does not tell its room".into()))
    }

    /// Destroys a KEK that does not seal any more, with all that belongs to its epoch. What it
    /// sealed never opens again. A KEK that is not there is no error.
    async fn destroy_kek(&self, _kek: &KekInfo) -> Result<(), HsmError> {
        Err(HsmError::Unsupported("this HSM destroys no KEKs".into()))
    }
}
