//! Promises under concurrency.

use std::{ops::Bound::Unbounded, sync::Arc};

use tokio::task::JoinSet;

use super::{Engine, done, read};
use crate::store::{Commit, Outcome, Store};

const TASKS: u64 = 16;
const ROUNDS: u64 = 25;

pub(super) async fn all<E: Engine>(engine: &E) {
    no_update_is_lost(Arc::new(engine.create().await)).await;
    one_creator_wins(Arc::new(engine.create().await)).await;
    readers_see_whole_commits(Arc::new(engine.create().await)).await;
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("a counter has eight bytes"))
}

/// One step of the counter; gives what it counted to.
async fn increment(store: &impl Store) -> u64 {
    loop {
        let seen = read(store, "counter").await.expect("the counter must be there");
        let next = number(&seen.value) + 1;
        let commit = Commit::new().unchanged("counter", seen.version);
        match store.commit(commit.put("counter", next.to_be_bytes())).await {
            Ok(Outcome::Committed(_)) => return next,
            Ok(Outcome::Conflict) => {}
            other => panic!("an increment was answered {other:?}"),
        }
    }
}

async fn no_update_is_lost<S: Store>(store: Arc<S>) {
    done(&*store, Commit::new().put("counter", 0u64.to_be_bytes())).await;
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut counted = Vec::new();
            for _ in 0..ROUNDS {
                counted.push(increment(&*store).await);
            }
            counted
        });
    }
    let mut counted: Vec<u64> = tasks.join_all().await.into_iter().flatten().collect();
    counted.sort_unstable();
    assert!(counted.into_iter().eq(1..=TASKS * ROUNDS), "an update was lost or counted twice");
}

async fn one_creator_wins<S: Store>(store: Arc<S>) {
    for round in 0..ROUNDS {
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let store = Arc::clone(&store);
            let key = format!("round {round}");
            tasks.spawn(async move {
                let commit =
                    Commit::new().absent(key.as_str()).put(key.as_str(), task.to_be_bytes());
                matches!(store.commit(commit).await, Ok(Outcome::Committed(_))).then_some(task)
            });
        }
        let winners: Vec<u64> = tasks.join_all().await.into_iter().flatten().collect();
        let record = read(&*store, format!("round {round}")).await.expect("someone must win");
        assert_eq!(winners, [number(&record.value)], "exactly one creator must win");
    }
}

/// A writer keeps two records equal; whoever reads both at once must find them so.
async fn readers_see_whole_commits<S: Store>(store: Arc<S>) {
    let both = |n: u64| Commit::new().put("pair/a", n.to_be_bytes()).put("pair/b", n.to_be_bytes());
    done(&*store, both(0)).await;
    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for _ in 0..TASKS * ROUNDS {
                let pair = store.range(b"pair/", Unbounded, 2).await.expect("range must answer");
                assert_eq!(pair[0].value, pair[1].value, "half a commit was visible");
                assert_eq!(pair[0].version, pair[1].version, "a commit has one version");
            }
        });
    }
    for n in 1..=ROUNDS * 4 {
        done(&*store, both(n)).await;
    }
    tasks.join_all().await;
}
