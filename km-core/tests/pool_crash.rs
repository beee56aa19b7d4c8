//! Crashes at every commit, and a store that answers badly: what was handed out stays good, what
//! was collected stays collected, no number and no byte is used again.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::{FORMS, NORTH, Pair, SOUTH, block, bytes_of, ids_of, random, sae, single_keys};
use km_core::{
    key_id::KeyId,
    payload::Storage,
    pool::{CollectError, PoolError, SuppliedKey},
    store::faulty::Fault,
    supply::{Supply, SupplyError},
};
use tokio::sync::mpsc;

/// Each of these in each form in which blocks may be kept.
macro_rules! in_each_form {
    ($($name:ident)*) => {
        mod in_blocks { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::FORMS[0]).await; })* }
        mod one_by_one { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::FORMS[1]).await; })* }
        mod in_the_token { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::FORMS[2]).await; })* }
    };
}
in_each_form! {
    at_whatever_commit_an_end_dies_nothing_is_delivered_twice
    every_answer_of_the_store_is_survived
    a_key_whose_mark_is_not_durable_is_not_delivered_and_not_free_again
    block_numbers_are_never_used_again
    keys_handed_out_before_the_owner_crashed_are_still_collected
}

/// Issues and collects until the store of one end dies under it. Tells what was handed out and
/// what was collected, as an application would know it.
async fn work(
    here: Arc<Supply>,
    there: Arc<Supply>,
    names: (&'static str, &'static str),
    done: mpsc::UnboundedSender<(SuppliedKey, Option<SuppliedKey>)>,
) {
    let (master, slave) = (sae(names.0), sae(names.1));
    loop {
        let Ok(keys) = here.issue(&master, std::slice::from_ref(&slave), 256, 4).await else {
            return;
        };
        for (place, key) in keys.into_iter().enumerate() {
            let collected = match place {
                // Left for after the crash.
                0 => None,
                _ => match there.collect(&slave, None, &[key.id]).await {
                    Ok(mut got) => got.pop(),
                    Err(_) => return,
                },
            };
            done.send((key, collected)).unwrap();
        }
    }
}

async fn at_whatever_commit_an_end_dies_nothing_is_delivered_twice(storage: Storage) {
    let mut pair = Pair::kept_in(storage).await;
    let mut handed_out: BTreeMap<KeyId, Vec<u8>> = BTreeMap::new();
    let mut numbers = Vec::new();
    for round in 0..30 {
        for owner in [NORTH, SOUTH] {
            numbers.push(pair.admit_random(owner, 2048).await);
        }
        let victim = round % 2;
        pair.ends[victim].life.die_after((round / 2) as i64);
        let (done, mut heard) = mpsc::unbounded_channel();
        let (north, south) = (pair.north().supply.clone(), pair.south().supply.clone());
        let tasks = [
            tokio::spawn(work(north.clone(), south.clone(), ("n1", "s1"), done.clone())),
            tokio::spawn(work(south, north, ("s1", "n1"), done)),
        ];
        tokio::time::sleep(Duration::from_millis(25)).await;
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        for task in tasks {
            let _ = task.await;
        }
        pair.crash(victim).await;
        pair.assert_balanced();
        for end in &pair.ends {
            end.pool.destroy_erased().await;
        }
        pair.assert_nothing_stray_in_the_tokens();
        while let Ok((key, collected)) = heard.try_recv() {
            let bytes = bytes_of(&key);
            after_crash(&pair, &key, collected.is_some()).await;
            if let Some(collected) = collected {
                assert_eq!(bytes_of(&collected), bytes);
            }
            assert!(handed_out.insert(key.id, bytes).is_none(), "an ID was handed out twice");
        }
    }
    assert!(handed_out.len() > 100, "hardly anything happened: {}", handed_out.len());
    let distinct: std::collections::BTreeSet<_> = handed_out.values().collect();
    assert_eq!(distinct.len(), handed_out.len(), "bytes were handed out twice");
    numbers.windows(2).for_each(|pair| assert!(pair[0] < pair[1], "a number came back"));
    for end in &pair.ends {
        end.supply.stop().await;
    }
    pair.assert_settled_and_balanced().await;
}

/// What was collected is gone; what was only handed out is there, once.
async fn after_crash(pair: &Pair, key: &SuppliedKey, collected: bool) {
    let mut answers = Vec::new();
    for (end, slave) in [(NORTH, "n1"), (SOUTH, "s1")] {
        let supply = &pair.ends[end].supply;
        for _ in 0..2 {
            match supply.collect(&sae(slave), None, &[key.id]).await {
                Ok(got) => answers.push(bytes_of(&got[0])),
                Err(SupplyError::Collect(CollectError::NotFound(_))) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    let expected = if collected { vec![] } else { vec![bytes_of(key)] };
    assert_eq!(answers, expected, "collected before: {collected}");
}

/// The store answers badly while keys flow. Requests may fail; the account holds and comes right.
async fn every_answer_of_the_store_is_survived(storage: Storage) {
    let faults = [
        Fault::Unavailable,
        Fault::UnknownDropped,
        Fault::UnknownApplied,
        Fault::Full,
        Fault::Conflict,
    ];
    let mut pair = Pair::kept_in(storage).await;
    for fault in faults {
        for at in [NORTH, SOUTH] {
            pair.machines[at].disk.inject([fault, Fault::None, fault]);
            pair.admit_random(NORTH, 1024).await;
            let keys = single_keys(pair.north(), 3).await.unwrap();
            let south = &pair.south().supply;
            let got = south.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
            assert_eq!(got.len(), 3);
            let again = south.collect(&sae("s1"), None, &ids_of(&keys)).await;
            assert!(again.is_err());
            assert_eq!(pair.machines[at].disk.waiting(), 0, "{fault:?} did not take effect");
            pair.assert_settled_and_balanced().await;
        }
    }
}

/// Nothing leaves on a mark that is not durable, and the mark stays: burned on doubt.
async fn a_key_whose_mark_is_not_durable_is_not_delivered_and_not_free_again(storage: Storage) {
    let mut pair = Pair::kept_in(storage).await;
    pair.admit_random(NORTH, 1024).await;
    let keys = single_keys(pair.north(), 1).await.unwrap();
    let south = &pair.south().supply;
    let (reserved, _) = south.reserve_one(&sae("s1"), keys[0].id).await.unwrap();
    assert_eq!(reserved.open().await.unwrap().len(), 1);
    pair.machines[SOUTH].disk.set_down(true);
    assert_eq!(reserved.deliver(Vec::new()).await, Err(PoolError::NotDurable));
    pair.machines[SOUTH].disk.set_down(false);
    let refused = south.collect(&sae("s1"), None, &ids_of(&keys)).await;
    assert!(matches!(refused, Err(SupplyError::Collect(CollectError::NotFound(_)))));
    pair.assert_settled_and_balanced().await;
    pair.crash(SOUTH).await;
    let refused = pair.south().supply.collect(&sae("s1"), None, &ids_of(&keys)).await;
    assert!(refused.is_err());
}

/// A number stays used though its block is long gone, over a restart too.
async fn block_numbers_are_never_used_again(storage: Storage) {
    let mut pair = Pair::kept_in(storage).await;
    let number = pair.admit_random(NORTH, 64).await;
    let keys = single_keys(pair.north(), 2).await.unwrap();
    pair.south().supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    for restart in [false, true] {
        for at in [NORTH, SOUTH] {
            if restart {
                pair.crash(at).await;
            }
            let end = &pair.ends[at];
            end.pool.settled().await.unwrap();
            assert_eq!(end.pool.view().blocks, 0);
            assert_eq!(end.pool.highest_block(), number);
            let again = end.pool.admit(block(number, NORTH, &random(64), true)).await;
            assert!(matches!(again, Err(PoolError::Block(..))));
        }
    }
}

/// A crash burns what was leased and not known to be handed out, at the owner's end only: what
/// was handed out can still be collected.
async fn keys_handed_out_before_the_owner_crashed_are_still_collected(storage: Storage) {
    let mut pair = Pair::kept_in(storage).await;
    pair.admit_random(NORTH, 4096).await;
    let mut run = pair.north().pool.lease(&sae("n1"), &[sae("s1")], 32, 16).await.unwrap();
    let key = run.take().unwrap();
    pair.crash(NORTH).await;
    drop(run);
    assert_eq!(pair.north().pool.view().ledger.burned, 16 * 256);
    let got = pair.south().supply.collect(&sae("s1"), None, &[key.id]).await.unwrap();
    assert_eq!(bytes_of(&got[0]), bytes_of(&key));
    let next = single_keys(pair.north(), 1).await.unwrap();
    assert_eq!(next[0].id.slice().offset, 16 * 32);
    pair.assert_settled_and_balanced().await;
}
