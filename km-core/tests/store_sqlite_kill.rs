//! The embedded store under `kill -9`: this file starts itself as a child that writes, kills it at
//! random moments, and looks at what is left.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hasher, RandomState},
    io::{BufRead, BufReader, Write},
    ops::Bound::{Excluded, Unbounded},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use km_core::store::{Commit, Outcome, SqliteStore, Store, Version};

const KILLS: usize = 8;
const LANES: usize = 8;
const CHILD_STORE: &str = "QKM_TEST_CHILD_STORE";

/// The `n`th commit of a lane: one record short, one long, and the lane's counter.
fn lane_commit(lane: usize, n: u64) -> Commit {
    let bytes = n.to_be_bytes();
    Commit::new()
        .put(format!("{lane}/a/{n:08}"), bytes)
        .put(format!("{lane}/b/{n:08}"), bytes.repeat(200))
        .put(format!("{lane}/last"), bytes)
}

async fn last(store: &SqliteStore, lane: usize) -> u64 {
    let record = store.get(format!("{lane}/last").as_bytes()).await.unwrap();
    record.map_or(0, |record| u64::from_be_bytes(record.value.try_into().unwrap()))
}

async fn write_lane(store: &SqliteStore, lane: usize) {
    let mut n = last(store, lane).await;
    loop {
        n += 1;
        let answer = store.commit(lane_commit(lane, n)).await;
        assert!(matches!(answer, Ok(Outcome::Committed(_))), "{answer:?}");
        if writeln!(std::io::stdout().lock(), "ack {lane} {n} .").is_err() {
            return;
        }
    }
}

/// What runs in the child: writes until killed, and tells of each commit once acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by acknowledged_commits_survive_kill_9"]
async fn child_that_writes_until_killed() {
    let Some(path) = std::env::var_os(CHILD_STORE) else { return };
    let store = Arc::new(SqliteStore::open(PathBuf::from(path)).unwrap());
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { write_lane(&store, lane).await })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
}

/// A whole line of the child, or `None`; the last line may be torn.
fn acknowledgement(line: &str) -> Option<(usize, u64)> {
    let words = line.strip_suffix(" .")?.rsplit_once("ack ")?.1;
    let (lane, n) = words.split_once(' ')?;
    Some((lane.parse().ok()?, n.parse().ok()?))
}

/// Runs the child until it has told of `acks` commits, kills it, and gives the newest
/// acknowledged commit of each lane.
fn write_and_kill(path: &Path, acks: usize) -> BTreeMap<usize, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_writes_until_killed", "--ignored", "--nocapture"])
        .env(CHILD_STORE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = BTreeMap::new();
    let mut seen = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).split(b'\n') {
        let Some((lane, n)) = acknowledgement(&String::from_utf8(line.unwrap()).unwrap()) else {
            continue;
        };
        acknowledged.insert(lane, n);
        seen += 1;
        if seen == acks {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(seen >= acks, "the child ended early: {status}");
    acknowledged
}

async fn check_lane(store: &SqliteStore, lane: usize, acknowledged: u64) {
    let last = last(store, lane).await;
    assert!(last >= acknowledged, "lane {lane}: {acknowledged} was acknowledged, {last} is there");
    for (half, repeat) in [("a", 1), ("b", 200)] {
        let prefix = format!("{lane}/{half}/");
        let (mut after, mut n) = (Unbounded, 0u64);
        loop {
            let page = store.range(prefix.as_bytes(), after, 500).await.unwrap();
            for record in &page {
                n += 1;
                assert_eq!(record.key, format!("{prefix}{n:08}").into_bytes());
                assert_eq!(record.value, n.to_be_bytes().repeat(repeat));
            }
            let Some(end) = page.last() else { break };
            after = Excluded(end.key.clone());
        }
        assert_eq!(n, last, "lane {lane}, half {half}: a commit was torn");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_commits_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut newest = Version(0);
    let mut acknowledged = BTreeMap::new();
    for _ in 0..KILLS {
        // A random moment, counted in commits, so that a slow machine tests as much.
        let random = RandomState::new().build_hasher().finish();
        acknowledged.extend(write_and_kill(&path, 1 + (random % 2500) as usize));
        let store = SqliteStore::open(&path).unwrap();
        for (lane, n) in &acknowledged {
            check_lane(&store, *lane, *n).await;
        }
        let records = store.range(b"", Unbounded, 1000).await.unwrap();
        let there = records.iter().map(|record| record.version).max().unwrap();
        let commit = Commit::new().put("after", "crash");
        let Ok(Outcome::Committed(version)) = store.commit(commit).await else {
            panic!("the store does not go on after a crash");
        };
        assert!(version > newest.max(there), "a version was used again after a crash");
        newest = version;
    }
}
