//! What operators are told of keys that are gone.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::ops::Bound;

use common::{NORTH, Pair, SOUTH, block, ids_of, random, sae};
use km_core::{
    pool::{KeyState, SuppliedKey},
    store::MAX_RANGE,
};
use tokio::task::JoinSet;

#[tokio::test]
async fn what_became_of_a_key_is_told_after_its_block_is_used_up_and_over_crashes() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 4096).await;
    let [n1, s1] = ["n1", "s1"].map(sae);
    let keys = pair.north().supply.issue(&n1, std::slice::from_ref(&s1), 256, 128).await.unwrap();
    let got = pair.south().supply.collect(&s1, Some(&n1), &ids_of(&keys)).await.unwrap();
    assert_eq!(got.len(), 128);
    pair.north().supply.stop().await;
    pair.assert_settled_and_balanced().await;
    all_is_told(&pair, &keys).await;
    pair.crash(NORTH).await;
    pair.crash(SOUTH).await;
    all_is_told(&pair, &keys).await;

    // Of what was handed out when the power went nobody knows how far it got.
    pair.admit_random(NORTH, 4096).await;
    let left = pair.north().supply.issue(&n1, std::slice::from_ref(&s1), 256, 1).await.unwrap();
    pair.crash(NORTH).await;
    let run = pair.north().pool.trace(left[0].id).await.unwrap().run.expect("who had it");
    assert_eq!((run.master, run.handed_out), (n1, None));
}

/// Of the oldest nothing is known any more, and no more is kept.
#[tokio::test]
async fn traces_are_bounded() {
    const BLOCKS: usize = 1024;
    let pair = Pair::new().await;
    let numbers: Vec<u64> = (1..=BLOCKS as u64 + 8).collect();
    for some in numbers.chunks(16) {
        let mut admitting = JoinSet::new();
        for number in some.iter().copied() {
            let pool = pair.north().pool.clone();
            let new = block(number, NORTH, &random(64), true);
            admitting.spawn(async move { pool.admit(new).await.unwrap() });
        }
        admitting.join_all().await;
    }
    pair.north().pool.retire_past().await;
    let prefix = b"past/block/";
    let store = pair.north().records.store();
    let mut kept = store.range(prefix, Bound::Unbounded, MAX_RANGE).await.unwrap();
    let after = Bound::Excluded(kept[kept.len() - 1].key.clone());
    kept.extend(store.range(prefix, after, MAX_RANGE).await.unwrap());
    assert_eq!(kept.len(), BLOCKS);
}

async fn all_is_told(pair: &Pair, keys: &[SuppliedKey]) {
    let [n1, s1] = ["n1", "s1"].map(sae);
    for (end, by_master, by_slave) in
        [(pair.north(), Some(true), vec![]), (pair.south(), None, vec![s1.clone()])]
    {
        let trace = end.pool.trace(keys[7].id).await.unwrap();
        assert_eq!(trace.state, KeyState::Erased);
        let header = trace.header.expect("how its block came");
        assert_eq!(header.provenance, *keys[7].provenance);
        let run = trace.run.expect("who had it");
        assert_eq!((&run.master, &run.slaves[..]), (&n1, &[s1.clone()][..]));
        assert_eq!((run.handed_out, run.collected_by), (by_master, by_slave));
        assert!(run.ended_ms.is_some() && run.expires_ms.is_none());
    }
}
