//! A store that fails, and lets a test act, on command, around any real one. For the tests of what stands above
//! [`Store`]: pools and vaults must survive every outcome. Enter through [`FaultyStore::new`].

use std::{
    collections::VecDeque,
    ops::Bound,
    path::Path,
    pin::Pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::mpsc::Receiver;

use super::{Commit, Event, Outcome, Record, Session, SessionId, Store, StoreError};

/// What happens to one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It goes through; lets a test aim at a later one.
    None,
    /// Answered `Conflict`, nothing done.
    Conflict,
    /// Done (if its checks hold), yet answered `Unknown`.
    UnknownApplied,
    /// Not done, answered `Unknown`.
    UnknownDropped,
    /// Answered `Unavailable`, nothing done.
    Unavailable,
    /// Answered `Full`, nothing done.
    Full,
    /// Answered `Barred`, nothing done.
    Barred,
}

/// What a test does at a moment of its choice.
type Act = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Wraps a store; passes everything through until told otherwise.
pub struct FaultyStore<S> {
    inner: S,
    faults: Mutex<VecDeque<Fault>>,
    down: AtomicBool,
    /// With the end of the prefix whose page is waited for.
    act: Mutex<Option<(Vec<u8>, Act)>>,
}

impl<S> FaultyStore<S> {
    /// Wraps `inner`, without faults.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            faults: Mutex::default(),
            down: AtomicBool::new(false),
            act: Mutex::default(),
        }
    }

    /// The next commits meet these faults, one each, after those already waiting.
    pub fn inject(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults().extend(faults);
    }

    /// Faults not yet met: zero when a test's faults all took effect.
    pub fn waiting(&self) -> usize {
        self.faults().len()
    }

    /// While down, every call is answered `Unavailable`, and no waiting fault is used up.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// Before the next page of records is read whose prefix ends with `end`, `act` is done.
    pub fn before_page(&self, end: &str, act: impl Future<Output = ()> + Send + 'static) {
        *self.act() = Some((end.as_bytes().to_vec(), Box::pin(act)));
    }

    /// Whether what was to be done before a page still waits for its moment.
    pub fn is_waited_for(&self) -> bool {
        self.act().is_some()
    }

    /// The store inside, to look at what really happened.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Gives the store inside back.
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn faults(&self) -> MutexGuard<'_, VecDeque<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self) -> MutexGuard<'_, Option<(Vec<u8>, Act)>> {
        self.act.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self, prefix: &[u8]) -> Option<Act> {
        self.act().take_if(|(end, _)| prefix.ends_with(end)).map(|(_, act)| act)
    }

    fn up(&self) -> Result<&S, StoreError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(injected());
        }
        Ok(&self.inner)
    }
}

fn injected() -> StoreError {
    StoreError::Unavailable("injected".into())
}

#[async_trait]
impl<S: Store> Store for FaultyStore<S> {
    async fn get(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        self.up()?.get(key).await
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
        self.up()?.range(prefix, after, limit).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        let inner = self.up()?;
        let fault = self.faults().pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::None => inner.commit(commit).await,
            Fault::Conflict => Ok(Outcome::Conflict),
            Fault::UnknownApplied => {
                inner.commit(commit).await?;
                Ok(Outcome::Unknown)
            }
            Fault::UnknownDropped => Ok(Outcome::Unknown),
            Fault::Unavailable => Err(injected()),
            Fault::Full => Err(StoreError::Full("injected".into())),
            Fault::Barred => Err(StoreError::Barred),
        }
    }

    async fn watch(&self, prefix: &[u8]) -> Result<Receiver<Event>, StoreError> {
        self.up()?.watch(prefix).await
    }

    async fn session(&self, ttl: Duration) -> Result<Session, StoreError> {
        self.up()?.session(ttl).await
    }

    async fn keep_alive(&self, session: SessionId) -> Result<bool, StoreError> {
        self.up()?.keep_alive(session).await
    }

    async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        self.up()?.end_session(session).await
    }

    /// Not subject to faults on single commits.
    async fn purge(&self, prefix: &[u8]) -> Result<(), StoreError> {
        self.up()?.purge(prefix).await
    }

    async fn snapshot(&self, to: &Path) -> Result<(), StoreError> {
        self.up()?.snapshot(to).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SqliteStore;

    #[tokio::test]
    async fn each_fault_does_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let store = FaultyStore::new(SqliteStore::open(dir.path().join("db")).unwrap());
        let cases = [
            (Fault::None, true),
            (Fault::Conflict, false),
            (Fault::UnknownApplied, true),
            (Fault::UnknownDropped, false),
            (Fault::Unavailable, false),
            (Fault::Full, false),
            (Fault::Barred, false),
        ];
        store.inject(cases.map(|(fault, _)| fault));
        for (fault, applied) in cases {
            let key = format!("{fault:?}");
            let answer = store.commit(Commit::new().put(key.as_str(), "v")).await;
            let expected = match fault {
                Fault::None => matches!(answer, Ok(Outcome::Committed(_))),
                Fault::Conflict => answer == Ok(Outcome::Conflict),
                Fault::UnknownApplied | Fault::UnknownDropped => answer == Ok(Outcome::Unknown),
                Fault::Unavailable => matches!(answer, Err(StoreError::Unavailable(_))),
                Fault::Full => matches!(answer, Err(StoreError::Full(_))),
                Fault::Barred => answer == Err(StoreError::Barred),
            };
            assert!(expected, "{fault:?} answered {answer:?}");
            let there = store.get(key.as_bytes()).await.unwrap().is_some();
            assert_eq!(there, applied, "{fault:?}");
        }
        assert_eq!(store.waiting(), 0);
    }

    #[tokio::test]
    async fn a_store_that_is_down_answers_nothing_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = FaultyStore::new(SqliteStore::open(dir.path().join("db")).unwrap());
        store.inject([Fault::Conflict]);
        store.set_down(true);
        assert_eq!(store.get(b"k").await, Err(injected()));
        assert_eq!(store.commit(Commit::new().put("k", "v")).await, Err(injected()));
        store.set_down(false);
        let answer = store.commit(Commit::new().put("k", "v")).await;
        assert_eq!(answer, Ok(Outcome::Conflict), "the waiting fault was used up while down");
    }
}
