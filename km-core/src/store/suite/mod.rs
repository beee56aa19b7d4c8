//! What every [`Store`] must pass. Enter through [`store_suite`].
//!
//! Each promise of the trait is one function, named after it, in `commits`, `ranges`, `sessions`,
//! `watches`, `copies`, `races`. A promise that is broken panics and says which.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a broken promise must stop the test"
)]

mod commits;
mod copies;
mod races;
mod ranges;
mod sessions;
mod watches;

use std::path::Path;

use async_trait::async_trait;

use super::{Commit, Outcome, Record, Store, StoreError, Version};

/// How the suite gets stores of one engine.
#[async_trait]
pub trait Engine: Sync {
    /// The store under test.
    type Store: Store;
    /// The store that opens a copy.
    type Copy: Store;

    /// A new empty store, separate from all earlier ones.
    async fn create(&self) -> Self::Store;

    /// Closes the store and opens the same data again.
    async fn reopen(&self, store: Self::Store) -> Self::Store;

    /// Opens the copy that [`Store::snapshot`] wrote.
    async fn open_snapshot(&self, copy: &Path) -> Self::Copy;

    /// An empty directory where snapshots may be written.
    fn scratch(&self) -> &Path;
}

/// Runs every promise against stores of `engine`. Needs a multi-threaded tokio runtime to let the
/// races be races.
pub async fn store_suite<E: Engine>(engine: &E) {
    commits::all(engine).await;
    ranges::all(engine).await;
    sessions::all(engine).await;
    watches::all(engine).await;
    copies::all(engine).await;
    races::all(engine).await;
}

/// Commits what must succeed.
async fn done(store: &impl Store, commit: Commit) -> Version {
    match store.commit(commit).await {
        Ok(Outcome::Committed(version)) => version,
        other => panic!("a commit whose checks hold was answered {other:?}"),
    }
}

/// Commits what must conflict.
async fn conflicts(store: &impl Store, commit: Commit, why: &str) {
    let answer = store.commit(commit).await;
    assert_eq!(answer, Ok(Outcome::Conflict), "{why}");
}

/// Commits what must be refused for its size.
async fn too_large(store: &impl Store, commit: Commit, why: &str) {
    let answer = store.commit(commit).await;
    assert!(matches!(answer, Err(StoreError::TooLarge(_))), "{why} was answered {answer:?}");
}

async fn read(store: &impl Store, key: impl AsRef<[u8]>) -> Option<Record> {
    store.get(key.as_ref()).await.expect("get must answer")
}

/// Every record, page by page.
async fn everything(store: &impl Store) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let after = match all.last() {
            Some(last) => std::ops::Bound::Excluded(last.key.clone()),
            None => std::ops::Bound::Unbounded,
        };
        let page = store.range(b"", after, 100).await.expect("range must answer");
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}
