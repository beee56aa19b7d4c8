//! Which copy of the store is the newest: a count in the store and in the token, so that an older copy
//! put back is noticed. Enter through [`Anchor::open`].
//!
//! The count grows at each start, at each end, and at intervals, first in the store, then in the token:
//! after a crash between the two the store is ahead by one. So a store that is behind the token is
//! older than one that ran, and one that is ahead by more met a token that was set back. What is not
//! noticed is a copy that was made since the count last grew, put back after a crash.

use std::{
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::{Deserialize, Serialize};

use crate::{
    audit, epoch,
    hsm::{Hsm, HsmError},
    material::ClearBytes,
    records::{RecordError, Records},
    store::{Commit, MAX_RANGE, Outcome, Store, StoreError, Version},
    vault::RECORD_KEY,
};

/// What records are called that are there before the first count, besides the store's key.
const FIRST: [&[u8]; 2] = [epoch::PREFIX, audit::PREFIX];

/// Why a store is not taken for the newest, or the count did not grow.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum AnchorError {
    /// The store is an older copy.
    #[error(
        "it is an older copy: it is in generation {store}, and the HSM has seen generation {token}. \
         Keys that were handed out since would be handed out again"
    )]
    Older {
        /// Of the store.
        store: u64,
        /// Of the token.
        token: u64,
    },
    /// The token does not know this store, or an older one of it.
    #[error(
        "it is in generation {store}, and the HSM {}: the HSM was set back or is another one, so it \
         cannot tell whether this is the newest copy of the store",
        token.map_or("knows none".to_owned(), |token| format!("has seen only generation {token}"))
    )]
    Unknown {
        /// Of the store.
        store: u64,
        /// Of the token.
        token: Option<u64>,
    },
    /// The token did not do it.
    #[error(transparent)]
    Hsm(#[from] HsmError),
    /// The store did not do it.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Of all counts.
const ALL: &[u8] = b"meta/generation/";

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Generation {
    number: u64,
    /// It was restored by another KM: this one's token does not know the number yet.
    restored: bool,
}

/// As read.
type Found = Option<(Generation, Version)>;

/// Whether nobody ever used the store: it has at most its key and its first epochs, which are written
/// before the first count. So a first start that was killed in between is no older copy.
///
/// # Errors
/// Those of the store.
pub async fn is_new(store: &dyn Store) -> Result<bool, StoreError> {
    let page = store.range(b"", Bound::Unbounded, MAX_RANGE).await?;
    let early = |key: &[u8]| key == RECORD_KEY || FIRST.iter().any(|first| key.starts_with(first));
    Ok(page.len() < MAX_RANGE && page.iter().all(|record| early(&record.key)))
}

/// The count that one KM keeps of a store.
pub struct Anchor {
    hsm: Arc<dyn Hsm>,
    records: Records,
    /// Of the count in the store.
    record: Vec<u8>,
    /// Of the names of the counts in the token.
    prefix: String,
    /// In the store.
    number: AtomicU64,
    /// In the token; behind by one at most.
    anchored: AtomicU64,
    /// The version of the record; one change at a time.
    changing: tokio::sync::Mutex<Option<Version>>,
}

impl Anchor {
    /// Compares the counts and changes nothing. `is_new`: the store was empty, so that it is no copy,
    /// whatever the token has seen. `keeper` tells the counts of a store apart: each of several KMs that
    /// share one has its own, in its own token or in one that they share too.
    ///
    /// # Errors
    /// [`AnchorError::Older`] and [`AnchorError::Unknown`] for a store that must not be used as it is.
    pub async fn open(
        hsm: Arc<dyn Hsm>,
        records: Records,
        keeper: &str,
        is_new: bool,
    ) -> Result<Self, AnchorError> {
        let (anchor, restored) = Self::found(hsm, records, keeper).await?;
        let (store, token) = (anchor.store(), anchor.token());
        match is_new || restored {
            true => anchor.number.store(token, Relaxed),
            false if store < token => return Err(AnchorError::Older { store, token }),
            false if store > token + 1 => {
                let token = (token > 0).then_some(token);
                return Err(AnchorError::Unknown { store, token });
            }
            false => {}
        }
        Ok(anchor)
    }

    /// Both counts, whatever they are: for a store that is being restored.
    ///
    /// # Errors
    /// Those of token and store.
    pub async fn read(
        hsm: Arc<dyn Hsm>,
        records: Records,
        keeper: &str,
    ) -> Result<Self, AnchorError> {
        Self::found(hsm, records, keeper).await.map(|(anchor, _)| anchor)
    }

    async fn found(
        hsm: Arc<dyn Hsm>,
        records: Records,
        keeper: &str,
    ) -> Result<(Self, bool), AnchorError> {
        let record = [ALL, keeper.as_bytes()].concat();
        let prefix = format!("generation-{keeper}-");
        let stored = look(&records, &record).await?;
        let token = newest(&hsm.object_names(&prefix).await?, &prefix);
        let anchor = Self {
            hsm,
            records,
            record,
            prefix,
            number: AtomicU64::new(stored.map_or(0, |(generation, _)| generation.number)),
            anchored: AtomicU64::new(token),
            changing: tokio::sync::Mutex::new(stored.map(|(_, version)| version)),
        };
        Ok((anchor, stored.is_some_and(|(generation, _)| generation.restored)))
    }

    /// The generation of the store.
    pub fn store(&self) -> u64 {
        self.number.load(Relaxed)
    }

    /// The newest that the token has seen; 0 when none.
    pub fn token(&self) -> u64 {
        self.anchored.load(Relaxed)
    }

    /// Lets the count grow by one. Copies made before are older from now on.
    ///
    /// # Errors
    /// When token or store did not do it; the next call goes on from there.
    pub async fn advance(&self) -> Result<(), AnchorError> {
        let mut version = self.changing.lock().await;
        // While the token is behind, another step would look as if it had been set back.
        if self.store() <= self.token() {
            self.put(&mut version, self.token() + 1).await?;
        }
        self.follow().await
    }

    /// Looks whether the store is still the one that was opened, while it runs.
    ///
    /// # Errors
    /// [`AnchorError::Older`] when an older copy was put in its place meanwhile.
    pub async fn check(&self) -> Result<(), AnchorError> {
        let known = self.changing.lock().await;
        match look(&self.records, &self.record).await? {
            // Nothing was counted yet.
            _ if known.is_none() => Ok(()),
            Some((generation, _)) if generation.restored => Ok(()),
            found => self.not_older(found),
        }
    }

    /// Makes the store older than what the token has seen: for one that is known to be.
    ///
    /// # Errors
    /// Those of the token.
    pub async fn condemn(&self) -> Result<(), AnchorError> {
        let _changing = self.changing.lock().await;
        self.number.store(self.store().max(self.token()) + 1, Relaxed);
        self.follow().await
    }

    /// The same for all KMs that count in this store and in this token, this one among them.
    ///
    /// # Errors
    /// Those of token and store.
    pub async fn condemn_all(&self) -> Result<(), AnchorError> {
        let store = self.records.store();
        let counts = store.range(ALL, Bound::Unbounded, MAX_RANGE).await;
        for found in counts.map_err(RecordError::Store)? {
            if found.key == self.record {
                continue;
            }
            let keeper = String::from_utf8_lossy(&found.key[ALL.len()..]);
            let other = Self::read(self.hsm.clone(), self.records.clone(), &keeper).await?;
            // Who counts in another token is not known in this one.
            if other.token() > 0 {
                other.condemn().await?;
            }
        }
        self.condemn().await
    }

    fn not_older(&self, found: Found) -> Result<(), AnchorError> {
        let (store, token) = (found.map_or(0, |(generation, _)| generation.number), self.token());
        // What was never counted is nobody's copy.
        match store < self.store().min(token) {
            true => Err(AnchorError::Older { store, token }),
            false => Ok(()),
        }
    }

    /// Makes the store newer than all that token and store have seen, without telling the token yet.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn surpass(&self) -> Result<(), AnchorError> {
        let mut version = self.changing.lock().await;
        self.put(&mut version, self.token().max(self.store()) + 1).await
    }

    /// Lets every other KM that counts in this store take it for the newest, once: after a restore.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn pardon_others(&self) -> Result<(), AnchorError> {
        let store = self.records.store();
        let counts = store.range(ALL, Bound::Unbounded, MAX_RANGE).await;
        for found in counts.map_err(RecordError::Store)? {
            if found.key == self.record {
                continue;
            }
            let generation: Generation = self.records.decode(&found.key, &found.value)?;
            let pardoned = Generation { restored: true, ..generation };
            let value = self.records.encode(&found.key, &pardoned);
            let commit = Commit::new().put(found.key, value);
            written(store.commit(commit).await.map_err(RecordError::Store)?)?;
        }
        Ok(())
    }

    /// Tells the token the generation of the store.
    ///
    /// # Errors
    /// Those of the token.
    pub async fn follow(&self) -> Result<(), AnchorError> {
        let number = self.store();
        let clear = ClearBytes::from_vec(number.to_be_bytes().to_vec());
        self.hsm.store_object(&self.name(number), &clear).await?;
        self.anchored.store(number, Relaxed);
        for name in self.hsm.object_names(&self.prefix).await? {
            if number_in(&name, &self.prefix).is_some_and(|older| older < number) {
                self.hsm.delete_object(&name).await?;
            }
        }
        Ok(())
    }

    /// Nobody else writes the record: if it changed, an earlier try of ours was carried out after all, or
    /// the store is another one.
    async fn put(&self, known: &mut Option<Version>, number: u64) -> Result<(), AnchorError> {
        let generation = Generation { number, restored: false };
        let value = self.records.encode(&self.record, &generation);
        let commit = Commit::new().put(self.record.clone(), value);
        let commit = match *known {
            Some(version) => commit.unchanged(self.record.clone(), version),
            None => commit.absent(self.record.clone()),
        };
        let outcome = self.records.store().commit(commit).await.map_err(RecordError::Store)?;
        if outcome == Outcome::Conflict {
            let found = look(&self.records, &self.record).await?;
            self.not_older(found)?;
            *known = found.map(|(_, version)| version);
            if found.is_some_and(|(generation, _)| generation.number == number) {
                self.number.store(number, Relaxed);
                return Ok(());
            }
        }
        *known = Some(written(outcome)?);
        self.number.store(number, Relaxed);
        Ok(())
    }

    fn name(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }
}

async fn look(records: &Records, record: &[u8]) -> Result<Found, RecordError> {
    let Some(found) = records.store().get(record).await? else { return Ok(None) };
    Ok(Some((records.decode(record, &found.value)?, found.version)))
}

fn written(outcome: Outcome) -> Result<Version, RecordError> {
    match outcome {
        Outcome::Committed(version) => Ok(version),
        outcome => {
            let why = format!("the generation of the store was not written ({outcome:?})");
            Err(RecordError::Store(StoreError::Unavailable(why)))
        }
    }
}

fn number_in(name: &str, prefix: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.parse().ok()
}

fn newest(names: &[String], prefix: &str) -> u64 {
    names.iter().filter_map(|name| number_in(name, prefix)).max().unwrap_or(0)
}
