//! The peer refuses a run: what it costs, and that the next one does not fail the same way.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{End, NORTH, Pair, SOUTH, cluster, config, ids_of, registry, sae};
use km_core::{registry::Registry, supply::SupplyError};

/// The store of the owner end was put back to an older state while the peer went on.
#[tokio::test]
async fn an_end_behind_its_peer_steps_forward_and_serves() {
    let mut pair = Pair::new().await;
    let number = pair.admit_random(NORTH, 4096).await;
    pair.admit_random(NORTH, 4096).await;
    // The peer heard of runs this end knows nothing of any more.
    let earlier = common::run_in(&pair.south().pool, number, 1024, 4);
    pair.south()
        .supply
        .accept(&cluster("north"), earlier.clone())
        .unwrap()
        .durable()
        .await
        .unwrap();
    assert_eq!(pair.south().pool.peer_bytes(), 8192 - 1152);
    let keys = pair.north().supply.issue(&sae("n1"), &[sae("s1")], 256, 4).await.unwrap();
    pair.south().supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    let at = keys[0].id.slice();
    assert_eq!((at.block.number, at.offset), (number, 1152), "no more is burned than needed");
    // The run of that time is untouched.
    pair.south().supply.collect(&sae("s1"), None, &[earlier.key_id(0)]).await.unwrap();
    pair.assert_settled_and_balanced().await;
}

/// A pair registered at one end only: one run is lost, not the pool.
#[tokio::test]
async fn a_pair_the_peer_does_not_know_does_not_drain_the_pool() {
    let mut pair = Pair::new().await;
    pair.ends[SOUTH].life.kill().await;
    let mut fewer = Registry::default();
    fewer.register(sae("n1"), [cluster("north")]).unwrap();
    fewer.register(sae("s1"), [cluster("south")]).unwrap();
    fewer.register(sae("s2"), [cluster("south")]).unwrap();
    fewer.pair(&sae("n1"), &sae("s2")).unwrap();
    let config = config(SOUTH, pair.key_ttl);
    pair.ends[SOUTH] = End::open(&pair.machines[SOUTH], config, fewer).await.unwrap();
    pair.join();
    pair.admit_random(NORTH, 4096).await;
    assert!(registry().authorise(&sae("n1"), &sae("s1")));
    for size in [256, 256, 128] {
        let refused = pair.north().supply.issue(&sae("n1"), &[sae("s1")], size, 1).await;
        assert!(matches!(refused, Err(SupplyError::Unavailable(_))), "{refused:?}");
    }
    assert_eq!(pair.north().pool.own_bytes(), 4096 - 32);
    let keys = pair.north().supply.issue(&sae("n1"), &[sae("s2")], 256, 1).await.unwrap();
    pair.south().supply.collect(&sae("s2"), None, &ids_of(&keys)).await.unwrap();
    pair.assert_settled_and_balanced().await;
}

/// A block held at the other end is passed over, not tried again and again.
#[tokio::test]
async fn a_block_the_peer_refuses_is_set_aside_and_the_next_one_serves() {
    let mut pair = Pair::new().await;
    let held = pair.admit_random(NORTH, 4096).await;
    pair.admit_random(NORTH, 4096).await;
    pair.south().pool.hold(held);
    for _ in 0..3 {
        let keys = pair.north().supply.issue(&sae("n1"), &[sae("s1")], 256, 1).await.unwrap();
        assert_ne!(keys[0].id.slice().block.number, held);
    }
    assert_eq!(pair.north().pool.view().ledger.burned, 256, "one key was lost to find out");
    pair.assert_settled_and_balanced().await;
}
