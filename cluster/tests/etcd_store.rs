//! The store on etcd against a real one of three members.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../testkit/etcd.rs"]
mod etcd;

use std::{
    collections::BTreeSet,
    ops::Bound,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cluster::{EtcdConfig, EtcdStore, members::Members};
use etcd::Engine as Etcd;
use km_core::{
    clock::now_ms,
    material::ClearBytes,
    records::Records,
    store::{
        Commit, Outcome, SqliteStore, Store, StoreError,
        suite::{Engine, store_suite},
    },
};
use tempfile::TempDir;
use transport::TlsFiles;

struct Shared {
    etcd: Etcd,
    scratch: TempDir,
    made: AtomicUsize,
}

fn config(etcd: &Etcd, prefix: &str) -> EtcdConfig {
    EtcdConfig {
        endpoints: etcd.endpoints(),
        files: etcd.files.clone(),
        prefix: prefix.into(),
        allow_unmaintained: true,
    }
}

impl Shared {
    async fn open(&self) -> EtcdStore {
        let made = self.made.load(Ordering::Relaxed);
        EtcdStore::open(&config(&self.etcd, &format!("/qkm/{made}/"))).await.unwrap()
    }
}

#[async_trait]
impl Engine for Shared {
    type Store = EtcdStore;
    type Copy = SqliteStore;

    async fn create(&self) -> EtcdStore {
        self.made.fetch_add(1, Ordering::Relaxed);
        self.open().await
    }

    async fn reopen(&self, store: EtcdStore) -> EtcdStore {
        drop(store);
        self.open().await
    }

    async fn open_snapshot(&self, copy: &Path) -> SqliteStore {
        SqliteStore::open(copy).unwrap()
    }

    fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_store_passes_the_suite() {
    let scratch = tempfile::tempdir().unwrap();
    store_suite(&Shared { etcd: Etcd::start(3), scratch, made: AtomicUsize::new(0) }).await;
}

#[tokio::test]
async fn an_engine_without_fixes_is_refused_unless_tests_say_so() {
    let etcd = Etcd::start(1);
    let strict = EtcdConfig { allow_unmaintained: false, ..config(&etcd, "/qkm/a/") };
    let refused = EtcdStore::open(&strict).await.unwrap_err();
    assert!(refused.to_string().contains("not a maintained release"), "{refused}");
}

#[tokio::test]
async fn what_is_not_ours_is_not_touched() {
    let etcd = Etcd::start(1);
    let open = async |prefix| EtcdStore::open(&config(&etcd, prefix)).await;
    assert!(etcd.etcdctl(&etcd.files, &["put", "/qkm/new/format", "2"]).0);
    assert!(matches!(open("/qkm/new/").await, Err(StoreError::NewerFormat { found: 2, .. })));
    assert!(etcd.etcdctl(&etcd.files, &["put", "/qkm/odd/format", "what"]).0);
    assert!(matches!(open("/qkm/odd/").await, Err(StoreError::Damaged(_))));
}

/// What many ask at the same time goes to the engine together, and each is answered for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_commits_of_many_go_together() {
    const MANY: usize = 400;
    let etcd = Etcd::start(3);
    let store = Arc::new(EtcdStore::open(&config(&etcd, "/qkm/a/")).await.unwrap());
    let key = |n: usize| format!("key/{n}").into_bytes();
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..MANY {
        let store = store.clone();
        // Every tenth wants the same key, which one of them gets.
        let wanted = if n % 10 == 0 { b"contested".to_vec() } else { key(n) };
        asked.spawn(async move {
            let commit = Commit::new().absent(wanted.clone()).put(wanted, key(n));
            (n, store.commit(commit).await.unwrap())
        });
    }
    let (mut won, mut versions) = (Vec::new(), BTreeSet::new());
    while let Some(Ok((n, outcome))) = asked.join_next().await {
        match outcome {
            Outcome::Committed(version) => {
                versions.insert(version.0);
                won.push(n);
            }
            outcome => assert_eq!((n % 10, outcome), (0, Outcome::Conflict)),
        }
    }
    let of_contested: Vec<_> = won.iter().filter(|n| **n % 10 == 0).collect();
    assert_eq!((won.len(), of_contested.len()), (MANY - MANY / 10 + 1, 1));
    assert!(versions.len() < MANY / 2, "{} transactions", versions.len());
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..MANY {
        let store = store.clone();
        asked.spawn(async move { (n, store.get(&key(n)).await.unwrap()) });
    }
    while let Some(Ok((n, found))) = asked.join_next().await {
        assert_eq!(
            found.map(|record| (record.key, record.value)),
            (n % 10 != 0).then(|| (key(n), key(n)))
        );
    }
    let contested = store.get(b"contested").await.unwrap().unwrap();
    assert_eq!(contested.value, key(*of_contested[0]));
}

/// Has root of the engine do these.
fn as_root(etcd: &Etcd, root: &TlsFiles, commands: &[&str]) {
    for command in commands {
        let command: Vec<&str> = command.split(' ').collect();
        let (done, said) = etcd.etcdctl(root, &command);
        // Debian's release makes the role of that name by itself.
        assert!(
            done || said.contains("already exists") || said.contains("root"),
            "{command:?}: {said}"
        );
    }
}

/// A certificate is a user with rights to one prefix, and has no others. Another key manager joins as a user
/// of its own, and without it does nothing more.
#[tokio::test]
async fn a_key_manager_works_with_rights_to_its_prefix_alone() {
    let etcd = Etcd::start(1);
    let root = etcd.issue("root");
    let setup = [
        "user add root --no-password",
        "user grant-role root root",
        "role add north",
        "role grant-permission north readwrite --prefix=true /qkm/north/",
        "user add km --no-password",
        "user grant-role km north",
        "auth enable",
    ];
    as_root(&etcd, &root, &setup);
    let store = EtcdStore::open(&config(&etcd, "/qkm/north/")).await.unwrap();
    let session = store.session(Duration::from_secs(60)).await.unwrap().id;
    let commit = Commit::new().absent("k").put("k", "v").fenced(session);
    assert!(matches!(store.commit(commit).await, Ok(Outcome::Committed(_))));
    store.end_session(session).await.unwrap();
    let commit = Commit::new().put("k", "w").fenced(session);
    assert_eq!(store.commit(commit).await, Ok(Outcome::Conflict));
    let elsewhere = EtcdStore::open(&config(&etcd, "/qkm/south/")).await.unwrap_err();
    assert!(elsewhere.to_string().contains("must be allowed"), "{elsewhere}");

    let files = etcd.issue("km2");
    let own = EtcdConfig { files, ..config(&etcd, "/qkm/north/") };
    assert!(EtcdStore::open(&own).await.is_err(), "nobody made its user");
    let grant = ["user add km2 --no-password", "user grant-role km2 north"];
    as_root(&etcd, &root, &grant);
    let second = EtcdStore::open(&own).await.unwrap();
    second.write_while_absent(Members::mark("n2"));
    let key = ClearBytes::copy_from(&[1; 32]);
    let [one, two] = [store, second].map(|store| Members::new(Records::new(Arc::new(store), &key)));
    let (invited, soon) = ([7; 32], now_ms() + 60_000);
    one.invite(&invited, "n2", soon).await.unwrap();
    assert_eq!(one.accept(&invited).await.unwrap().as_deref(), Some("n2"));
    assert_eq!(one.accept(&invited).await.unwrap(), None, "once");
    one.add("n2", [8; 32]).await.unwrap();
    two.rest("n2", true).await.unwrap();
    assert!(one.all().await.unwrap().members["n2"].rests);

    let places = ["n2", "n2/standby", "n20"].map(|place| format!("share/receiver/{place}"));
    let commit = places.iter().fold(Commit::new(), |c, place| c.put(place.as_str(), "a receiver"));
    one.store().commit(commit).await.unwrap();
    one.revoke("n2", &[[8; 32], [9; 32]]).await.unwrap();
    let left = one.store().range(b"share/receiver/", Bound::Unbounded, 10).await.unwrap();
    let left: Vec<Vec<u8>> = left.into_iter().map(|record| record.key).collect();
    assert_eq!(left, [places[2].clone().into_bytes()], "of all its tokens, and of no other KM");
    let decided = two.all().await.unwrap();
    assert_eq!(decided.gone, BTreeSet::from([[8; 32], [9; 32]]));
    assert_eq!((decided.out.len(), decided.due), (1, BTreeSet::from(["n2".to_owned()])));
    assert!(two.rest("n2", false).await.is_err(), "it writes nothing");
    one.settled("n2").await.unwrap();
    assert_eq!(one.all().await.unwrap().due, BTreeSet::new());
    as_root(&etcd, &root, &["user delete km2"]);
    assert!(two.all().await.is_err(), "nor does it read, over the connection it has");
    as_root(&etcd, &root, &grant);
    one.add("n2", [10; 32]).await.unwrap();
    let decided = two.all().await.unwrap();
    assert!(!decided.members["n2"].rests && decided.out.is_empty(), "it begins anew");
    two.rest("n2", true).await.unwrap();
}

/// Whoever starts while the engine has no leader waits until it has one, longer than for a single answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_opens_once_the_engine_has_a_leader_again() {
    let mut etcd = Etcd::start(3);
    let settings = config(&etcd, "/qkm/early/");
    [0, 1].into_iter().for_each(|at| etcd.kill(at));
    // Longer than the last one takes itself for led.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let opening = tokio::spawn(async move { EtcdStore::open(&settings).await.map(drop) });
    tokio::time::sleep(Duration::from_millis(5500)).await;
    assert!(!opening.is_finished());
    etcd.run(0);
    opening.await.unwrap().unwrap();
}

/// Every commit that was acknowledged is there, whatever member dies, and writing goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_commits_survive_the_death_of_any_member() {
    let mut etcd = Etcd::start(3);
    let store = Arc::new(EtcdStore::open(&config(&etcd, "/qkm/a/")).await.unwrap());
    let mut watched = store.watch(b"k").await.unwrap();
    let (mut acknowledged, mut longest) = (Vec::new(), Duration::ZERO);
    for round in 0..3 {
        let leader = etcd.leader().expect("a leader");
        etcd.kill(leader);
        let began = std::time::Instant::now();
        let mut first = true;
        for n in 0..20 {
            let key = format!("k{round}-{n:02}");
            loop {
                match store.commit(Commit::new().put(key.clone(), "v")).await {
                    Ok(Outcome::Committed(version)) => {
                        acknowledged.push((key.clone().into_bytes(), version));
                        break;
                    }
                    Ok(Outcome::Unknown) | Err(StoreError::Unavailable(_)) => {}
                    other => panic!("{other:?}"),
                }
                assert!(began.elapsed() < Duration::from_secs(60), "no commit gets through");
            }
            if std::mem::take(&mut first) {
                longest = longest.max(began.elapsed());
            }
        }
        etcd.run(leader);
        etcd.ready();
    }
    for (key, version) in &acknowledged {
        let record = store.get(key).await.unwrap().expect("an acknowledged record is there");
        assert!(record.version >= *version);
    }
    // One watch sees them all, over whichever member.
    for (key, version) in acknowledged {
        loop {
            let event = tokio::time::timeout(Duration::from_secs(60), watched.recv()).await;
            let event = event.expect("it is told").expect("the watch goes on");
            let km_core::store::Event::Put(record) = event else { panic!("{event:?}") };
            if record.version == version {
                assert_eq!(record.key, key);
                break;
            }
        }
    }
    println!("longest pause of commits after the death of the leading member: {longest:?}");
}

/// The engine judges, so it does not matter what the store has seen.
#[tokio::test]
async fn a_store_writes_only_while_its_mark_is_absent() {
    let etcd = Etcd::start(1);
    let barred = EtcdStore::open(&config(&etcd, "/qkm/bar/")).await.unwrap();
    let other = EtcdStore::open(&config(&etcd, "/qkm/bar/")).await.unwrap();
    barred.write_while_absent(b"out/n1".to_vec());
    let write = |value: &str| Commit::new().put(b"a".to_vec(), value.as_bytes());
    assert!(matches!(barred.commit(write("1")).await, Ok(Outcome::Committed(_))));
    let untrue = Commit::new().absent(b"a".to_vec()).put(b"a".to_vec(), *b"2");
    assert_eq!(barred.commit(untrue).await, Ok(Outcome::Conflict));
    other.commit(Commit::new().put(b"out/n1".to_vec(), *b"")).await.unwrap();
    for commit in [write("3"), Commit::new()] {
        assert_eq!(barred.commit(commit).await, Err(StoreError::Barred));
    }
    assert_eq!(barred.get(b"a").await.unwrap().unwrap().value, b"1");
    assert!(matches!(other.commit(write("4")).await, Ok(Outcome::Committed(_))));
    other.commit(Commit::new().delete(b"out/n1".to_vec())).await.unwrap();
    assert!(matches!(barred.commit(write("5")).await, Ok(Outcome::Committed(_))));
}

/// What was put back has a revision that was answered before: the store that is open says so.
#[tokio::test]
async fn a_snapshot_put_back_under_an_open_store_is_noticed() {
    let mut etcd = Etcd::start(1);
    let store = EtcdStore::open(&config(&etcd, "/qkm/copy/")).await.unwrap();
    let written = store.commit(Commit::new().put("a", "1")).await.unwrap();
    assert!(matches!(written, Outcome::Committed(_)));
    let copy = etcd.snapshot("copy.db");
    for value in ["2", "3", "4", "5", "6"] {
        store.commit(Commit::new().put("a", value)).await.unwrap();
    }
    etcd.put_back(&copy);
    let said = loop {
        match store.get(b"a").await {
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            said => break said,
        }
    };
    assert!(
        matches!(&said, Err(StoreError::Damaged(text)) if text.contains("older copy")),
        "{said:?}"
    );
    assert!(store.is_set_back());
    assert!(store.commit(Commit::new().put("b", "1")).await.is_err());
    let again = EtcdStore::open(&config(&etcd, "/qkm/copy/")).await.unwrap();
    assert_eq!(again.get(b"b").await.unwrap(), None, "nothing was written to it");
}

/// What is written and erased again does not stay: members tell how far they came, how large they are, and
/// when it is time to defragment them.
#[tokio::test]
async fn what_was_erased_is_given_back_and_members_say_when() {
    let etcd = Etcd::start(1);
    let store = EtcdStore::open(&config(&etcd, "/qkm/grows/")).await.unwrap();
    let before = store.members().await.remove(0).state.unwrap();
    let value = vec![1; 64 << 10];
    for block in 0..100 {
        let mut commit = Commit::new();
        for part in 0..10 {
            commit = commit.put(format!("b/{block:03}/{part}"), value.clone());
        }
        assert!(matches!(store.commit(commit).await, Ok(Outcome::Committed(_))));
    }
    let written = store.members().await.remove(0).state.unwrap();
    assert!(written.applied >= before.applied + 100, "{before:?} {written:?}");
    assert_eq!(written.advice(), None);
    store.purge(b"b/").await.unwrap();
    etcd.compact();
    let until = std::time::Instant::now() + Duration::from_secs(30);
    let compacted = loop {
        let state = store.members().await.remove(0).state.unwrap();
        if state.advice().is_some_and(|text| text.contains("etcdctl defrag")) {
            break state;
        }
        assert!(std::time::Instant::now() < until, "{state:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    etcd.defragment();
    let last = store.members().await.remove(0).state.unwrap();
    assert!(last.db_bytes < compacted.db_bytes / 4 && last.advice().is_none(), "{last:?}");
}
