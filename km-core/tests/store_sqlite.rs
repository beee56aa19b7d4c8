//! The embedded store: the conformance suite, and what only a store on a disk can break.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::{
    fs,
    ops::Bound::Unbounded,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use km_core::store::{
    Commit, Outcome, SqliteStore, Store, StoreError, Version,
    suite::{Engine, store_suite},
};
use tempfile::TempDir;

struct Embedded {
    dir: TempDir,
    made: AtomicUsize,
}

impl Embedded {
    fn path(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("store{n}"))
    }
}

#[async_trait]
impl Engine for Embedded {
    type Store = SqliteStore;
    type Copy = SqliteStore;

    async fn create(&self) -> SqliteStore {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        SqliteStore::open(self.path(n)).unwrap()
    }

    async fn reopen(&self, store: SqliteStore) -> SqliteStore {
        drop(store);
        SqliteStore::open(self.path(self.made.load(Ordering::Relaxed) - 1)).unwrap()
    }

    async fn open_snapshot(&self, copy: &Path) -> SqliteStore {
        SqliteStore::open(copy).unwrap()
    }

    fn scratch(&self) -> &Path {
        self.dir.path()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_store_passes_the_suite() {
    let engine = Embedded { dir: tempfile::tempdir().unwrap(), made: AtomicUsize::new(0) };
    store_suite(&engine).await;
}

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    (dir, path)
}

async fn put(store: &SqliteStore, key: &str, value: impl Into<Vec<u8>>) -> Version {
    match store.commit(Commit::new().put(key, value)).await {
        Ok(Outcome::Committed(version)) => version,
        other => panic!("{other:?}"),
    }
}

/// Where SQLite's header keeps the user version, our format.
const FORMAT_AT: usize = 60;

#[tokio::test]
async fn another_format_is_refused_by_name_and_left_alone() {
    let (_dir, path) = place();
    put(&SqliteStore::open(&path).unwrap(), "k", "v").await;
    let ours = fs::read(&path).unwrap();
    let mut newer = ours.clone();
    newer[FORMAT_AT..FORMAT_AT + 4].copy_from_slice(&7u32.to_be_bytes());
    fs::write(&path, &newer).unwrap();
    let refused = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::NewerFormat { found: 7, known: 2, .. }), "{refused}");
    assert!(fs::read(&path).unwrap() == newer, "a refused store was changed");
    let mut older = ours.clone();
    older[FORMAT_AT..FORMAT_AT + 4].copy_from_slice(&1u32.to_be_bytes());
    fs::write(&path, &older).unwrap();
    let refused = SqliteStore::open(&path).unwrap_err();
    assert!(refused.to_string().contains("format 1"), "{refused}");
    assert!(fs::read(&path).unwrap() == older, "a refused store was changed");
    fs::write(&path, &ours).unwrap();
    let store = SqliteStore::open(&path).unwrap();
    assert!(store.get(b"k").await.unwrap().is_some());
}

#[test]
fn foreign_files_are_refused_and_left_alone() {
    let (dir, path) = place();
    let other = dir.path().join("other");
    let foreign = rusqlite::Connection::open(&other).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(foreign);
    let files = [
        vec![],
        b"short".to_vec(),
        vec![0; 8192],
        b"-----BEGIN CERTIFICATE-----\n".repeat(100),
        fs::read(&other).unwrap(),
    ];
    for bytes in files {
        fs::write(&path, &bytes).unwrap();
        let refused = SqliteStore::open(&path).unwrap_err();
        assert!(matches!(refused, StoreError::Damaged(_)), "{refused}");
        assert!(fs::read(&path).unwrap() == bytes, "a foreign file was changed");
    }
}

#[tokio::test]
async fn damage_inside_is_an_error_not_a_crash() {
    let (_dir, path) = place();
    let store = SqliteStore::open(&path).unwrap();
    for n in 0..200 {
        put(&store, &format!("{n:03}"), vec![9; 500]).await;
    }
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let answer = match SqliteStore::open(&path) {
        Ok(store) => store.range(b"", Unbounded, 1000).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(answer, Err(StoreError::Damaged(_))), "{answer:?}");
}

#[test]
fn a_log_without_its_database_is_not_taken_over() {
    let (dir, path) = place();
    fs::write(dir.path().join("store-wal"), b"left over").unwrap();
    let refused = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged(_)), "{refused}");
}

#[tokio::test]
async fn a_draft_left_by_a_crash_is_replaced() {
    let (dir, path) = place();
    fs::write(dir.path().join("store.new"), b"half a database").unwrap();
    put(&SqliteStore::open(&path).unwrap(), "k", "v").await;
    assert!(!dir.path().join("store.new").exists());
}

#[tokio::test]
async fn a_second_opener_is_refused_while_the_first_lives() {
    let (_dir, path) = place();
    let first = SqliteStore::open(&path).unwrap();
    let refused = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(&refused, StoreError::Unavailable(m) if m.contains("in use")), "{refused}");
    put(&first, "k", "v").await;
    drop(first);
    assert!(SqliteStore::open(&path).is_ok());
}

#[tokio::test]
async fn only_the_owner_may_read_any_file() {
    let (dir, path) = place();
    let store = SqliteStore::open(&path).unwrap();
    put(&store, "k", "v").await;
    store.snapshot(&dir.path().join("copy")).await.unwrap();
    let mut seen = 0;
    for entry in fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
        seen += 1;
    }
    assert!(seen >= 4, "database, log, lock and copy were expected, {seen} files found");
}

#[test]
fn a_missing_folder_says_so() {
    let (dir, _) = place();
    let refused = SqliteStore::open(dir.path().join("no/store")).unwrap_err();
    assert!(matches!(&refused, StoreError::Unavailable(m) if m.contains("no/store")), "{refused}");
}

/// Sixteen bytes that stand for a secret; no two alike.
fn secret(n: usize) -> Vec<u8> {
    format!("<secret {n:07}>").into_bytes()
}

/// How often a secret stands in any file of `dir`.
fn on_disk(dir: &Path) -> usize {
    let files = fs::read_dir(dir).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    files.map(|bytes| bytes.windows(8).filter(|w| w == b"<secret ").count()).sum()
}

const SECRETS: usize = 600;

/// Writes secrets into a new store, then deletes or overwrites each; `close` ends the store.
async fn write_and_delete_secrets(dir: &Path, close: impl FnOnce(SqliteStore)) {
    let path = dir.join("store");
    let store = SqliteStore::open(&path).unwrap();
    let mut keys = Vec::new();
    for n in 0..SECRETS {
        // Short ones share pages, long ones have pages of their own.
        let value = secret(n).repeat(if n % 20 == 0 { 3000 } else { 1 + n % 9 });
        let key = format!("{:02}/{n:05}", n % 7);
        put(&store, &key, value).await;
        keys.push(key);
    }
    drop(store);
    assert!(on_disk(dir) > SECRETS, "the secrets must be there at first");
    let store = SqliteStore::open(&path).unwrap();
    let (deleted, overwritten) = keys.split_at(SECRETS * 2 / 3);
    for some in deleted.chunks(50) {
        let deletes = some.iter().map(|key| key.clone().into_bytes()).collect();
        store.commit(Commit { deletes, ..Commit::new() }).await.unwrap();
    }
    for key in overwritten {
        put(&store, key, "harmless").await;
    }
    close(store);
}

#[tokio::test]
async fn deleted_secrets_are_in_no_file_after_a_scrubbing_close() {
    let (dir, path) = place();
    write_and_delete_secrets(dir.path(), |store| store.scrub_on_close()).await;
    assert_eq!(on_disk(dir.path()), 0);
    let store = SqliteStore::open(&path).unwrap();
    let left = store.range(b"", Unbounded, 1000).await.unwrap();
    assert_eq!(left.len(), SECRETS / 3, "scrubbing must keep what was not deleted");
    assert!(left.iter().all(|record| record.value == b"harmless"));
}

#[tokio::test]
async fn deleted_secrets_are_as_good_as_gone_after_a_plain_close() {
    let (dir, _) = place();
    write_and_delete_secrets(dir.path(), drop).await;
    // What SQLite may leave behind where it moved records; see `scrub_on_close`.
    let traces = on_disk(dir.path());
    assert!(traces <= SECRETS / 100, "{traces} traces of {SECRETS} deleted secrets");
}
