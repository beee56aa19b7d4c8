//! Traps found by reading, each with the story that sprang it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{
    Chaos, End, NORTH, Pair, SOUTH, block, bytes_of, config, ids_of, random, registry, sae,
    single_keys,
};
use km_core::{
    ids::MAX_BLOCK_NUMBER,
    journal::Fence,
    peer::GivenBlock,
    pool::{CollectError, PoolConfig, PoolError},
    provenance::Grade,
    registry::Registry,
    run::{RunId, RunSpec},
    store::{Commit, Outcome, Store},
    supply::SupplyError,
};
use tokio::time::timeout;

/// More runs than one commit carries operations: the journal must not choke on one change.
#[tokio::test]
async fn keys_of_more_runs_than_a_commit_holds_are_collected_at_once() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 65_472).await;
    let issued = single_keys(pair.north(), 120).await.unwrap();
    let south = pair.south();
    let collected = south.supply.collect(&sae("s1"), None, &ids_of(&issued)).await.unwrap();
    for (there, here) in issued.iter().zip(&collected) {
        assert_eq!(bytes_of(there), bytes_of(here));
    }
    pair.assert_settled_and_balanced().await;
}

/// The far end's word about its floor must not burn what it is about to be told it may use.
#[tokio::test]
async fn a_block_its_owner_has_not_confirmed_survives_the_owners_greeting() {
    let pair = Pair::new().await;
    let bits = random(4096);
    pair.north().pool.admit(block(1, SOUTH, &bits, true)).await.unwrap();
    pair.south().pool.admit(block(1, SOUTH, &bits, false)).await.unwrap();
    // `Stored` was lost with the connection; both greet anew.
    pair.greet();
    assert_eq!(pair.south().pool.own_bytes(), 4096);
    assert_eq!(pair.north().pool.peer_bytes(), 4096);
    pair.assert_settled_and_balanced().await;
}

/// A key burned while an application was collecting it is not delivered.
#[tokio::test]
async fn what_is_burned_between_reserve_and_deliver_is_not_delivered() {
    let mut pair = Pair::new().await;
    let number = pair.admit_random(NORTH, 4096).await;
    let mut run = pair.north().pool.lease(&sae("n1"), &[sae("s1")], 32, 4).await.unwrap();
    let id = run.take().unwrap().id;
    let south = pair.south();
    let reserved = south.pool.reserve(&sae("s1"), None, &[id]).unwrap();
    let opened = reserved.open().await.unwrap();
    let id_of_run = RunId { block: id.slice().block, offset: 0 };
    let (master, slaves) = (sae("n1"), vec![sae("s1")]);
    assert_eq!(id_of_run.block.number, number);
    south.pool.run_ended(&RunSpec { id: id_of_run, key_len: 32, count: 4, master, slaves }, 0);
    assert_eq!(opened.len(), 1);
    assert!(reserved.deliver(Vec::new()).await.is_err());
    assert_eq!(south.pool.view().ledger.delivered, 0);
    pair.assert_settled_and_balanced().await;
}

/// A run may be handed out slower than its keys live at the other end.
#[tokio::test]
async fn no_key_is_handed_out_that_has_expired_at_the_other_end() {
    let mut pair = Pair::with_ttl(Duration::from_millis(300)).await;
    pair.admit_random(NORTH, 65_472).await;
    let (n1, s1) = (sae("n1"), sae("s1"));
    for _ in 0..6 {
        pair.north().supply.issue(&n1, std::slice::from_ref(&s1), 256, 1).await.unwrap();
    }
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(320)).await;
        pair.south().pool.sweep();
        let keys = pair.north().supply.issue(&n1, std::slice::from_ref(&s1), 256, 1).await.unwrap();
        pair.south().supply.collect(&s1, None, &ids_of(&keys)).await.unwrap();
    }
}

/// A pair at whose south keys wait `short`; north has some to hand out.
async fn short_at_south(short: Duration) -> Pair {
    let mut pair = Pair::new().await;
    let south = End::open(&pair.machines[SOUTH], config(SOUTH, short), registry());
    pair.ends[SOUTH] = south.await.unwrap();
    pair.join();
    pair.greet();
    pair.admit_random(NORTH, 65_472).await;
    pair
}

/// The ends may be configured differently: what counts is who forgets a key first.
#[tokio::test]
async fn no_key_is_handed_out_that_expires_earlier_at_the_other_end_than_here() {
    let short = Duration::from_millis(300);
    let pair = short_at_south(short).await;
    let (n1, s1) = (sae("n1"), sae("s1"));
    let issue = || pair.north().supply.issue(&n1, std::slice::from_ref(&s1), 256, 1);
    for _ in 0..6 {
        issue().await.unwrap();
    }
    tokio::time::sleep(2 * short).await;
    pair.south().pool.sweep();
    let keys = issue().await.unwrap();
    pair.south().supply.collect(&s1, None, &ids_of(&keys)).await.unwrap();
}

/// What the clock says has expired may have been accepted a moment ago: one of the two clocks was set.
#[tokio::test]
async fn a_start_under_a_clock_set_forward_burns_no_key_that_is_being_issued() {
    let short = Duration::from_secs(1);
    let mut pair = short_at_south(short).await;
    let (n1, s1) = (sae("n1"), sae("s1"));
    let keys = pair.north().supply.issue(&n1, std::slice::from_ref(&s1), 256, 1).await.unwrap();
    tokio::time::sleep(short * 2).await;
    pair.crash(SOUTH).await;
    pair.south().pool.sweep();
    pair.south().supply.collect(&s1, None, &ids_of(&keys)).await.unwrap();
}

/// One rotten block does not stop the supply: it is held, the next one serves.
#[tokio::test]
async fn a_damaged_block_is_held_and_the_next_one_serves() {
    let mut pair = Pair::new().await;
    let bad = pair.admit_random(NORTH, 65_472).await;
    pair.admit_random(NORTH, 65_472).await;
    let disk = &pair.machines[NORTH].disk;
    let rows = disk.range(b"block/", std::ops::Bound::Unbounded, 10).await.unwrap();
    let mut value = rows[0].value.clone();
    let middle = value.len() / 2;
    value[middle] ^= 1;
    disk.commit(Commit::new().put(rows[0].key.clone(), value)).await.unwrap();
    let north = pair.north();
    let keys = north.supply.issue(&sae("n1"), &[sae("s1")], 256, 1).await.unwrap();
    assert_ne!(keys[0].id.slice().block.number, bad);
    pair.south().supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    assert!(north.pool.own_bytes() < 65_472, "the damaged block still counts as usable");
    pair.assert_settled_and_balanced().await;
}

/// Rights are asked when a key is collected, not only when it was assigned.
#[tokio::test]
async fn a_pair_that_was_taken_out_of_the_registry_collects_nothing_any_more() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 4096).await;
    let keys = pair.north().supply.issue(&sae("n1"), &[sae("s1")], 256, 1).await.unwrap();
    pair.ends[SOUTH].life.kill().await;
    let mut fewer = Registry::default();
    fewer.register(sae("n1"), [common::cluster("north")]).unwrap();
    fewer.register(sae("s1"), [common::cluster("south")]).unwrap();
    let config = config(SOUTH, pair.key_ttl);
    pair.ends[SOUTH] = End::open(&pair.machines[SOUTH], config, fewer).await.unwrap();
    let south = pair.south();
    let refused = south.supply.collect(&sae("s1"), None, &ids_of(&keys)).await;
    assert!(matches!(refused, Err(SupplyError::Collect(CollectError::NotYours(_)))));
    assert!(south.supply.reserve_one(&sae("s1"), keys[0].id).await.is_err());
    assert_eq!(south.pool.view().ledger.delivered, 0);
}

/// A KM whose mark of a collection was refused, because another one leads by now, does not say of the key
/// that it was collected: the other one gives it.
#[tokio::test]
async fn who_lost_the_lead_denies_no_key() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 4096).await;
    let keys = pair.north().supply.issue(&sae("n1"), &[sae("s1")], 256, 2).await.unwrap();
    pair.south().pool.settled().await.unwrap();
    let disk = pair.machines[SOUTH].disk.clone();
    let lead = async |name: &str| match disk.commit(Commit::new().put("lead", name)).await {
        Ok(Outcome::Committed(version)) => Fence { key: b"lead".to_vec(), version },
        other => panic!("{other:?}"),
    };
    let config = PoolConfig { fence: Some(lead("one").await), ..config(SOUTH, pair.key_ttl) };
    let one = End::open(&pair.machines[SOUTH], config.clone(), registry()).await.unwrap();
    let (slave, [first, second]) = (sae("s1"), [keys[0].id, keys[1].id]);
    one.supply.collect(&slave, None, &[first]).await.unwrap();
    let again = one.supply.reserve_one(&slave, first).await.err();
    assert!(matches!(again, Some(SupplyError::Collect(CollectError::NotFound(_)))), "{again:?}");

    let config = PoolConfig { fence: Some(lead("two").await), ..config };
    let refused = one.supply.collect(&slave, None, &[second]).await;
    assert!(matches!(refused, Err(SupplyError::Unavailable(_))), "{refused:?}");
    let again = one.supply.reserve_one(&slave, second).await.err();
    assert!(matches!(again, Some(SupplyError::NotLed(_))), "{again:?}");
    // It asks until somebody leads, and that is not itself.
    let asked = [second];
    let asking = one.supply.collect(&slave, None, &asked);
    assert!(timeout(Duration::from_millis(300), asking).await.is_err());

    let two = End::open(&pair.machines[SOUTH], config, registry()).await.unwrap();
    let got = two.supply.collect(&slave, None, &[second]).await.unwrap();
    assert_eq!(bytes_of(&got[0]), bytes_of(&keys[1]));
}

/// Requests that fail while the link is down cost no keys.
#[tokio::test]
async fn a_cut_link_does_not_drain_the_pool() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 4096).await;
    pair.north().wire.up.store(false, std::sync::atomic::Ordering::Relaxed);
    for _ in 0..3 {
        let refused = pair.north().supply.issue(&sae("n1"), &[sae("s1")], 256, 16).await;
        assert!(matches!(refused, Err(SupplyError::Unavailable(_))));
    }
    assert_eq!(pair.north().pool.own_bytes(), 4096);
}

/// Numbers and counters from a peer at their ends of range.
#[tokio::test]
async fn counters_at_their_limit_do_not_overflow() {
    let mut pair = Pair::new().await;
    let number = pair.admit_random(SOUTH, 4096).await;
    let north = pair.north();
    north.pool.take_given(&[GivenBlock { number, transfers: u16::MAX }]);
    assert_eq!(north.pool.own_bytes(), 4096);
    // Only the one that changed hands so often is small enough to give.
    pair.admit_random(NORTH, 8192).await;
    let north = pair.north();
    north.pool.give(8, Grade::Computational).await.unwrap();
    assert_eq!(north.pool.own_bytes(), 4096 + 8192);
    for number in [u64::MAX, MAX_BLOCK_NUMBER + 1] {
        let refused = north.pool.admit(block(number, NORTH, &random(64), true)).await;
        assert!(matches!(refused, Err(PoolError::Block(..))), "{number}");
    }
    pair.assert_settled_and_balanced().await;
}

/// A block given away and used there is cleaned up here though its end was never heard of.
#[tokio::test]
async fn a_given_block_the_other_end_is_done_with_does_not_stay_for_ever() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 320).await;
    pair.admit_random(NORTH, 320).await;
    pair.north().pool.give(1, Grade::Computational).await.unwrap();
    let lease = |count| {
        let pool = pair.south().pool.clone();
        async move { pool.lease(&sae("s1"), &[sae("n1")], 32, count).await }
    };
    let first = lease(2).await.unwrap();
    pair.south().pool.end_run(first);
    // The rest is lost on the way, and the block with it.
    pair.south().wire.set_chaos(Chaos { lose: 100, ..Chaos::default() });
    assert!(lease(8).await.is_err());
    assert_eq!(pair.south().pool.view().blocks, 1);
    pair.south().wire.set_chaos(Chaos::default());
    pair.greet();
    assert_eq!(pair.north().pool.view().blocks, 1);
    pair.assert_settled_and_balanced().await;
}

#[tokio::test]
async fn registered_pairs_are_the_only_ones() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 4096).await;
    let refused = pair.north().supply.issue(&sae("n2"), &[sae("s1")], 256, 1).await;
    assert!(matches!(refused, Err(SupplyError::NotPaired { .. })));
    assert!(registry().authorise(&sae("n2"), &sae("s2")));
}

/// Every block leaves a rest that the keys in demand do not fit. The rests must not pile up at
/// either end.
#[tokio::test]
async fn rests_too_short_for_the_keys_in_demand_do_not_pile_up() {
    let mut pair = Pair::new().await;
    for _ in 0..40 {
        pair.admit_random(NORTH, 1000).await;
    }
    for _ in 0..40 {
        let keys = pair.north().supply.issue(&sae("n1"), &[sae("s1")], 700 * 8, 1).await.unwrap();
        pair.south().supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    }
    assert!(pair.north().pool.view().blocks <= 12, "{:?}", pair.north().pool.view());
    pair.south().pool.peer_floor(pair.north().pool.floor());
    assert!(pair.south().pool.view().blocks <= 12, "{:?}", pair.south().pool.view());
    pair.assert_settled_and_balanced().await;
}

/// Many requests at a pool that is dry at this end: all are told so. Each waiting for blocks by
/// itself, one after the other, most of them would run out of time.
#[tokio::test]
async fn a_dry_pool_says_so_to_everybody_in_the_line() {
    let mut pair = Pair::new().await;
    pair.admit_random(SOUTH, 4096).await;
    // Begun, so its owner does not give it away.
    let run = pair.south().pool.lease(&sae("s1"), &[sae("n1")], 32, 1).await.unwrap();
    pair.south().pool.end_run(run);
    assert!(pair.north().pool.peer_bytes() > 32, "there is something to hope for");
    let asked = (0..24).map(|_| {
        let supply = pair.north().supply.clone();
        tokio::spawn(async move { supply.issue(&sae("n1"), &[sae("s1")], 256, 1).await })
    });
    for answer in asked.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        assert!(matches!(answer, Err(SupplyError::NoKeys(_))), "{answer:?}");
    }
}

/// A reservation the store does not confirm was never sent, so its end is none of the peer's
/// business: the peer would pass over bytes that this end, after a crash, assigns anew.
#[tokio::test]
async fn a_run_that_was_never_sent_is_not_ended_at_the_peer() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 4096).await;
    pair.north().life.kill().await;
    let lost = pair.north().pool.lease(&sae("n1"), &[sae("s1")], 32, 4).await;
    assert_eq!(lost.unwrap_err(), PoolError::NotDurable);
    assert_eq!(pair.south().pool.peer_bytes(), 4096);
    pair.crash(NORTH).await;
    let keys = pair.north().supply.issue(&sae("n1"), &[sae("s1")], 256, 4).await.unwrap();
    pair.south().supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    pair.assert_settled_and_balanced().await;
}
