//! The store as one life of a process sees it. After [`Life::kill`] nothing this life still
//! wanted to write gets through, so its store is a prefix of what it did.

use std::{
    ops::Bound,
    path::Path,
    sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst},
    time::Duration,
};

use async_trait::async_trait;
use km_core::store::{Commit, Event, Outcome, Record, Session, SessionId, Store, StoreError};
use tokio::sync::{RwLock, mpsc::Receiver};

use super::Disk;

pub struct Life {
    disk: Disk,
    writing: RwLock<()>,
    dead: AtomicBool,
    left: AtomicI64,
}

impl Life {
    pub fn new(disk: Disk) -> Self {
        let left = AtomicI64::new(i64::MAX);
        Self { disk, writing: RwLock::default(), dead: AtomicBool::new(false), left }
    }

    /// Dies after `commits` more.
    pub fn die_after(&self, commits: i64) {
        self.left.store(commits, SeqCst);
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(SeqCst)
    }

    /// Dies now; a commit under way is finished first.
    pub async fn kill(&self) {
        self.dead.store(true, SeqCst);
        drop(self.writing.write().await);
    }
}

#[async_trait]
impl Store for Life {
    async fn get(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        self.disk.get(key).await
    }

    async fn range(
        &self,
        prefix: &[u8],
        after: Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.disk.range(prefix, after, limit).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        let writing = self.writing.read().await;
        if self.left.fetch_sub(1, SeqCst) <= 0 {
            self.dead.store(true, SeqCst);
        }
        if self.is_dead() {
            drop(writing);
            return std::future::pending().await;
        }
        self.disk.commit(commit).await
    }

    async fn watch(&self, prefix: &[u8]) -> Result<Receiver<Event>, StoreError> {
        self.disk.watch(prefix).await
    }

    async fn session(&self, ttl: Duration) -> Result<Session, StoreError> {
        self.disk.session(ttl).await
    }

    async fn keep_alive(&self, session: SessionId) -> Result<bool, StoreError> {
        self.disk.keep_alive(session).await
    }

    async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        self.disk.end_session(session).await
    }

    async fn purge(&self, prefix: &[u8]) -> Result<(), StoreError> {
        self.disk.purge(prefix).await
    }

    async fn snapshot(&self, to: &Path) -> Result<(), StoreError> {
        self.disk.snapshot(to).await
    }
}
