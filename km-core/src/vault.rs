//! Where clear becomes sealed and back. Enter through [`Vault`].
//!
//! Only the vault makes a [`SealedBlock`] or a [`SealedObject`], and each is bound by associated
//! data to the record it belongs to: a sealed blob moved, swapped or relabelled does not open.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    cabinet::Cabinet,
    custody::{Custodies, ML_KEM},
    epoch::{Epochs, Pin},
    hsm::{Custody, Hsm, HsmError, HsmStatus, KekId, Sealed},
    material::ClearBytes,
    random::{Random, RandomError},
    store::{Commit, Outcome, Record, Store, StoreError},
    usage::kem::{self, Encapsulated, KemPair, KemPrivate, KemSet},
};

pub use crate::sealed::{MadeObject, SealedObject};

/// Where the sealed key of the record tags is kept; a store without it is empty.
pub const RECORD_KEY: &[u8] = b"meta/record-key";
const RECORD_KEY_AAD: &[u8] = b"qkm record key 1\0";
const RECORD_KEY_BYTES: usize = 32;
/// The token may have a newer KEK than was known; a second one in a row is a fault.
const SEAL_TRIES: usize = 3;

/// Why the vault could not be opened.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum VaultError {
    /// The HSM did not do it.
    #[error(transparent)]
    Hsm(#[from] HsmError),
    /// A random source did not give the bytes of a new key.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store's record key does not open in this HSM.
    #[error(
        "this store does not open with the KEKs in this HSM ({0}). Either it was made with another \
         token: use that one. Or it is a copy made before its KEK epoch was destroyed: then it cannot \
         be opened again, and only an empty data directory can be used"
    )]
    Foreign(HsmError),
}

/// What a sealed blob belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A block of a pool.
    Block,
    /// A managed object.
    Object,
}

impl Kind {
    /// As logs and metrics say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Object => "object",
        }
    }
}

/// Sealed blobs the token refused to open since the start.
#[derive(Debug, Default)]
pub struct Refusals {
    blocks: AtomicU64,
    objects: AtomicU64,
}

impl Refusals {
    /// How many of this kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.counter(kind).load(Relaxed)
    }

    fn counter(&self, kind: Kind) -> &AtomicU64 {
        match kind {
            Kind::Block => &self.blocks,
            Kind::Object => &self.objects,
        }
    }
}

/// The HSM as the domain uses it.
#[derive(Clone)]
pub struct Vault {
    hsm: Arc<dyn Hsm>,
    epochs: Option<Arc<Epochs>>,
    refusals: Arc<Refusals>,
    random: Arc<Random>,
    cabinet: Option<Arc<Cabinet>>,
    custodies: Arc<Custodies>,
}

impl Vault {
    /// A vault over this token, with its random numbers, that does not count seals: to open the
    /// record key with.
    pub fn new(hsm: Arc<dyn Hsm>) -> Self {
        let random = Arc::new(Random::of_token(hsm.clone()));
        let (refusals, custodies) = (Arc::default(), Arc::default());
        Self { hsm, epochs: None, refusals, random, cabinet: None, custodies }
    }

    /// The vault that takes the bytes of new keys from here.
    pub fn with_random(self, random: Arc<Random>) -> Self {
        Self { random, ..self }
    }

    /// The vault that may keep objects inside the token.
    pub fn with_cabinet(self, cabinet: Arc<Cabinet>) -> Self {
        Self { cabinet: Some(cabinet), ..self }
    }

    pub(crate) fn hsm(&self) -> &dyn Hsm {
        self.hsm.as_ref()
    }

    pub(crate) fn cabinet(&self) -> Result<&Cabinet, HsmError> {
        let none = || HsmError::Unsupported("this KM keeps nothing inside the token".into());
        self.cabinet.as_deref().ok_or_else(none)
    }

    /// The vault whose seals these epochs count.
    pub fn with_epochs(self, epochs: Arc<Epochs>) -> Self {
        Self { epochs: Some(epochs), ..self }
    }

    /// Counts of sealed blobs that did not open.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Where the keys of each function are while it works.
    pub fn custodies(&self) -> &Custodies {
        &self.custodies
    }

    /// Seals under the active epoch, which stays in use until the pin is gone.
    pub(crate) async fn seal(
        &self,
        aad: &[u8],
        clear: &ClearBytes,
    ) -> Result<(Sealed, Pin), HsmError> {
        self.counted(|| self.hsm.seal(aad, clear), |sealed| &sealed.kek).await
    }

    /// Counts what `seal` seals under the active epoch, `kek` telling under which KEK it did.
    pub(crate) async fn counted<T, F>(
        &self,
        seal: impl Fn() -> F,
        kek: fn(&T) -> &KekId,
    ) -> Result<(T, Pin), HsmError>
    where
        F: Future<Output = Result<T, HsmError>>,
    {
        let Some(epochs) = &self.epochs else {
            return Ok((seal().await?, Pin::default()));
        };
        for _ in 0..SEAL_TRIES {
            let sealing = epochs.to_seal().await?;
            let sealed = seal().await?;
            if *kek(&sealed) == sealing.kek {
                return Ok((sealed, Pin::of(sealing)));
            }
            drop(sealing);
            epochs.refresh().await.map_err(|e| HsmError::Unavailable(e.to_string()))?;
        }
        Err(HsmError::Unavailable("the HSM changes its KEK all the time".into()))
    }

    pub(crate) async fn open(&self, aad: &[u8], sealed: &Sealed) -> Result<ClearBytes, HsmError> {
        self.with_kek(&sealed.kek, || self.hsm.open(aad, sealed)).await
    }

    /// Does what needs `kek`: once more when the token lacked it and another KM had it wrapped for this one.
    /// Of a KEK that no token will have again it is [`HsmError::Refused`].
    pub(crate) async fn with_kek<T, F>(
        &self,
        kek: &KekId,
        what: impl Fn() -> F,
    ) -> Result<T, HsmError>
    where
        F: Future<Output = Result<T, HsmError>>,
    {
        let Some(epochs) = &self.epochs else { return what().await };
        let mut done = what().await;
        if matches!(done, Err(HsmError::Unsupported(_))) && epochs.fetch(kek).await {
            done = what().await;
        }
        match done {
            Err(HsmError::Unsupported(why)) => {
                Err(epochs.explain(kek).map_or(HsmError::Unsupported(why), HsmError::Refused))
            }
            done => done,
        }
    }

    /// Whether the KEK epoch of what was sealed was closed before it was stored.
    pub(crate) async fn is_closed(&self, pin: &Pin) -> Result<bool, HsmError> {
        let Some(epochs) = &self.epochs else { return Ok(false) };
        let closed = epochs.is_closed(pin).await;
        closed.map_err(|error| HsmError::Unavailable(error.to_string()))
    }

    /// Says that a sealed blob did not open, if that is what `error` is.
    pub(crate) fn note_refusal(&self, kind: Kind, name: &str, error: &HsmError) {
        if matches!(error, HsmError::Refused(_)) {
            self.refusals.counter(kind).fetch_add(1, Relaxed);
            tracing::error!(record = kind.name(), %name, %error, alarm = "sealed-refused",
                "sealed data does not open: it was changed, moved, or put back");
        }
    }

    /// Health of the token; never blocks.
    pub fn status(&self) -> HsmStatus {
        self.hsm.status()
    }

    /// How many requests the token works on at the same time, about.
    pub fn sessions(&self) -> usize {
        self.hsm().sessions()
    }

    /// Where the bytes of new keys come from.
    pub fn random(&self) -> &Random {
        &self.random
    }

    /// The key of the record tags: opened when the store has one, else made in the token and
    /// stored sealed.
    pub async fn record_key(&self, store: &dyn Store) -> Result<ClearBytes, VaultError> {
        if let Some(record) = store.get(RECORD_KEY).await? {
            let sealed = parse_record_key(&record)?;
            return match self.hsm.open(RECORD_KEY_AAD, &sealed).await {
                Err(HsmError::Unavailable(why)) => Err(HsmError::Unavailable(why).into()),
                Err(error) => Err(VaultError::Foreign(error)),
                Ok(key) => Ok(key),
            };
        }
        let key = self.random.bytes(RECORD_KEY_BYTES).await?;
        let sealed = self.hsm.seal(RECORD_KEY_AAD, &key).await?;
        let value = postcard::to_allocvec(&sealed).unwrap_or_default();
        match store.commit(Commit::new().absent(RECORD_KEY).put(RECORD_KEY, value)).await? {
            Outcome::Committed(_) => Ok(key),
            // Another key manager was first, or it is not known: what is stored counts.
            Outcome::Conflict | Outcome::Unknown => match store.get(RECORD_KEY).await? {
                Some(_) => Box::pin(self.record_key(store)).await,
                None => Err(StoreError::Unavailable("the record key was not stored".into()).into()),
            },
        }
    }
}

impl Vault {
    /// The record key in a record that [`Vault::record_key`] or [`Vault::reseal_record_key`] wrote.
    pub(crate) async fn open_record_key(&self, record: &Record) -> Result<ClearBytes, VaultError> {
        Ok(self.hsm.open(RECORD_KEY_AAD, &parse_record_key(record)?).await?)
    }

    /// Moves the stored record key from one of `retiring` to the active epoch. `None`: it is under
    /// none of them; `false`: somebody changed it meanwhile.
    pub(crate) async fn reseal_record_key(
        &self,
        store: &dyn Store,
        retiring: impl Fn(&KekId) -> bool,
    ) -> Result<Option<(KekId, bool)>, VaultError> {
        let Some(record) = store.get(RECORD_KEY).await? else { return Ok(None) };
        let old = parse_record_key(&record)?;
        if !retiring(&old.kek) {
            return Ok(None);
        }
        let key = self.open(RECORD_KEY_AAD, &old).await?;
        let (sealed, pin) = self.seal(RECORD_KEY_AAD, &key).await?;
        let value = postcard::to_allocvec(&sealed).unwrap_or_default();
        let commit = Commit::new().unchanged(RECORD_KEY, record.version).put(RECORD_KEY, value);
        let outcome = store.commit(pin.guard(commit)).await?;
        Ok(Some((old.kek, matches!(outcome, Outcome::Committed(_)))))
    }
}

/// Key encapsulation: in the token where it has it, else in this process. Secrets are made of the random
/// sources, pairs by the library's generator and only while all sources are well.
impl Vault {
    /// Makes a pair for a few exchanges; [`KemPair::custody`] says where its private key is.
    ///
    /// # Errors
    /// [`HsmError::Unavailable`] when the token or a random source is away: a pair is never made elsewhere
    /// for that.
    pub async fn kem_key_pair(&self, set: KemSet) -> Result<KemPair, HsmError> {
        let pair = match self.hsm.kem_key_pair(set).await {
            Ok((name, public)) => {
                kem::check_len("public key", public.len(), set.public_bytes())?;
                KemPair { set, public, private: KemPrivate::Token(name) }
            }
            Err(HsmError::Unsupported(_)) => {
                self.random.check().await?;
                KemPair::make(set)?
            }
            Err(error) => return Err(error),
        };
        self.custodies.shown(ML_KEM, pair.custody());
        Ok(pair)
    }

    /// A fresh secret, and the ciphertext that brings it to the holder of the private key to
    /// `public`.
    ///
    /// # Errors
    /// [`HsmError::Input`] when `public` is no key of this set.
    pub async fn kem_encapsulate(
        &self,
        set: KemSet,
        public: &[u8],
    ) -> Result<Encapsulated, HsmError> {
        kem::check_public(set, public)?;
        let ((ciphertext, secret), custody) = match self.hsm.kem_encapsulate(set, public).await {
            Err(HsmError::Unsupported(_)) => {
                let seed = self.random.bytes(kem::SECRET_BYTES).await?;
                (kem::encapsulate_of(set, public, &seed)?, Custody::HostTransient)
            }
            done => (done?, Custody::InToken),
        };
        self.custodies.shown(ML_KEM, custody);
        Ok(Encapsulated { ciphertext, secret, custody })
    }

    /// The secret in `ciphertext`; another one when somebody changed the ciphertext.
    ///
    /// # Errors
    /// [`HsmError::Unsupported`] when the token does not hold the pair any more: make another.
    pub async fn kem_decapsulate(
        &self,
        pair: &KemPair,
        ciphertext: &[u8],
    ) -> Result<ClearBytes, HsmError> {
        kem::check_len("ciphertext", ciphertext.len(), pair.set.ciphertext_bytes())?;
        let secret = match &pair.private {
            KemPrivate::Token(name) => self.hsm.kem_decapsulate(name, ciphertext).await?,
            KemPrivate::Here(private) => kem::decapsulate(pair.set, private, ciphertext)?,
        };
        self.custodies.used(ML_KEM, pair.custody());
        Ok(secret)
    }

    /// Destroys the private key of a pair.
    pub async fn kem_forget(&self, pair: KemPair) {
        if let KemPrivate::Token(name) = &pair.private {
            self.hsm.kem_forget(name).await;
        }
    }
}

fn parse_record_key(record: &Record) -> Result<Sealed, StoreError> {
    postcard::from_bytes(&record.value)
        .map_err(|_| StoreError::Damaged("the record key does not parse".into()))
}
