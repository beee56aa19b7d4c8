//! Promises about sessions. Nothing here depends on how fast the machine is: where time matters it
//! is measured, and only what the measure allows is asserted.

use std::time::{Duration, Instant};

use super::{Engine, conflicts, done, everything};
use crate::store::{Commit, Outcome, SessionId, Store};

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(300);
/// Far more than any store may take to notice that a session has ended.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn all<E: Engine>(engine: &E) {
    an_ended_session_fences(&engine.create().await).await;
    a_session_expires_by_itself(&engine.create().await).await;
    keep_alive_extends(&engine.create().await).await;
    ids_are_not_reused(engine).await;
}

async fn open(store: &impl Store, ttl: Duration) -> SessionId {
    let opened = store.session(ttl).await.expect("a session must open");
    assert!(opened.ttl >= ttl, "a session must last as long as was asked for");
    opened.id
}

async fn keep(store: &impl Store, session: SessionId) -> bool {
    store.keep_alive(session).await.expect("keep_alive must answer")
}

async fn an_ended_session_fences(store: &impl Store) {
    let (mine, other) = (open(store, LONG).await, open(store, LONG).await);
    assert_ne!(mine, other, "two sessions must differ");
    done(store, Commit::new().put("k", "1").fenced(mine)).await;
    assert!(keep(store, mine).await, "a live session must be kept alive");
    store.end_session(mine).await.expect("end_session must answer");
    let before = everything(store).await;
    conflicts(store, Commit::new().put("k", "2").fenced(mine), "the session has ended").await;
    conflicts(store, Commit::new().fenced(mine), "an empty commit is fenced too").await;
    assert_eq!(everything(store).await, before, "a fenced commit must change nothing");
    assert!(!keep(store, mine).await, "an ended session must not come back");
    store.end_session(mine).await.expect("ending a session twice is no error");
    done(store, Commit::new().put("k", "3").fenced(other)).await;
    let never = SessionId(u64::MAX);
    conflicts(store, Commit::new().put("k", "4").fenced(never), "no such session").await;
    assert!(!keep(store, never).await, "a session that never was is not alive");
}

async fn a_session_expires_by_itself(store: &impl Store) {
    let opened = Instant::now();
    let session = open(store, SHORT).await;
    loop {
        match store.commit(Commit::new().put("k", "1").fenced(session)).await {
            Ok(Outcome::Conflict) => break,
            Ok(Outcome::Committed(_)) => {}
            other => panic!("a fenced commit was answered {other:?}"),
        }
        assert!(opened.elapsed() < PATIENCE, "a session of {SHORT:?} does not expire");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(opened.elapsed() >= SHORT, "a session must live as long as it was promised");
    assert!(!keep(store, session).await, "an expired session must not come back");
}

async fn keep_alive_extends(store: &impl Store) {
    let ttl = SHORT * 3;
    let opened = Instant::now();
    // The start of the last call that succeeded: alive until `ttl` after it at least.
    let mut renewed = opened;
    let session = open(store, ttl).await;
    while opened.elapsed() < ttl * 2 {
        tokio::time::sleep(ttl / 20).await;
        let asked = Instant::now();
        if !keep(store, session).await {
            assert!(renewed.elapsed() >= ttl, "a session ended although it was kept alive");
            return;
        }
        renewed = asked;
    }
}

async fn ids_are_not_reused<E: Engine>(engine: &E) {
    let store = engine.create().await;
    let old = [open(&store, LONG).await, open(&store, LONG).await];
    let store = engine.reopen(store).await;
    for _ in 0..4 {
        let new = open(&store, LONG).await;
        assert!(!old.contains(&new), "a session id was given again after a restart");
    }
}
