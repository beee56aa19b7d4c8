//! Which copy of the store is the newest: a count in the store and in the token, so that an older copy
//! put back is noticed. Enter through [`Anchor::open`].
//!
//! The count grows at each start, at each end, and at intervals, first in the store, then in the token:
//! after a crash between the two the store is ahead by one. So a store that is behind the token is
//! older than one that ran, and one that is ahead by more met a token that was set back. What is not
//! noticed is a copy that was made since the count last grew, put back after a crash.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use serde::{Deserialize, Serialize};

use crate::{
    hsm::{Hsm, HsmError},
    ids::ClusterId,
    material::ClearBytes,
    records::{RecordError, Records},
    store::{Commit, Outcome, StoreError},
};

const RECORD: &[u8] = b"meta/generation";

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

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Generation {
    number: u64,
}

/// The count of one store in one cluster.
pub struct Anchor {
    hsm: Arc<dyn Hsm>,
    records: Records,
    prefix: String,
    /// In the store.
    number: AtomicU64,
    /// In the token; behind by one at most.
    anchored: AtomicU64,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Anchor {
    /// Compares the counts and changes nothing. `is_new`: the store was empty, so that it is no copy,
    /// whatever the token has seen.
    ///
    /// # Errors
    /// [`AnchorError::Older`] and [`AnchorError::Unknown`] for a store that must not be used as it is.
    pub async fn open(
        hsm: Arc<dyn Hsm>,
        records: Records,
        cluster: &ClusterId,
        is_new: bool,
    ) -> Result<Self, AnchorError> {
        let anchor = Self::read(hsm, records, cluster).await?;
        let (store, token) = (anchor.store(), anchor.token());
        match is_new {
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
        cluster: &ClusterId,
    ) -> Result<Self, AnchorError> {
        let prefix = format!("generation-{cluster}-");
        let stored: Option<Generation> = records.get(RECORD).await?;
        let token = newest(&hsm.object_names(&prefix).await?, &prefix);
        Ok(Self {
            hsm,
            records,
            prefix,
            number: AtomicU64::new(stored.map_or(0, |generation| generation.number)),
            anchored: AtomicU64::new(token),
            changing: tokio::sync::Mutex::default(),
        })
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
        let _changing = self.changing.lock().await;
        // While the token is behind, another step would look as if it had been set back.
        if self.store() <= self.token() {
            self.put(self.token() + 1).await?;
        }
        self.follow().await
    }

    /// Makes the store newer than all that token and store have seen, without telling the token yet.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn surpass(&self) -> Result<(), AnchorError> {
        let _changing = self.changing.lock().await;
        self.put(self.token().max(self.store()) + 1).await
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

    async fn put(&self, number: u64) -> Result<(), AnchorError> {
        let value = self.records.encode(RECORD, &Generation { number });
        let outcome = self.records.store().commit(Commit::new().put(RECORD, value)).await;
        match outcome.map_err(RecordError::Store)? {
            Outcome::Committed(_) => {
                self.number.store(number, Relaxed);
                Ok(())
            }
            outcome => {
                let why = format!("the generation of the store was not written ({outcome:?})");
                Err(RecordError::Store(StoreError::Unavailable(why)).into())
            }
        }
    }

    fn name(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }
}

fn number_in(name: &str, prefix: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.parse().ok()
}

fn newest(names: &[String], prefix: &str) -> u64 {
    names.iter().filter_map(|name| number_in(name, prefix)).max().unwrap_or(0)
}
