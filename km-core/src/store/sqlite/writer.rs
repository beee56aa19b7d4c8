//! The one thread that writes.
//!
//! It takes all commits that wait, evaluates them in order in one transaction, syncs once, and
//! answers all. While it syncs the next ones gather, so the batches grow with the load by
//! themselves.

use std::{sync::Arc, time::Instant};

use rusqlite::{Connection, ErrorCode};

use super::{
    Shared,
    apply::{self, Statements},
    checkpoint::Checkpoints,
    error::map,
    lock,
    queue::{Job, Stop},
    watch::Change,
};
use crate::store::{Commit, Outcome, StoreError, Version};

/// Why a batch came to nothing.
enum Failure {
    /// Undone; the store goes on.
    Undone(StoreError),
    /// It may or may not be on the disk.
    Doubt(StoreError),
}

/// The writer's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    version: Version,
    checkpoints: Checkpoints,
}

impl Writer {
    /// `version` is the newest in the store.
    pub(super) fn new(shared: Arc<Shared>, version: Version, checkpoints: Checkpoints) -> Self {
        Self { shared, version, checkpoints }
    }

    /// Writes until the queue closes.
    pub(super) fn run(mut self, db: Connection) {
        let shared = Arc::clone(&self.shared);
        // However this thread ends, callers get an answer.
        let _stopped = Stop::when_dropped(&shared.queue);
        let mut statements = match Statements::prepare(&db) {
            Ok(statements) => statements,
            Err(error) => return shared.queue.stop(map(error)),
        };
        loop {
            let jobs = shared.queue.take();
            if jobs.is_empty() {
                return;
            }
            if let Err(error) = self.batch(&mut statements, jobs) {
                tracing::error!(%error, "a sync failed; the store stops");
                return shared.queue.stop(StoreError::Unavailable(format!(
                    "the disk failed while syncing ({error}); check it, then restart qkm"
                )));
            }
            self.checkpoints.after_batch(&db);
        }
    }

    /// One transaction: fails only when its fate is unknown.
    fn batch(&mut self, statements: &mut Statements, mut jobs: Vec<Job>) -> Result<(), StoreError> {
        let cost: usize = jobs.iter().map(|job| job.cost as usize).sum();
        let done = self.transact(statements, &mut jobs);
        self.shared.queue.make_room(cost);
        match done {
            Ok(outcomes) => {
                self.tell(&mut jobs, &outcomes);
                for (job, outcome) in jobs.into_iter().zip(outcomes) {
                    let _ = job.answer.send(Ok(outcome));
                }
                Ok(())
            }
            Err(Failure::Undone(error)) => {
                tracing::warn!(%error, commits = jobs.len(), "commits undone");
                for job in jobs {
                    let _ = job.answer.send(Err(error.clone()));
                }
                Ok(())
            }
            Err(Failure::Doubt(error)) => {
                for job in jobs {
                    let _ = job.answer.send(Ok(Outcome::Unknown));
                }
                Err(error)
            }
        }
    }

    fn transact(
        &mut self,
        statements: &mut Statements,
        jobs: &mut [Job],
    ) -> Result<Vec<Outcome>, Failure> {
        let before = self.version;
        let evaluated = self.evaluate(statements, jobs);
        let ended = match evaluated {
            Ok(outcomes) => {
                self.shared.cache.ending(keys_of(jobs));
                let ended = statements.end();
                self.shared.cache.ended();
                ended.map(|()| outcomes).map_err(|e| (e, true))
            }
            Err(error) => Err((error, false)),
        };
        ended.map_err(|(error, ending)| {
            self.version = before;
            // Out of room or locked out, SQLite has not written the frame that commits. After any
            // other failure at the end, the log may hold it.
            let certain = !ending
                || matches!(
                    error.sqlite_error_code(),
                    Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy)
                );
            if statements.undo() && certain {
                Failure::Undone(map(error))
            } else {
                Failure::Doubt(map(error))
            }
        })
    }

    fn evaluate(
        &mut self,
        statements: &mut Statements,
        jobs: &mut [Job],
    ) -> Result<Vec<Outcome>, rusqlite::Error> {
        let before = self.version;
        statements.begin()?;
        let mut outcomes = Vec::with_capacity(jobs.len());
        for job in jobs {
            outcomes.push(self.decide(statements, &mut job.commit)?);
        }
        if self.version > before {
            statements.advance(self.version)?;
        }
        Ok(outcomes)
    }

    fn decide(
        &mut self,
        statements: &mut Statements,
        commit: &mut Commit,
    ) -> Result<Outcome, rusqlite::Error> {
        if let Some(session) = commit.session
            && !lock(&self.shared.sessions).is_alive(session, Instant::now())
        {
            return Ok(Outcome::Conflict);
        }
        let changes = !commit.puts.is_empty() || !commit.deletes.is_empty();
        let version = Version(self.version.0 + u64::from(changes));
        if !statements.apply(commit, version)? {
            return Ok(Outcome::Conflict);
        }
        self.version = version;
        Ok(Outcome::Committed(self.version))
    }

    fn tell(&self, jobs: &mut [Job], outcomes: &[Outcome]) {
        if self.shared.watchers.is_empty() {
            return;
        }
        let committed = jobs.iter_mut().zip(outcomes).filter_map(|(job, outcome)| match outcome {
            Outcome::Committed(version) => Some((*version, std::mem::take(&mut job.commit))),
            Outcome::Conflict | Outcome::Unknown => None,
        });
        let changes: Vec<(Version, Vec<Change>)> =
            committed.map(|(version, commit)| (version, apply::changes(commit))).collect();
        self.shared.watchers.tell(&changes);
    }
}

/// Keys a transaction may change.
fn keys_of(jobs: &[Job]) -> impl Iterator<Item = &[u8]> {
    let commits = jobs.iter().map(|job| &job.commit);
    commits.flat_map(|commit| {
        let puts = commit.puts.iter().map(|(key, _)| key.as_slice());
        puts.chain(commit.deletes.iter().map(Vec::as_slice))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::store::sqlite::{
        cache::Cache,
        checkpoint, file,
        queue::{Answer, Queue},
        session::Sessions,
        watch::Watchers,
    };

    fn writer() -> (tempfile::TempDir, Writer, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let held = file::open(&dir.path().join("db")).unwrap();
        let db = held.connect().unwrap();
        let (version, epoch) = apply::begin_epoch(&db).unwrap();
        let (checkpoints, _) = checkpoint::start(held.connect().unwrap(), Arc::default()).unwrap();
        let shared = Arc::new(Shared {
            queue: Queue::new(),
            sessions: Mutex::new(Sessions::new(epoch)),
            watchers: Watchers::default(),
            cache: Cache::new(),
        });
        (dir, Writer::new(shared, version, checkpoints), db)
    }

    fn answer_to(writer: &mut Writer, db: &Connection, commits: Vec<Commit>) -> Vec<Answer> {
        let mut statements = Statements::prepare(db).unwrap();
        let channels = commits.into_iter().map(|commit| {
            let (answer, answered) = tokio::sync::oneshot::channel();
            (Job { commit, answer, cost: 1 }, answered)
        });
        let (jobs, answers): (Vec<_>, Vec<_>) = channels.unzip();
        writer.batch(&mut statements, jobs).unwrap();
        answers.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect()
    }

    #[test]
    fn later_commits_of_a_batch_see_earlier_ones() {
        let (_dir, mut writer, db) = writer();
        let create = || Commit::new().absent("k").put("k", "v");
        let answers = answer_to(&mut writer, &db, vec![create(), create(), create()]);
        let first = Ok(Outcome::Committed(Version(1)));
        assert_eq!(answers, [first, Ok(Outcome::Conflict), Ok(Outcome::Conflict)]);
    }

    #[test]
    fn long_values_go_with_their_records() {
        let (_dir, mut writer, db) = writer();
        let count = || -> i64 {
            db.query_row("SELECT count(*) FROM long_value", [], |row| row.get(0)).unwrap()
        };
        let long = |byte| Commit::new().put("k", vec![byte; 100_000]);
        answer_to(&mut writer, &db, vec![long(1), long(2), Commit::new().put("l", vec![3; 961])]);
        assert_eq!(count(), 2);
        answer_to(&mut writer, &db, vec![Commit::new().put("k", "short")]);
        assert_eq!(count(), 1);
        answer_to(&mut writer, &db, vec![long(4), Commit::new().delete("k").delete("l")]);
        assert_eq!(count(), 0);
    }

    #[test]
    fn a_full_disk_undoes_the_whole_batch_and_the_store_goes_on() {
        let (_dir, mut writer, db) = writer();
        let pages: i64 = db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        let limit = |pages: i64| {
            db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
        };
        limit(pages + 10);
        let batch =
            vec![Commit::new().put("small", "v"), Commit::new().put("large", vec![1; 1 << 19])];
        for answer in answer_to(&mut writer, &db, batch) {
            assert!(matches!(answer, Err(StoreError::Full(_))), "{answer:?}");
        }
        let left: i64 = db.query_row("SELECT count(*) FROM record", [], |r| r.get(0)).unwrap();
        assert_eq!(left, 0);
        limit(1 << 20);
        let answers = answer_to(&mut writer, &db, vec![Commit::new().put("small", "v")]);
        assert_eq!(answers, [Ok(Outcome::Committed(Version(1)))]);
    }

    #[tokio::test]
    async fn a_commit_that_fails_while_ending_is_unknown_and_stops_the_store() {
        let (_dir, writer, db) = writer();
        // A deferred constraint makes SQLite fail where a failing disk would: in COMMIT itself.
        db.execute_batch(
            "PRAGMA foreign_keys = ON;
             CREATE TABLE parent (x INTEGER PRIMARY KEY);
             CREATE TABLE child (x REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
             CREATE TRIGGER fail AFTER INSERT ON record BEGIN INSERT INTO child VALUES (1); END;",
        )
        .unwrap();
        let shared = Arc::clone(&writer.shared);
        let thread = std::thread::spawn(move || writer.run(db));
        let (answer, answered) = tokio::sync::oneshot::channel();
        shared.queue.push(Commit::new().put("k", "v"), answer).await.unwrap();
        assert_eq!(answered.await.unwrap(), Ok(Outcome::Unknown));
        thread.join().unwrap();
        let stopped = shared.queue.check_open();
        assert!(matches!(&stopped, Err(StoreError::Unavailable(m)) if m.contains("syncing")));
        let (answer, _answered) = tokio::sync::oneshot::channel();
        assert_eq!(shared.queue.push(Commit::new().put("k", "v"), answer).await, stopped);
    }
}
