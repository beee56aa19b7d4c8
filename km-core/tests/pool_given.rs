//! Untouched blocks change their owner back and forth while messages are lost, repeated and
//! delayed: never do both ends hand out the same bytes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;

use common::{Chaos, NORTH, Pair, SOUTH, ids_of, sae};
use km_core::{peer::GivenBlock, provenance::Grade};

const CHAOS: Chaos = Chaos { lose: 15, repeat: 30, delay: 30, seed: 0 };

/// Leases one run at `at` and hands all of it out; the slices go into `taken`.
async fn use_some(pair: &Pair, at: usize, taken: &mut BTreeSet<(u64, u16)>) -> bool {
    let (master, slave) = if at == NORTH { ("n1", "s1") } else { ("s1", "n1") };
    let pool = &pair.ends[at].pool;
    let Ok(mut run) = pool.lease(&sae(master), &[sae(slave)], 32, 3).await else { return false };
    while let Some(key) = run.take() {
        let slice = key.id.slice();
        assert!(taken.insert((slice.block.number, slice.offset)), "{slice:?} handed out twice");
    }
    pool.end_run(run);
    true
}

#[tokio::test]
async fn blocks_given_back_and_forth_never_serve_the_same_bytes_twice() {
    for seed in 0..4 {
        let mut pair = Pair::new().await;
        let mut taken = BTreeSet::new();
        for end in 0..2 {
            let seed = seed * 2 + end as u64;
            pair.ends[end].wire.set_chaos(Chaos { seed, ..CHAOS });
        }
        let mut served = 0;
        for round in 0..60usize {
            if round % 6 == 0 {
                pair.admit_random(round / 6 % 2, 640).await;
            }
            let at = (round + seed as usize) % 2;
            pair.ends[at].pool.give(1 + (round % 3) as u16, Grade::Computational).await.unwrap();
            served += usize::from(use_some(&pair, 1 - at, &mut taken).await);
            if round % 4 == 0 {
                pair.ends[at].wire.deliver_late();
            }
            served += usize::from(use_some(&pair, at, &mut taken).await);
            if round % 13 == 12 {
                // Reconnected, or one end started anew.
                pair.ends[1 - at].pool.settled().await.unwrap();
                pair.greet();
                pair.crash(at).await;
                pair.ends[at].wire.set_chaos(Chaos { seed: round as u64, ..CHAOS });
            }
            pair.assert_balanced();
        }
        assert!(served > 10, "hardly anything was served: {served}");
        pair.assert_settled_and_balanced().await;
    }
}

#[tokio::test]
async fn an_older_claim_changes_nothing() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 640).await;
    let number = pair.admit_random(NORTH, 640).await;
    let owns = |pair: &Pair| [NORTH, SOUTH].map(|at| pair.ends[at].pool.own_bytes());
    pair.north().pool.give(1, Grade::Computational).await.unwrap();
    assert_eq!(owns(&pair), [640, 640]);
    // More than half of the difference, so the smaller one goes back.
    pair.admit_random(SOUTH, 1600).await;
    pair.south().pool.give(1, Grade::Computational).await.unwrap();
    assert_eq!(owns(&pair), [1280, 1600]);
    // The first gift once more, late.
    pair.south().pool.take_given(&[GivenBlock { number, transfers: 1 }]);
    assert_eq!(owns(&pair), [1280, 1600]);
    // A claim from the end that does not own it.
    pair.north().pool.take_given(&[GivenBlock { number, transfers: 9 }]);
    assert_eq!(owns(&pair), [1280, 1600]);
    pair.assert_settled_and_balanced().await;
}

#[tokio::test]
async fn a_block_in_use_is_not_given_and_not_taken() {
    let mut pair = Pair::new().await;
    let number = pair.admit_random(NORTH, 640).await;
    let mut taken = BTreeSet::new();
    assert!(use_some(&pair, NORTH, &mut taken).await);
    // There is plenty, but none of it small enough to give.
    pair.admit_random(NORTH, 6400).await;
    pair.north().pool.give(1, Grade::Computational).await.unwrap();
    assert_eq!(pair.north().pool.own_bytes(), 640 - 96 + 6400);
    pair.south().pool.take_given(&[GivenBlock { number, transfers: 1 }]);
    assert_eq!(pair.south().pool.own_bytes(), 0);
    assert!(!use_some(&pair, SOUTH, &mut taken).await);
}

/// A gift whose message is lost is repeated at the next connection.
#[tokio::test]
async fn a_lost_gift_arrives_with_the_next_greeting() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 640).await;
    pair.admit_random(NORTH, 640).await;
    pair.north().wire.set_chaos(Chaos { lose: 100, ..Chaos::default() });
    pair.north().pool.give(1, Grade::Computational).await.unwrap();
    assert_eq!(pair.south().pool.own_bytes(), 0);
    pair.crash(NORTH).await;
    assert_eq!(pair.south().pool.own_bytes(), 640);
    assert!(use_some(&pair, SOUTH, &mut BTreeSet::new()).await);
    pair.assert_settled_and_balanced().await;
}

/// A block that is used up, and whose keys wait to be collected, is nothing to be asked about.
#[tokio::test]
async fn only_blocks_with_something_left_are_asked_about() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 640).await;
    assert_eq!(pair.south().pool.doubtful().len(), 1);
    let keys = pair.north().supply.issue(&sae("n1"), &[sae("s1")], 256, 20).await.unwrap();
    let south = pair.south();
    assert!(south.pool.doubtful().is_empty());
    let number = keys[0].id.slice().block.number;
    south.pool.burn_lacking(&[number]);
    assert_eq!(south.supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap().len(), 20);
    assert_eq!(south.pool.view().ledger.burned, 0);
}

/// The runs in which it was used up never came: nothing but the greeting tells the end that gave it.
#[tokio::test]
async fn a_gift_used_up_unseen_is_burned_with_the_next_greeting() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 640).await;
    pair.admit_random(NORTH, 640).await;
    pair.north().pool.give(1, Grade::Computational).await.unwrap();
    assert_eq!(pair.south().pool.own_bytes(), 640);
    pair.south().wire.set_chaos(Chaos { lose: 100, ..Chaos::default() });
    while pair.south().pool.own_bytes() > 0 {
        assert!(!use_some(&pair, SOUTH, &mut BTreeSet::new()).await);
    }
    let blocks = |pair: &Pair| [NORTH, SOUTH].map(|at| pair.ends[at].pool.view().blocks);
    assert_eq!(blocks(&pair), [2, 1]);
    pair.crash(SOUTH).await;
    assert_eq!(blocks(&pair), [1, 1]);
    assert!(use_some(&pair, NORTH, &mut BTreeSet::new()).await);
    pair.assert_settled_and_balanced().await;
}

/// Near empty, each end asks the other all the time: the last blocks stay where they are.
#[tokio::test]
async fn an_end_gives_at_most_half_of_what_it_has_more() {
    let mut pair = Pair::new().await;
    for _ in 0..5 {
        pair.admit_random(NORTH, 640).await;
    }
    let owns = |pair: &Pair| [NORTH, SOUTH].map(|at| pair.ends[at].pool.own_bytes() / 640);
    pair.north().pool.give(16, Grade::Computational).await.unwrap();
    assert_eq!(owns(&pair), [3, 2]);
    for at in [SOUTH, NORTH, SOUTH] {
        pair.ends[at].pool.give(16, Grade::Computational).await.unwrap();
        assert_eq!(owns(&pair), [3, 2]);
    }
    pair.assert_settled_and_balanced().await;
}
