//! The embedded store: one SQLite file, one process. Enter through [`SqliteStore::open`].
//!
//! - `file`: the lock on the path, the format, connections.
//! - `queue`, `writer`: the one thread that writes; what waits becomes one transaction, one sync.
//! - `apply`: one commit inside that transaction.
//! - `read`: reader connections. - `cache`: records read lately. - `checkpoint`: keeps the write-ahead log short.
//! - `session`, `watch`: kept in memory; a restart ends them.
//!
//! Deleting is not erasing: traces stay in the log until close and rarely in the file (see
//! [`SqliteStore::scrub_on_close`]), and in backups and the disk's own copies for good. Erasure is
//! the destruction of the key that sealed the value.
//!
//! What a reader sees is durable: SQLite shows a transaction only after its log is synced. When a
//! sync fails nobody knows what the disk holds, so the store stops until it is opened again.

mod apply;
mod cache;
mod checkpoint;
mod error;
mod file;
mod queue;
mod read;
mod session;
mod watch;
mod writer;

use std::{
    fmt,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::{mpsc::Receiver, oneshot};

use super::{Commit, Event, MAX_OPS, Outcome, Record, Session, SessionId, Store, StoreError};
use cache::Cache;
use file::Held;
use queue::Queue;
use read::Readers;
use session::Sessions;
use watch::Watchers;
use writer::Writer;

/// The embedded store. Dropping it answers what is queued, empties the write-ahead log, and closes.
///
/// Keep the file on a local disk, never on a network share.
pub struct SqliteStore {
    held: Arc<Held>,
    readers: Option<Readers>,
    shared: Arc<Shared>,
    scrub: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
    checkpointer: Option<JoinHandle<()>>,
}

/// The path of a store, there or not, that nobody opens while this lives.
pub struct Claim(Arc<Held>);

impl Claim {
    /// Takes the path.
    ///
    /// # Errors
    /// `Unavailable` when a process has the store there open.
    pub fn take(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        file::claim(path.as_ref()).map(|held| Self(Arc::new(held)))
    }

    /// A record of the store here, if there is a store.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        let path = &self.0.path;
        match path.try_exists().map_err(|e| error::map_io("looking for", path, &e))? {
            true => Readers::open(&self.0)?.get(key),
            false => Ok(None),
        }
    }

    /// Puts the store of `draft` in the place of the one here; where that one is now.
    ///
    /// # Errors
    /// Broken off half-way there may be none here; the next call does the rest.
    pub fn replace(&self, draft: Claim) -> Result<Option<PathBuf>, StoreError> {
        file::replace(&self.0, &draft.0)
    }
}

/// What callers and the writer both touch.
struct Shared {
    queue: Queue,
    sessions: Mutex<Sessions>,
    watchers: Watchers,
    cache: Cache,
}

/// Locks what no panic can leave half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SqliteStore {
    /// Opens the store at `path`, or makes an empty one there (mode 0600). The folder must exist.
    ///
    /// Blocks for a few syncs. Fails with `Unavailable` when another process has it open,
    /// `NewerFormat`, or `Damaged` when the file is not a store of ours.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let held = Arc::new(file::open(path.as_ref())?);
        let db = held.connect()?;
        let (version, epoch) = apply::begin_epoch(&db)?;
        let readers = Readers::open(&held)?;
        let scrub = Arc::new(AtomicBool::new(false));
        let (checkpoints, checkpointer) = checkpoint::start(held.connect()?, Arc::clone(&scrub))?;
        let shared = Arc::new(Shared {
            queue: Queue::new(),
            sessions: Mutex::new(Sessions::new(epoch)),
            watchers: Watchers::default(),
            cache: Cache::new(),
        });
        let writer = Writer::new(Arc::clone(&shared), version, checkpoints);
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(db))
            .map_err(|e| StoreError::Unavailable(format!("starting the writer thread: {e}")))?;
        tracing::info!(path = %held.path.display(), version = version.0, epoch, "store open");
        let (writer, checkpointer) = (Some(writer), Some(checkpointer));
        Ok(Self { held, readers: Some(readers), shared, scrub, writer, checkpointer })
    }

    /// Makes the coming close rewrite the file, so that no trace of a deleted value stays in it.
    ///
    /// Without this, deleted values are overwritten as they go, but a few in ten thousand stay:
    /// SQLite leaves copies behind where it moved records between pages. Takes as long as copying
    /// the store, and twice its size in free space; a failure is logged.
    pub fn scrub_on_close(&self) {
        self.scrub.store(true, Ordering::Release);
    }

    fn readers(&self) -> Result<&Readers, StoreError> {
        self.shared.queue.check_open()?;
        self.readers.as_ref().ok_or_else(|| StoreError::Unavailable("closing".into()))
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.held.path).finish_non_exhaustive()
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // In this order: the checkpointer empties the log when nobody else uses it.
        self.readers = None;
        self.shared.queue.close();
        for thread in [self.writer.take(), self.checkpointer.take()].into_iter().flatten() {
            if thread.join().is_err() {
                tracing::error!(path = %self.held.path.display(), "a thread of the store panicked");
            }
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        let readers = self.readers()?;
        let ticket = match self.shared.cache.get(key) {
            Ok(record) => return Ok(Some(record)),
            Err(ticket) => ticket,
        };
        let found = readers.get(key)?;
        if let Some(record) = &found {
            self.shared.cache.fill(ticket, record);
        }
        Ok(found)
    }

    async fn range(
        &self,
        prefix: &[u8],
        after: Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.readers()?.range(prefix, after, limit).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        commit.within_limits()?;
        let (answer, answered) = oneshot::channel();
        self.shared.queue.push(commit, answer).await?;
        // The writer died with this commit in hand: nobody knows.
        answered.await.unwrap_or(Ok(Outcome::Unknown))
    }

    async fn watch(&self, prefix: &[u8]) -> Result<Receiver<Event>, StoreError> {
        self.shared.queue.check_open()?;
        self.shared.watchers.add(prefix)
    }

    async fn session(&self, ttl: Duration) -> Result<Session, StoreError> {
        self.shared.queue.check_open()?;
        let id = lock(&self.shared.sessions).open(ttl, Instant::now())?;
        Ok(Session { id, ttl })
    }

    async fn keep_alive(&self, session: SessionId) -> Result<bool, StoreError> {
        self.shared.queue.check_open()?;
        Ok(lock(&self.shared.sessions).keep_alive(session, Instant::now()))
    }

    async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        self.shared.queue.check_open()?;
        lock(&self.shared.sessions).end(session);
        Ok(())
    }

    async fn purge(&self, prefix: &[u8]) -> Result<(), StoreError> {
        let mut after = Bound::Unbounded;
        loop {
            let keys = self.readers()?.keys(prefix, after, MAX_OPS).await?;
            let Some(last) = keys.last().cloned() else { return Ok(()) };
            match self.commit(Commit { deletes: keys, ..Commit::new() }).await? {
                Outcome::Committed(_) => after = Bound::Excluded(last),
                Outcome::Conflict | Outcome::Unknown => {
                    return Err(StoreError::Unavailable("the purge was cut short".into()));
                }
            }
        }
    }

    async fn snapshot(&self, to: &Path) -> Result<(), StoreError> {
        self.shared.queue.check_open()?;
        let (held, to) = (Arc::clone(&self.held), to.to_owned());
        read::blocking(move || file::copy(&held, &to)).await
    }
}
