//! Reads. Enter through [`Readers`].
//!
//! A point read takes about 5 us, less than a trip to another thread and back, so it runs where it
//! is called, under a lock that is free as long as there are connections. Long pages would hold up
//! the caller's event loop, so they run on blocking threads, with connections of their own.

use std::{
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use rusqlite::{Connection, OptionalExtension, Row};
use tokio::sync::Semaphore;

use super::{apply::version_from, error::map, file::Held, lock};
use crate::store::{MAX_RANGE, Record, StoreError};

/// Longest page that is read where it is called.
const SHORT: usize = 16;
/// Connections for long pages, and so how many are read at once.
const LONG_READERS: usize = 2;

/// A whole record, wherever its value is.
const RECORD: &str = "key, version, coalesce(record.value, long_value.value) FROM record \
                      LEFT JOIN long_value ON long_value.id = record.long";

/// The reader connections.
pub(super) struct Readers {
    points: Pool,
    pages: Arc<Pool>,
    turns: Arc<Semaphore>,
}

struct Pool {
    connections: Vec<Mutex<Connection>>,
    next: AtomicUsize,
    // Keeps the path ours until the last connection is closed.
    _held: Arc<Held>,
}

impl Pool {
    fn open(held: &Arc<Held>, size: usize) -> Result<Self, StoreError> {
        let connections =
            (0..size).map(|_| held.connect_reader().map(Mutex::new)).collect::<Result<_, _>>()?;
        Ok(Self { connections, next: AtomicUsize::new(0), _held: Arc::clone(held) })
    }

    /// A free connection, or a wait for one.
    fn take(&self) -> MutexGuard<'_, Connection> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let size = self.connections.len();
        let mut all = (0..size).map(|n| &self.connections[first.wrapping_add(n) % size]);
        all.find_map(|c| c.try_lock().ok()).unwrap_or_else(|| lock(&self.connections[first % size]))
    }
}

/// Runs `work` on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| StoreError::Unavailable(format!("a blocking read ended early: {e}")))?
}

impl Readers {
    pub(super) fn open(held: &Arc<Held>) -> Result<Self, StoreError> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Ok(Self {
            points: Pool::open(held, cores.clamp(2, 16))?,
            pages: Arc::new(Pool::open(held, LONG_READERS)?),
            turns: Arc::new(Semaphore::new(LONG_READERS)),
        })
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        let db = self.points.take();
        let sql = format!("SELECT {RECORD} WHERE key = ?1");
        let mut select = db.prepare_cached(&sql).map_err(map)?;
        let found = select.query_row([key], raw).optional().map_err(map)?;
        found.map(record).transpose()
    }

    pub(super) async fn range(
        &self,
        prefix: &[u8],
        after: Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let limit = limit.min(MAX_RANGE);
        let span = Span::new(prefix, after);
        let page = move |db: &Connection| {
            span.select(db, RECORD, limit, raw)?.into_iter().map(record).collect()
        };
        if limit <= SHORT {
            return page(&self.points.take());
        }
        self.long(page).await
    }

    /// As `range`, keys alone: what is to be deleted need not be read.
    pub(super) async fn keys(
        &self,
        prefix: &[u8],
        after: Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let span = Span::new(prefix, after);
        self.long(move |db| span.select(db, "key FROM record", limit, |row| row.get(0))).await
    }

    async fn long<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| StoreError::Unavailable("closing".into()))?;
        let pages = Arc::clone(&self.pages);
        blocking(move || {
            let result = read(&pages.take());
            drop(turn);
            result
        })
        .await
    }
}

fn raw(row: &Row<'_>) -> Result<(Vec<u8>, i64, Vec<u8>), rusqlite::Error> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn record((key, version, value): (Vec<u8>, i64, Vec<u8>)) -> Result<Record, StoreError> {
    Ok(Record { key, value, version: version_from(version)? })
}

/// The keys from `from` on, below `below` when there is a key above all that share the prefix.
struct Span {
    from: Vec<u8>,
    below: Option<Vec<u8>>,
}

impl Span {
    fn new(prefix: &[u8], after: Bound<Vec<u8>>) -> Self {
        let from = match after {
            Bound::Unbounded => prefix.to_vec(),
            Bound::Included(key) => key.max(prefix.to_vec()),
            Bound::Excluded(mut key) => {
                // The next key in byte order.
                key.push(0);
                key.max(prefix.to_vec())
            }
        };
        // A last byte 0xff has no successor; the one before it decides.
        let below = prefix.iter().rposition(|byte| *byte != 0xff).map(|last| {
            let mut below = prefix[..=last].to_vec();
            below[last] += 1;
            below
        });
        Self { from, below }
    }

    fn select<T>(
        &self,
        db: &Connection,
        what: &str,
        limit: usize,
        read: impl FnMut(&Row<'_>) -> Result<T, rusqlite::Error>,
    ) -> Result<Vec<T>, StoreError> {
        let end = if self.below.is_some() { "AND key < ?3" } else { "" };
        let sql = format!("SELECT {what} WHERE key >= ?1 {end} ORDER BY key LIMIT ?2");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut select = db.prepare_cached(&sql).map_err(map)?;
        let rows = match &self.below {
            Some(below) => select.query_map((&self.from, limit, below), read),
            None => select.query_map((&self.from, limit), read),
        };
        rows.and_then(Iterator::collect).map_err(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_0xff_bytes_has_no_end() {
        assert_eq!(Span::new(&[0xff, 0xff], Bound::Unbounded).below, None);
        assert_eq!(Span::new(b"", Bound::Unbounded).below, None);
        assert_eq!(Span::new(&[1, 0xff], Bound::Unbounded).below, Some(vec![2]));
    }

    #[test]
    fn a_page_never_starts_before_its_prefix() {
        assert_eq!(Span::new(b"m", Bound::Excluded(b"a".to_vec())).from, b"m");
        assert_eq!(Span::new(b"m", Bound::Excluded(b"m".to_vec())).from, b"m\0");
    }
}
