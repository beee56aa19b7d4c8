//! Keeps the write-ahead log short without holding up the writer.
//!
//! A thread of its own copies the log's pages into the database while the writer goes on; the
//! writer then copies the small rest, after which SQLite starts the log over. Only when the log is
//! far too long does the writer do the whole work itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use rusqlite::Connection;

use crate::store::StoreError;

/// Pages (4 KiB) in the log after which it is copied, and again after as many more.
const STEP: u32 = 1000;
/// Pages in the log at which the writer stops to copy them.
const TOO_LONG: u32 = 16_000;

/// The log's length and how much of it is in the database already, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Log {
    pages: u32,
    copied: u32,
}

fn checkpoint(db: &Connection, mode: &str) -> Result<Log, rusqlite::Error> {
    let mut pragma = db.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    // Both are -1 while there is no log.
    let pages = |n: i64| u32::try_from(n).unwrap_or(0);
    pragma.query_row([], |row| Ok(Log { pages: pages(row.get(1)?), copied: pages(row.get(2)?) }))
}

/// The writer's end.
pub(super) struct Checkpoints {
    wake: SyncSender<()>,
    rest: Arc<AtomicBool>,
    // The log's length when something was last done about it.
    seen: u32,
}

/// Starts the thread. It empties the log and ends when the [`Checkpoints`] are dropped; when `scrub`
/// is set by then, it rewrites the database first.
pub(super) fn start(
    db: Connection,
    scrub: Arc<AtomicBool>,
) -> Result<(Checkpoints, JoinHandle<()>), StoreError> {
    let (wake, woken) = sync_channel(1);
    let rest = Arc::new(AtomicBool::new(false));
    let checkpoints = Checkpoints { wake, rest: Arc::clone(&rest), seen: 0 };
    let thread = std::thread::Builder::new()
        .name("store-checkpoint".into())
        .spawn(move || {
            run(&db, &woken, &rest);
            close(&db, scrub.load(Ordering::Acquire));
        })
        .map_err(|e| StoreError::Unavailable(format!("starting the checkpoint thread: {e}")))?;
    Ok((checkpoints, thread))
}

fn run(db: &Connection, woken: &Receiver<()>, rest: &AtomicBool) {
    while woken.recv().is_ok() {
        match checkpoint(db, "PASSIVE") {
            Ok(log) => rest.store(log.copied < log.pages, Ordering::Release),
            Err(error) => tracing::warn!(%error, "the write-ahead log could not be copied"),
        }
    }
}

/// Writer and readers are gone, so this also wipes what the log still held.
fn close(db: &Connection, scrub: bool) {
    if scrub && let Err(error) = db.execute_batch("VACUUM") {
        tracing::error!(%error, "the store could not be scrubbed; traces of deleted values may stay");
    }
    if let Err(error) = checkpoint(db, "TRUNCATE") {
        tracing::warn!(%error, "the write-ahead log could not be emptied");
    }
}

impl Checkpoints {
    /// Called by the writer when its callers have their answers.
    pub(super) fn after_batch(&mut self, db: &Connection) {
        if let Err(error) = self.keep_short(db) {
            tracing::warn!(%error, "the write-ahead log could not be copied by the writer");
        }
    }

    fn keep_short(&mut self, db: &Connection) -> Result<(), rusqlite::Error> {
        let log = checkpoint(db, "NOOP")?;
        if log.pages < self.seen {
            self.seen = 0; // started over
        }
        let rest = self.rest.swap(false, Ordering::AcqRel);
        let grown = log.pages - self.seen;
        if rest || (log.pages >= TOO_LONG && grown >= STEP) {
            self.seen = checkpoint(db, "PASSIVE")?.pages;
        } else if grown >= STEP {
            self.seen = log.pages;
            // A full channel means it is about to run anyway.
            let _ = self.wake.try_send(());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_tells_the_length_of_its_log_without_copying() {
        let dir = tempfile::tempdir().unwrap();
        let db = Connection::open(dir.path().join("db")).unwrap();
        db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
            .unwrap();
        let log = checkpoint(&db, "NOOP").unwrap();
        assert!(log.pages > 0 && log.copied == 0, "{log:?}");
        let log = checkpoint(&db, "PASSIVE").unwrap();
        assert_eq!(log.pages, log.copied);
    }

    #[test]
    fn the_log_stays_short_while_everything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let held = super::super::file::open(&path).unwrap();
        let db = held.connect().unwrap();
        let (mut checkpoints, thread) = start(held.connect().unwrap(), Arc::default()).unwrap();
        for n in 0..400i64 {
            db.execute(
                "INSERT INTO record VALUES (?1, 1, zeroblob(250000), NULL)",
                [n.to_be_bytes().as_slice()],
            )
            .unwrap();
            checkpoints.after_batch(&db);
        }
        let log = super::super::file::beside(&path, "-wal");
        // 400 values fill 24,000 pages; the log must have started over on the way.
        let limit = u64::from(TOO_LONG + STEP) * 4120;
        assert!(log.metadata().unwrap().len() < limit, "{:?}", log.metadata());
        drop((db, checkpoints));
        thread.join().unwrap();
        assert!(!log.exists() || log.metadata().unwrap().len() == 0);
    }
}
