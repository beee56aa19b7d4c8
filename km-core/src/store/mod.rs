//! The versioned key-value store under everything durable. Enter through [`Store`].
//!
//! Small enough that a distributed engine fits behind it. Everything about pools, leases and
//! objects is written once above it. What goes in is sealed or public metadata, and authenticated
//! ([`crate::vault`]); the store itself never judges a value.

pub mod faulty;
mod sqlite;
mod staged;
pub mod suite;

use std::{ops::Bound, path::Path, time::Duration};

use async_trait::async_trait;

pub use sqlite::{Claim, SqliteStore};
pub use staged::Staged;

/// Most checks + puts + deletes one [`Commit`] may carry.
pub const MAX_OPS: usize = 100;
/// Most bytes (keys and values) one [`Commit`] may carry.
pub const MAX_COMMIT_BYTES: usize = 1 << 20;
/// Most records one [`Store::range`] call returns, whatever limit was asked. A page shorter than
/// both this and the limit asked for is the last one.
pub const MAX_RANGE: usize = 1000;
/// Longest key in bytes; the shortest has one.
pub const MAX_KEY_BYTES: usize = 1024;

/// A record's version: grows with every change of that key, never reused within a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A value with the version it had when read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// Its version.
    pub version: Version,
}

/// What must hold for a commit to happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// The key has no record.
    Absent(Vec<u8>),
    /// The key has exactly this version.
    Is(Vec<u8>, Version),
}

impl Check {
    /// The key that is checked.
    pub fn key(&self) -> &[u8] {
        match self {
            Check::Absent(key) | Check::Is(key, _) => key,
        }
    }
}

/// One atomic change. Build with the methods, hand to [`Store::commit`].
///
/// Checks see the state before the change. A key put twice gets the last value; a key both put
/// and deleted ends up deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// All must hold, or nothing happens.
    pub checks: Vec<Check>,
    /// Records to write.
    pub puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys to delete; deleting an absent key is no error.
    pub deletes: Vec<Vec<u8>>,
    /// When set, the commit fails with `Conflict` unless this session is alive (fencing).
    pub session: Option<SessionId>,
}

impl Commit {
    /// An empty commit.
    pub fn new() -> Self {
        Self::default()
    }
    /// Requires that `key` has no record.
    pub fn absent(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.checks.push(Check::Absent(key.into()));
        self
    }
    /// Requires that `key` is at `version`.
    pub fn unchanged(mut self, key: impl Into<Vec<u8>>, version: Version) -> Self {
        self.checks.push(Check::Is(key.into(), version));
        self
    }
    /// Writes `value` at `key`.
    pub fn put(mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.puts.push((key.into(), value.into()));
        self
    }
    /// Deletes `key`.
    pub fn delete(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.deletes.push(key.into());
        self
    }
    /// Number of operations, as counted against [`MAX_OPS`].
    pub fn ops(&self) -> usize {
        self.checks.len() + self.puts.len() + self.deletes.len()
    }
    /// Makes the commit happen only while `session` is alive.
    pub fn fenced(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }
    /// Number of bytes, as counted against [`MAX_COMMIT_BYTES`].
    pub fn bytes(&self) -> usize {
        self.puts.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>()
            + self.deletes.iter().map(Vec::len).sum::<usize>()
            + self.checks.iter().map(|c| c.key().len()).sum::<usize>()
    }
    /// Refuses what breaks a limit of this module. Every store calls it first.
    pub fn within_limits(&self) -> Result<(), StoreError> {
        let refuse = |what: String| Err(StoreError::TooLarge(what));
        if self.ops() > MAX_OPS {
            return refuse(format!("{} operations in one commit, at most {MAX_OPS}", self.ops()));
        }
        if self.bytes() > MAX_COMMIT_BYTES {
            return refuse(format!(
                "{} bytes in one commit, at most {MAX_COMMIT_BYTES}",
                self.bytes()
            ));
        }
        let puts = self.puts.iter().map(|(key, _)| key.as_slice());
        let deletes = self.deletes.iter().map(Vec::as_slice);
        let mut keys = self.checks.iter().map(Check::key).chain(puts).chain(deletes);
        match keys.find(|key| key.is_empty() || key.len() > MAX_KEY_BYTES) {
            Some(key) => {
                refuse(format!("a key of {} bytes, allowed are 1 to {MAX_KEY_BYTES}", key.len()))
            }
            None => Ok(()),
        }
    }
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Durable. Every record put now has this version.
    Committed(Version),
    /// A check did not hold, or the session is gone; nothing was changed.
    Conflict,
    /// Nobody knows. The caller must re-read before it acts, and deliver nothing unconfirmed.
    Unknown,
}

/// Why the store did not answer. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// The engine cannot be reached now.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The cluster took this key manager out: this process never writes here again.
    #[error("this key manager was taken out of its cluster and writes nothing")]
    Barred,
    /// No room. Free disk space or raise the engine's quota.
    #[error("the store is full: {0}")]
    Full(String),
    /// The request breaks a limit of this module (operations, bytes).
    #[error("the request exceeds a store limit: {0}")]
    TooLarge(String),
    /// The data was written by a newer version of qkm.
    #[error(
        "{path} was written in store format {found} by a newer qkm; this one reads up to format {known}. \
         Run the newer qkm, or name another path"
    )]
    NewerFormat {
        /// The store's path or address.
        path: String,
        /// The format it is in.
        found: u32,
        /// The newest format this build knows.
        known: u32,
    },
    /// The data cannot be read as a store of qkm.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

/// A fencing token: alive until its time to live passes without [`Store::keep_alive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

/// A session that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// What names it.
    pub id: SessionId,
    /// How long it lasts without a keep-alive: what was asked for, or more.
    pub ttl: Duration,
}

/// A change seen by [`Store::watch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A record was written.
    Put(Record),
    /// A record was deleted, at this version.
    Deleted(Vec<u8>, Version),
    /// History before this point is gone: list again, then watch from now.
    Compacted,
}

/// Durable, versioned, atomic. Every implementation passes [`suite`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads one record.
    async fn get(&self, key: &[u8]) -> Result<Option<Record>, StoreError>;

    /// Up to `limit` records whose key starts with `prefix`, in key order, starting `after`
    /// (`Unbounded`: from the first; `Excluded(k)`: the next page after `k`).
    async fn range(
        &self,
        prefix: &[u8],
        after: Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError>;

    /// Applies a change atomically. `Committed` means durable: it survives a crash right after.
    /// A caller that drops the future before it answers knows no more than after `Unknown`.
    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError>;

    /// Changes under `prefix` from now on, in order. A watcher that falls too far behind gets
    /// [`Event::Compacted`] as its last event; it lists again and watches anew.
    async fn watch(&self, prefix: &[u8]) -> Result<tokio::sync::mpsc::Receiver<Event>, StoreError>;

    /// Opens a session that ends when `ttl` passes without a keep-alive. A store may know a shortest
    /// time, or whole seconds only: see [`Session::ttl`].
    async fn session(&self, ttl: Duration) -> Result<Session, StoreError>;

    /// Extends a session; `false` when it has ended.
    async fn keep_alive(&self, session: SessionId) -> Result<bool, StoreError>;

    /// Ends a session at once.
    async fn end_session(&self, session: SessionId) -> Result<(), StoreError>;

    /// Deletes every record under `prefix` (in as many commits as it takes, so others see it
    /// happen). A record written under `prefix` meanwhile may stay.
    async fn purge(&self, prefix: &[u8]) -> Result<(), StoreError>;

    /// Writes a consistent copy to `to`, which must not exist.
    async fn snapshot(&self, to: &Path) -> Result<(), StoreError>;
}
