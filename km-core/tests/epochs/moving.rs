//! What is sealed moves to the new epoch, and an old one is empty only when nothing can come under it.

use std::{sync::Arc, time::Duration};

use km_core::{
    clock::now_ms,
    epoch::{EpochError, EpochPolicy, EpochState},
    hsm::Hsm,
    material::ClearBytes,
    objects::{Object, ObjectStep},
    store::{Commit, Store},
};

use crate::{
    common::{Machine, NORTH, Pair, SOUTH, bytes_of, ids_of, random, sae, single_keys},
    destroy, is_empty, lone, object, open, rotated, rows,
};

#[tokio::test]
async fn everything_sealed_moves_to_the_new_epoch_and_still_opens() {
    let (pair, keys, objects) = rotated().await;
    let south = pair.south();
    assert!(!is_empty(south, 1));
    let tally = south.keeper.pass().await.unwrap();
    // Record key, two blocks, three objects.
    assert_eq!((tally.found, tally.moved, tally.refused), (6, 6, 0));
    assert!(!is_empty(south, 1), "a look that found something proves nothing");
    assert_eq!(south.keeper.pass().await.unwrap().found, 0);
    assert!(is_empty(south, 1));
    let gone = destroy(&south.keeper, 1).await;
    assert_eq!(gone.state, EpochState::Destroyed);
    assert_eq!(pair.machines[SOUTH].hsm.keks().await.unwrap().len(), 1);
    let got = south.supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    assert_eq!(
        got.iter().map(bytes_of).collect::<Vec<_>>(),
        keys.iter().map(bytes_of).collect::<Vec<_>>()
    );
    for (uid, bytes) in &objects {
        assert_eq!(open(&south.objects, uid).await, *bytes);
    }
    pair.assert_settled_and_balanced().await;
}

/// Only a person can get it moved. Its epoch waits for that; the other records do not.
#[tokio::test]
async fn a_record_that_the_token_cannot_move_stays_behind_alone() {
    let (pair, _, objects) = rotated().await;
    let (south, disk) = (pair.south(), &pair.machines[SOUTH].disk);
    let key = b"object/a\0n1".as_slice();
    let row = disk.get(key).await.unwrap().unwrap();
    let a: Object = south.records.decode(key, &row.value).unwrap();
    let mut form = postcard::to_allocvec(a.sealed.as_ref().unwrap()).unwrap();
    // As a key that was made in the token: this one wraps none.
    form[0] = 1;
    let wrapped = Object { sealed: Some(postcard::from_bytes(&form).unwrap()), ..a };
    disk.commit(Commit::new().put(key, south.records.encode(key, &wrapped))).await.unwrap();
    let tally = south.keeper.pass().await.unwrap();
    assert_eq!((tally.found, tally.moved, tally.refused), (6, 5, 0));
    let tally = south.keeper.pass().await.unwrap();
    assert_eq!((tally.found, tally.moved, tally.refused), (1, 0, 0));
    let refused = south.keeper.destroy(1, "cn:ada").await;
    assert_eq!(refused, Err(EpochError::NotEmpty { number: 1, left: Some(1) }));
    disk.commit(Commit::new().put(key, row.value)).await.unwrap();
    assert_eq!(south.keeper.pass().await.unwrap().moved, 1);
    south.keeper.pass().await.unwrap();
    destroy(&south.keeper, 1).await;
    assert_eq!(open(&south.objects, "a").await, objects["a"]);
}

/// A token that seals nothing more says nothing of the records: no alarm for each of them.
#[tokio::test]
async fn a_look_ends_when_nothing_can_be_sealed_at_all() {
    let machine = Machine::new();
    let (objects, keeper) = lone(&machine, EpochPolicy::default()).await;
    for uid in ["a", "b"] {
        objects.create(object(uid), &ClearBytes::copy_from(&random(32))).await.unwrap();
    }
    keeper.epochs().rotate("cn:ada").await.unwrap();
    keeper.move_record_key().await.unwrap();
    keeper.epochs().spend().await.unwrap();
    let ended = keeper.pass().await.unwrap_err();
    assert!(ended.to_string().contains("the most that is safe"), "{ended}");
}

/// What is sealed and not stored yet cannot be found by a scan.
#[tokio::test]
async fn an_epoch_is_not_empty_while_something_sealed_under_it_is_on_its_way() {
    let machine = Machine::new();
    let (objects, keeper) = lone(&machine, EpochPolicy::default()).await;
    let clear = ClearBytes::copy_from(&random(32));
    let (made, puts, _place) = objects.prepare(object("slow"), &clear).await.unwrap();
    keeper.epochs().rotate("cn:ada").await.unwrap();
    for _ in 0..3 {
        keeper.pass().await.unwrap();
    }
    let refused = keeper.destroy(1, "cn:ada").await;
    assert_eq!(refused, Err(EpochError::NotEmpty { number: 1, left: Some(0) }));
    let mut commit = Commit::new();
    commit.puts = puts.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    machine.disk.commit(commit).await.unwrap();
    drop(made);
    let tally = keeper.pass().await.unwrap();
    assert_eq!((tally.found, tally.moved), (1, 1));
    destroy(&keeper, 1).await;
    assert_eq!(open(&objects, "slow").await, clear.expose(<[u8]>::to_vec));
}

/// Nor while another KM of the same store may store what it sealed: before the epoch is closed.
#[tokio::test]
async fn in_a_shared_store_no_look_is_the_last_one() {
    let machine = Machine::new();
    let (theirs, _) = lone(&machine, EpochPolicy::default()).await;
    let clear = ClearBytes::copy_from(&random(32));
    let (made, puts, _place) = theirs.prepare(object("theirs"), &clear).await.unwrap();
    let (_, keeper) = lone(&machine, EpochPolicy::default()).await;
    let keeper = Arc::new(keeper.shared(Duration::ZERO));
    keeper.epochs().rotate("cn:ada").await.unwrap();
    let seen = || keeper.epochs().list()[0].seen;
    for _ in 0..2 {
        keeper.pass().await.unwrap();
        assert!(seen().is_some_and(|seen| seen.left == 0 && !seen.empty));
    }
    let refused = keeper.destroy(1, "cn:ada").await;
    assert_eq!(refused, Err(EpochError::NotLeading));
    let mut commit = Commit::new();
    commit.puts = puts.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    machine.disk.commit(commit).await.unwrap();
    drop(made);
    let (stored_ms, tending) = (now_ms(), keeper.clone());
    let tending = tokio::spawn(async move { tending.tend().await });
    let looked_again = async {
        while seen().is_none_or(|seen| seen.at_ms <= stored_ms) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looked_again).await.expect("it looks again");
    tending.abort();
    assert_eq!(keeper.pass().await.unwrap().found, 0, "it was moved");
}

/// They share the token too.
#[tokio::test]
async fn key_managers_that_did_not_hear_of_an_epoch_begin_the_next_one() {
    let machine = Machine::new();
    let (_, one) = lone(&machine, EpochPolicy::default()).await;
    let (_, other) = lone(&machine, EpochPolicy::default()).await;
    assert_eq!(one.epochs().rotate("cn:ada").await.unwrap().number, 2);
    assert_eq!(other.epochs().rotate("cn:bob").await.unwrap().number, 3);
    assert_eq!(one.epochs().rotate("cn:ada").await.unwrap().number, 4);
    let active = one.epochs().list().into_iter().filter(|v| v.epoch.state == EpochState::Active);
    assert_eq!(active.map(|view| view.epoch.number).collect::<Vec<_>>(), [4]);
}

#[tokio::test]
async fn an_epoch_is_not_empty_while_a_batch_waits_to_be_published() {
    let machine = Machine::new();
    let (objects, keeper) = lone(&machine, EpochPolicy::default()).await;
    let clear = ClearBytes::copy_from(&random(32));
    let (staged, stage) = objects.staged();
    staged.create(object("later"), &clear).await.unwrap();
    keeper.epochs().rotate("cn:ada").await.unwrap();
    for _ in 0..2 {
        keeper.pass().await.unwrap();
    }
    let refused = keeper.destroy(1, "cn:ada").await;
    assert_eq!(refused, Err(EpochError::NotEmpty { number: 1, left: Some(0) }));
    stage.publish().await.unwrap();
    drop(staged);
    assert_eq!(keeper.pass().await.unwrap().moved, 1);
    destroy(&keeper, 1).await;
    assert_eq!(open(&objects, "later").await, clear.expose(<[u8]>::to_vec));
}

/// Who read an object before it was sealed anew may change it after.
#[tokio::test]
async fn sealing_anew_is_no_conflict_for_who_changes_an_object() {
    let machine = Machine::new();
    let (objects, keeper) = lone(&machine, EpochPolicy::default()).await;
    let clear = ClearBytes::copy_from(&random(32));
    objects.create(object("a"), &clear).await.unwrap();
    let (old, version) = objects.get(&sae("n1"), "a").await.unwrap();
    keeper.epochs().rotate("cn:ada").await.unwrap();
    assert_eq!(keeper.pass().await.unwrap().moved, 2);
    let mut new = old.clone();
    new.attributes = vec![1, 2, 3];
    objects.update(&old, version, &new).await.unwrap();
    let (now, _) = objects.get(&sae("n1"), "a").await.unwrap();
    assert_eq!(now.attributes, [1, 2, 3]);
    // It is not put back under the old epoch either.
    assert_eq!(keeper.pass().await.unwrap().found, 0);
    destroy(&keeper, 1).await;
    assert_eq!(*objects.open(&old).await.unwrap(), clear, "read before, opened after");
    // A destroyed object stays destroyed.
    objects.step(&sae("n1"), "a", ObjectStep::Destroy, |_| {}).await.unwrap();
    let (now, _) = objects.get(&sae("n1"), "a").await.unwrap();
    assert!(now.sealed.is_none());
    // A real change by somebody else is still a conflict.
    assert!(objects.update(&old, version, &new).await.is_err());
}

#[tokio::test]
async fn a_block_consumed_meanwhile_does_not_come_back() {
    let mut pair = Pair::new().await;
    let number = pair.admit_random(NORTH, 64).await;
    pair.south().keeper.epochs().rotate("cn:ada").await.unwrap();
    let keeper = pair.south().keeper.clone();
    let keys = single_keys(pair.north(), 2).await.unwrap();
    for key in ids_of(&keys) {
        let south = pair.south().supply.clone();
        let (passed, got) =
            tokio::join!(
                keeper.pass(),
                async move { south.collect(&sae("s1"), None, &[key]).await }
            );
        passed.unwrap();
        got.unwrap();
    }
    pair.south().pool.settled().await.unwrap();
    assert!(!pair.south().pool.has_block(number));
    assert!(rows(&pair.machines[SOUTH], b"block/").await.is_empty());
}

/// A block whose slices are under two retiring epochs keeps both of them from being empty.
#[tokio::test]
async fn a_block_counts_for_every_epoch_its_slices_are_under() {
    let mut pair = Pair::kept_in(km_core::payload::Storage::Each(32)).await;
    let number = pair.admit_random(NORTH, 64).await;
    let south = pair.south();
    let one = rows(&pair.machines[SOUTH], b"block/").await.remove(0);
    let first: km_core::block::SealedBlock = south.records.decode(&one.key, &one.value).unwrap();
    south.keeper.epochs().rotate("cn:ada").await.unwrap();
    let clear = south.vault.open_block(&first).await.unwrap();
    let storage = km_core::payload::Storage::Each(32);
    let second = south.vault.seal_block(first.header().clone(), &clear, storage).await.unwrap();
    // The first slice of one, the second of the other: both sealings have the same length.
    let (a, b) = (postcard::to_allocvec(&first).unwrap(), postcard::to_allocvec(&second).unwrap());
    let kek = pair.machines[SOUTH].hsm.keks().await.unwrap()[1].id.0.clone();
    let at = b.windows(kek.len()).rposition(|part| part == kek.as_bytes()).unwrap() - 2;
    let mixed: km_core::block::SealedBlock =
        postcard::from_bytes(&[&a[..at], &b[at..]].concat()).unwrap();
    drop(second);
    south.keeper.epochs().rotate("cn:ada").await.unwrap();
    let value = south.records.encode(&one.key, &mixed);
    let disk = &pair.machines[SOUTH].disk;
    disk.commit(Commit::new().put(one.key, value)).await.unwrap();
    south.keeper.pass().await.unwrap();
    assert!(!is_empty(south, 1) && !is_empty(south, 2), "block {number} was under both");
    south.keeper.pass().await.unwrap();
    assert!(is_empty(south, 1) && is_empty(south, 2));
}
