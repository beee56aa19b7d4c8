//! Who leads, on a real etcd of three members.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../testkit/etcd.rs"]
mod etcd;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use cluster::{
    EtcdConfig, EtcdStore,
    lead::{Candidate, Lease, Pulse, Seat},
};
use etcd::Engine;
use km_core::{
    material::ClearBytes,
    records::Records,
    store::{Commit, Outcome},
};

/// The shortest that can be configured.
const LEASE: Duration = Duration::from_secs(1);

/// Nobody is known to have ended.
struct Quiet;

#[async_trait]
impl Pulse for Quiet {
    async fn is_gone(&self, _: &Seat) -> bool {
        false
    }
}

async fn candidate(endpoints: Vec<String>, engine: &Engine, node: &str) -> (Records, Candidate) {
    let config = EtcdConfig {
        endpoints,
        files: engine.files.clone(),
        prefix: "/qkm/north/".into(),
        allow_unmaintained: true,
    };
    let store = Arc::new(EtcdStore::open(&config).await.unwrap());
    let records = Records::new(store, &ClearBytes::from_vec(vec![7; 32]));
    let seat = Seat { node: node.into(), desk: "localhost:1".into() };
    (records.clone(), Candidate::new(records, seat, LEASE, Arc::new(Quiet)))
}

async fn lost_within(lease: &Lease, time: Duration) -> bool {
    tokio::time::timeout(time, lease.lost()).await.is_ok()
}

/// The member that a key manager uses stands still, or dies: the others renew its lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_that_is_away_does_not_end_the_lead() {
    let mut engine = Engine::start(3);
    let leader = engine.leader().expect("a leader");
    let mut endpoints = engine.endpoints();
    // The one that is asked first does not lead the engine, so that nothing else happens to it.
    let first = (leader + 1) % 3;
    endpoints.swap(0, first);
    let (_, candidate) = candidate(endpoints, &engine, "km1").await;
    assert_eq!(candidate.granted(), None);
    let lease = candidate.elected().await;
    assert_eq!(candidate.granted(), Some(LEASE));
    engine.signal(first, "STOP");
    assert!(!lost_within(&lease, 4 * LEASE).await, "a member stands still");
    engine.signal(first, "CONT");
    let second = (leader + 2) % 3;
    engine.kill(second);
    assert!(!lost_within(&lease, 4 * LEASE).await, "a member died");
    assert!(lease.holds()());
}

/// Whoever was away for longer than its lease leads no more, and changes nothing under its fence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lead_that_was_not_renewed_passes_on_and_its_fence_holds() {
    let engine = Engine::start(1);
    let (one, first) = candidate(engine.endpoints(), &engine, "km1").await;
    let lease = first.elected().await;
    let fence = lease.fence();
    let write = |records: &Records, key: &str| {
        let commit = Commit::new().unchanged(fence.key.clone(), fence.version).put(key, "v");
        let store = records.clone();
        async move { store.store().commit(commit).await }
    };
    assert!(matches!(write(&one, "a").await, Ok(Outcome::Committed(_))));
    // Nobody renews it any more, as of a process that stands still.
    drop(lease);
    let began = std::time::Instant::now();
    let (_, second) = candidate(engine.endpoints(), &engine, "km2").await;
    let lease = second.elected().await;
    println!("another key manager leads after {:?}", began.elapsed());
    assert!(lease.holds()());
    assert_eq!(write(&one, "b").await, Ok(Outcome::Conflict));
}
