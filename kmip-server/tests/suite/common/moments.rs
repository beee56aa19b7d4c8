//! A store in which a test acts at a moment of its choice. Enter through [`Moments::before_page`].

use std::{
    ops::Bound,
    path::Path,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use km_core::store::{
    Commit, Event, Outcome, Record, Session, SessionId, SqliteStore, Store, StoreError,
};
use tokio::sync::mpsc::Receiver;

type Act = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A real store, and what is to be done before something of it is read.
pub(crate) struct Moments {
    store: SqliteStore,
    next: Mutex<Option<(Vec<u8>, Act)>>,
}

impl Moments {
    pub(crate) fn of(store: SqliteStore) -> Self {
        Self { store, next: Mutex::default() }
    }

    /// Before the next page of records is read whose prefix ends so, `act` is done.
    pub(crate) fn before_page(&self, end: &str, act: impl Future<Output = ()> + Send + 'static) {
        *self.lock() = Some((end.as_bytes().to_vec(), Box::pin(act)));
    }

    /// Whether all that was to be done is done, or begun.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Vec<u8>, Act)>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self, prefix: &[u8]) -> Option<Act> {
        self.lock().take_if(|(end, _)| prefix.ends_with(end)).map(|(_, act)| act)
    }
}

#[async_trait]
impl Store for Moments {
    async fn get(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        self.store.get(key).await
    }

    async fn range(
        &self,
        prefix: &[u8],
        after: Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        if let Some(act) = self.due(prefix) {
            act.await;
        }
        self.store.range(prefix, after, limit).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        self.store.commit(commit).await
    }

    async fn watch(&self, prefix: &[u8]) -> Result<Receiver<Event>, StoreError> {
        self.store.watch(prefix).await
    }

    async fn session(&self, ttl: Duration) -> Result<Session, StoreError> {
        self.store.session(ttl).await
    }

    async fn keep_alive(&self, session: SessionId) -> Result<bool, StoreError> {
        self.store.keep_alive(session).await
    }

    async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        self.store.end_session(session).await
    }

    async fn purge(&self, prefix: &[u8]) -> Result<(), StoreError> {
        self.store.purge(prefix).await
    }

    async fn snapshot(&self, to: &Path) -> Result<(), StoreError> {
        self.store.snapshot(to).await
    }
}
