//! Changes held back: a store over another one that keeps what is committed to it in memory, until
//! all of it is published as one commit, or forgotten. Nobody else sees anything before.
//!
//! Enter through [`Staged::over`]. Reads see the staged changes. What was read to check a change
//! is checked again when they are published, so that they rest on what is then true.

use std::{
    collections::BTreeMap,
    ops::Bound,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use super::{
    Check, Commit, Event, MAX_RANGE, Outcome, Record, Session, SessionId, Store, StoreError,
    Version,
};

/// Versions of staged records start here, far above those of any store.
const FIRST_VERSION: u64 = 1 << 62;

/// A store whose changes wait to be published.
pub struct Staged {
    below: Arc<dyn Store>,
    stage: Mutex<Stage>,
}

#[derive(Default)]
struct Stage {
    /// Staged records; `None` where one is deleted.
    records: BTreeMap<Vec<u8>, Option<(Vec<u8>, Version)>>,
    /// What must still hold below, by key: `None` where there must be no record.
    checks: BTreeMap<Vec<u8>, Option<Version>>,
    commits: u64,
}

impl Stage {
    /// All of it as one commit.
    fn whole(&self) -> Commit {
        let mut commit = Commit::new();
        for (key, version) in &self.checks {
            commit = match version {
                Some(version) => commit.unchanged(key.clone(), *version),
                None => commit.absent(key.clone()),
            };
        }
        for (key, record) in &self.records {
            commit = match record {
                Some((value, _)) => commit.put(key.clone(), value.clone()),
                None => commit.delete(key.clone()),
            };
        }
        commit
    }
}

impl Staged {
    /// A stage over `below`, with nothing on it.
    pub fn over(below: Arc<dyn Store>) -> Self {
        Self { below, stage: Mutex::default() }
    }

    /// Commits everything staged, or nothing. `Conflict`: somebody changed what it rests on.
    /// Afterwards nothing is staged.
    ///
    /// # Errors
    /// Those of [`Store::commit`].
    pub async fn publish(&self) -> Result<Outcome, StoreError> {
        let whole = std::mem::take(&mut *self.stage()).whole();
        if whole.ops() == 0 {
            return Ok(Outcome::Committed(Version(0)));
        }
        self.below.commit(whole).await
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is staged for `key`: a record, a deletion, or nothing.
    fn staged(&self, key: &[u8]) -> Option<Option<Record>> {
        let stage = self.stage();
        let staged = stage.records.get(key)?;
        Some(staged.as_ref().map(|(value, version)| Record {
            key: key.to_owned(),
            value: value.clone(),
            version: *version,
        }))
    }

    /// Whether `check` holds now, seen through the stage.
    async fn holds(&self, check: &Check) -> Result<bool, StoreError> {
        let found = self.get(check.key()).await?.map(|record| record.version);
        Ok(match check {
            Check::Absent(_) => found.is_none(),
            Check::Is(_, version) => found == Some(*version),
        })
    }
}

#[async_trait]
impl Store for Staged {
    async fn get(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        match self.staged(key) {
            Some(staged) => Ok(staged),
            None => self.below.get(key).await,
        }
    }

    async fn range(
        &self,
        prefix: &[u8],
        after: Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let limit = limit.min(MAX_RANGE);
        let mut page: Vec<Record> = Vec::new();
        let mut after = after;
        while page.len() < limit {
            let below = self.below.range(prefix, after.clone(), limit).await?;
            let last =
                below.last().filter(|_| below.len() == limit).map(|record| record.key.clone());
            // As far as the page below reaches, or to the end.
            let until = last.clone().map_or(Bound::Unbounded, Bound::Included);
            page.extend(self.merge(below, prefix, (after, until)));
            match last {
                Some(last) => after = Bound::Excluded(last),
                None => break,
            }
        }
        page.truncate(limit);
        Ok(page)
    }

    /// Checks and stages; nothing is durable before [`Staged::publish`]. A session of `commit` is
    /// not kept: whoever stages does not fence.
    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        commit.within_limits()?;
        for check in &commit.checks {
            if !self.holds(check).await? {
                return Ok(Outcome::Conflict);
            }
        }
        let mut stage = self.stage();
        let before = (stage.records.clone(), stage.checks.clone());
        stage.commits += 1;
        let version = Version(FIRST_VERSION + stage.commits);
        for check in commit.checks {
            let (key, needed) = match check {
                Check::Absent(key) => (key, None),
                Check::Is(key, version) => (key, Some(version)),
            };
            // What is staged was checked when it was; below, the first check counts.
            if !stage.records.contains_key(&key) {
                stage.checks.entry(key).or_insert(needed);
            }
        }
        for (key, value) in commit.puts {
            stage.records.insert(key, Some((value, version)));
        }
        for key in commit.deletes {
            stage.records.insert(key, None);
        }
        if let Err(error) = stage.whole().within_limits() {
            (stage.records, stage.checks) = before;
            return Err(error);
        }
        Ok(Outcome::Committed(version))
    }

    async fn watch(&self, prefix: &[u8]) -> Result<tokio::sync::mpsc::Receiver<Event>, StoreError> {
        self.below.watch(prefix).await
    }

    async fn session(&self, ttl: Duration) -> Result<Session, StoreError> {
        self.below.session(ttl).await
    }

    async fn keep_alive(&self, session: SessionId) -> Result<bool, StoreError> {
        self.below.keep_alive(session).await
    }

    async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        self.below.end_session(session).await
    }

    async fn purge(&self, prefix: &[u8]) -> Result<(), StoreError> {
        self.below.purge(prefix).await
    }

    async fn snapshot(&self, to: &Path) -> Result<(), StoreError> {
        self.below.snapshot(to).await
    }
}

impl Staged {
    /// The records of a page below, with what is staged in the same stretch of keys.
    fn merge(
        &self,
        below: Vec<Record>,
        prefix: &[u8],
        stretch: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    ) -> Vec<Record> {
        let mut all: BTreeMap<Vec<u8>, Record> =
            below.into_iter().map(|record| (record.key.clone(), record)).collect();
        let start = match stretch.0 {
            Bound::Unbounded => Bound::Included(prefix.to_owned()),
            after => after,
        };
        let stage = self.stage();
        for (key, staged) in stage.records.range::<Vec<u8>, _>((start, stretch.1)) {
            if !key.starts_with(prefix) {
                continue;
            }
            match staged {
                Some((value, version)) => {
                    let (value, version) = (value.clone(), *version);
                    all.insert(key.clone(), Record { key: key.clone(), value, version });
                }
                None => drop(all.remove(key)),
            }
        }
        all.into_values().collect()
    }
}
