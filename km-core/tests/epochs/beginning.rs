//! When an epoch begins, and how often its KEK seals.

use std::sync::Arc;
use std::time::Duration;

use km_core::{
    epoch::{Epoch, EpochPolicy, EpochState, MOST_SEALS},
    material::ClearBytes,
    store::{Commit, Store},
};

use crate::{
    common::{Machine, SOUTH, ids_of, random, sae},
    is_empty, lone, object, open, rotated, rows, view,
};

#[tokio::test]
async fn a_kek_made_just_before_a_crash_becomes_the_active_epoch() {
    let (mut pair, keys, _) = rotated().await;
    let made = pair.machines[SOUTH].hsm.make();
    pair.crash(SOUTH).await;
    assert_eq!(view(pair.south(), made.number).0, EpochState::Active);
    assert_eq!(view(pair.south(), 2).0, EpochState::Retiring);
    while !is_empty(pair.south(), 1) {
        pair.south().keeper.pass().await.unwrap();
    }
    pair.south().supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
}

/// So does one that appears in the token while the KM runs.
#[tokio::test]
async fn a_seal_under_a_kek_not_known_yet_is_not_stored_before_its_epoch_is() {
    let (pair, _, _) = rotated().await;
    let made = pair.machines[SOUTH].hsm.make();
    let objects = &pair.south().objects;
    objects.create(object("later"), &ClearBytes::copy_from(&random(32))).await.unwrap();
    assert_eq!(view(pair.south(), made.number).0, EpochState::Active);
    open(objects, "later").await;
}

#[tokio::test]
async fn seals_are_counted_over_restarts_and_end_at_the_bound() {
    let machine = Machine::new();
    let policy = EpochPolicy { max_seals: 1600, ..EpochPolicy::default() };
    let mut most = 0;
    for start in 1..=3 {
        let (objects, keeper) = lone(&machine, policy).await;
        for at in 0..30 {
            let uid = format!("{start}-{at}");
            objects.create(object(&uid), &ClearBytes::copy_from(&random(32))).await.unwrap();
        }
        let view = keeper.epochs().list().remove(0);
        // Whatever a start did not use of what it set aside counts as used.
        assert!(view.seals_used >= most + 30, "{view:?}");
        assert_eq!(view.epoch.seals, start * 100);
        most = view.epoch.seals;
    }
    // As after 2^32 seals.
    let (records, _, _) = machine.unlock(machine.disk.clone(), policy).await.unwrap();
    let row = rows(&machine, b"epoch/").await.remove(0);
    let mut epoch: Epoch = records.decode(&row.key, &row.value).unwrap();
    epoch.seals = MOST_SEALS;
    let worn = records.encode(&row.key, &epoch);
    machine.disk.commit(Commit::new().put(row.key, worn)).await.unwrap();
    let (objects, keeper) = lone(&machine, policy).await;
    let clear = ClearBytes::copy_from(&random(32));
    let refused = objects.create(object("over"), &clear).await.unwrap_err();
    assert!(refused.to_string().contains("begin a new epoch"), "{refused}");
    keeper.epochs().rotate("cn:ada").await.unwrap();
    objects.create(object("over"), &clear).await.unwrap();
}

/// An older copy of the store that was taken for the newest counts too few of them.
#[tokio::test]
async fn under_a_kek_whose_seals_nobody_knows_nothing_more_is_sealed() {
    let machine = Machine::new();
    let policy = EpochPolicy { max_seals: 1600, ..EpochPolicy::default() };
    let clear = ClearBytes::copy_from(&random(32));
    let (objects, keeper) = lone(&machine, policy).await;
    objects.create(object("before"), &clear).await.unwrap();
    keeper.epochs().spend().await.unwrap();
    let refused = objects.create(object("over"), &clear).await.unwrap_err();
    assert!(refused.to_string().contains("begin a new epoch"), "{refused}");
    let (objects, keeper) = lone(&machine, policy).await;
    objects.create(object("over"), &clear).await.unwrap_err();
    open(&objects, "before").await;
    let tended = tokio::time::timeout(Duration::from_secs(5), async {
        while objects.create(object("over"), &clear).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    tokio::select! {
        () = keeper.tend() => {}
        begun = tended => begun.expect("a new epoch begins by itself"),
    }
}

async fn rotates(policy: EpochPolicy, seals: usize) -> bool {
    let machine = Machine::new();
    let (objects, keeper) = lone(&machine, policy).await;
    let clear = ClearBytes::copy_from(&random(32));
    objects.create(object("kept"), &clear).await.unwrap();
    for _ in 1..seals {
        drop(objects.prepare(object("dropped"), &clear).await.unwrap());
    }
    let keeper = Arc::new(keeper);
    let tended = keeper.clone();
    let tending = tokio::spawn(async move { tended.tend().await });
    let empty = async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let list = keeper.epochs().list();
            if list.len() > 1 && list[0].seen.is_some_and(|seen| seen.empty) {
                return;
            }
        }
    };
    let done = tokio::time::timeout(Duration::from_millis(2600), empty).await.is_ok();
    tending.abort();
    open(&objects, "kept").await;
    done
}

#[tokio::test]
async fn a_new_epoch_begins_by_age_and_by_volume_and_not_before() {
    let calm = EpochPolicy { max_seals: 100, ..EpochPolicy::default() };
    let old = EpochPolicy { max_age: Some(Duration::from_millis(900)), ..calm };
    let (young, aged, full) = tokio::join!(rotates(calm, 60), rotates(old, 5), rotates(calm, 110));
    assert_eq!((young, aged, full), (false, true, true));
}
