//! KEK epochs: rotation, sealing anew, destruction by two operators, and what stays of a copy of
//! the store from before.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;

mod beginning;
mod crashing;
mod destroying;
mod moving;
mod places;
mod sharing;
mod tampering;

use std::{collections::BTreeMap, ops::Bound};

use common::{End, Machine, NORTH, Pair, SOUTH, random, sae, single_keys};
use km_core::{
    epoch::{Destruction, Epoch, EpochPolicy, EpochState, Keeper, Seen},
    material::ClearBytes,
    objects::{NewObject, ObjectState, Objects},
    provenance::{Origin, Provenance},
    registry::Registry,
    store::{Commit, Record, Store},
    supply::{Supply, SupplyLimits},
};

fn object(uid: &str) -> NewObject {
    NewObject {
        uid: uid.into(),
        owner: sae("n1"),
        state: ObjectState::PreActive,
        provenance: Provenance::local(Origin::HsmRng),
        attributes: Vec::new(),
        terms: Vec::new(),
    }
}

async fn open(objects: &Objects, uid: &str) -> Vec<u8> {
    let (object, _) = objects.get(&sae("n1"), uid).await.unwrap();
    objects.open(&object).await.unwrap().expose(<[u8]>::to_vec)
}

fn view(end: &End, number: u64) -> (EpochState, Option<Seen>) {
    let found = end.keeper.epochs().list().into_iter().find(|v| v.epoch.number == number);
    let found = found.unwrap();
    (found.epoch.state, found.seen)
}

fn is_empty(end: &End, number: u64) -> bool {
    view(end, number).1.is_some_and(|seen| seen.empty)
}

async fn rows(machine: &Machine, prefix: &[u8]) -> Vec<Record> {
    machine.disk.range(prefix, Bound::Unbounded, 1000).await.unwrap()
}

/// One end with two blocks, three objects and a key handed out, after a rotation.
async fn rotated() -> (Pair, Vec<km_core::pool::SuppliedKey>, BTreeMap<String, Vec<u8>>) {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 4096).await;
    pair.admit_random(SOUTH, 4096).await;
    let keys = single_keys(pair.north(), 2).await.unwrap();
    let mut objects = BTreeMap::new();
    for uid in ["a", "b", "c"] {
        let bytes = random(32);
        let clear = ClearBytes::copy_from(&bytes);
        pair.south().objects.create(object(uid), &clear).await.unwrap();
        objects.insert(uid.to_owned(), bytes);
    }
    let made = pair.south().keeper.epochs().rotate("cn:ada").await.unwrap();
    assert_eq!((made.number, made.state), (2, EpochState::Active));
    (pair, keys, objects)
}

async fn destroy(keeper: &Keeper, number: u64) -> Epoch {
    let first = keeper.destroy(number, "cn:ada").await.unwrap();
    assert!(matches!(first, Destruction::Approved { by, .. } if by.operator == "cn:ada"));
    match keeper.destroy(number, "cn:bob").await.unwrap() {
        Destruction::Done(epoch) => epoch,
        other => panic!("{other:?}"),
    }
}

async fn put_back(machine: &Machine, rows: &[Record]) {
    for row in rows {
        let commit = Commit::new().put(row.key.clone(), row.value.clone());
        machine.disk.commit(commit).await.unwrap();
    }
}

/// A keeper with rules of its own, over a store with one object under epoch 1.
async fn lone(machine: &Machine, policy: EpochPolicy) -> (Objects, Keeper) {
    let (records, vault, epochs) = machine.unlock(machine.disk.clone(), policy).await.unwrap();
    let objects = Objects::new(records.clone(), vault.clone());
    let here = km_core::ids::ClusterId::parse("north").unwrap();
    let supply = Supply::new(here, Registry::default(), SupplyLimits::default(), []);
    let keeper = Keeper::new(epochs, vault, records, supply, objects.clone());
    (objects, keeper)
}
