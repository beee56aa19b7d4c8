//! KEK epochs: rotation, sealing anew, destruction by two operators, and what stays of a copy of
//! the store from before.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use common::{End, Machine, NORTH, Pair, SOUTH, bytes_of, ids_of, random, sae, single_keys};
use km_core::{
    audit::{self, Deed},
    epoch::{Destruction, Epoch, EpochError, EpochPolicy, EpochState, Keeper, MOST_SEALS, Seen},
    hsm::Hsm,
    key_id::KeyId,
    material::ClearBytes,
    objects::{NewObject, ObjectState, ObjectStep, Objects},
    provenance::{Origin, Provenance},
    store::{Commit, Record, Store},
    vault::{Kind, Vault, VaultError},
};
use tokio::sync::mpsc;

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

#[tokio::test]
async fn after_a_destruction_it_starts_again_and_opens_everything() {
    let (mut pair, keys, objects) = rotated().await;
    while !is_empty(pair.south(), 1) {
        pair.south().keeper.pass().await.unwrap();
    }
    destroy(&pair.south().keeper, 1).await;
    pair.crash(SOUTH).await;
    let south = pair.south();
    assert_eq!(view(south, 1).0, EpochState::Destroyed);
    south.supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    for (uid, bytes) in &objects {
        assert_eq!(open(&south.objects, uid).await, *bytes);
    }
}

/// Copies of the store from each moment before the destruction: at rotation, half-way through,
/// and when the old epoch was just empty.
#[tokio::test]
async fn a_backup_from_before_the_destruction_cannot_be_opened() {
    let (pair, _, _) = rotated().await;
    let (south, disk) = (pair.south(), &pair.machines[SOUTH]);
    let at_rotation = rows(disk, b"").await;
    let kek = disk.hsm.keks().await.unwrap()[0].id.clone();
    // The record key is under the new epoch already, the rest is not.
    let mut half_way = at_rotation.clone();
    while !is_empty(south, 1) {
        south.keeper.pass().await.unwrap();
    }
    let moved = rows(disk, b"meta/record-key").await.remove(0);
    half_way.iter_mut().filter(|row| row.key == moved.key).for_each(|row| *row = moved.clone());
    let emptied = rows(disk, b"").await;
    destroy(&south.keeper, 1).await;

    let restored = Machine::with(disk.hsm.clone());
    put_back(&restored, &at_rotation).await;
    let refused = Vault::new(disk.hsm.clone()).record_key(restored.disk.as_ref()).await;
    assert!(matches!(&refused, Err(VaultError::Foreign(_))), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("copy made before its KEK epoch"));
    assert_eq!(rows(&restored, b"").await.len(), at_rotation.len(), "nothing is made anew");

    for copy in [&half_way, &emptied] {
        let restored = Machine::with(disk.hsm.clone());
        put_back(&restored, copy).await;
        let refused = restored.unlock(restored.disk.clone(), EpochPolicy::default()).await;
        let error = refused.err().unwrap();
        assert_eq!(error, EpochError::Missing { number: 1 });
        assert!(error.to_string().contains("a copy made before the epoch was destroyed"));
    }
    // Nor does a single blob of the copy open by itself.
    let mut tried = 0;
    for row in at_rotation.iter().filter(|row| row.key.starts_with(b"block/")) {
        let block: km_core::block::SealedBlock =
            south.records.decode(&row.key, &row.value).unwrap();
        let refused = south.vault.open_block(&block).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("epoch 1")));
        tried += 1;
    }
    for row in at_rotation.iter().filter(|row| row.key.starts_with(b"object/")) {
        let object: km_core::objects::Object = south.records.decode(&row.key, &row.value).unwrap();
        let sealed = object.sealed.unwrap();
        let refused = south.vault.open_object(&object.uid, object.owner.as_str(), &sealed).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("epoch 1")));
        tried += 1;
    }
    assert_eq!(tried, 5);
    assert!(!disk.hsm.keks().await.unwrap().iter().any(|held| held.id == kek));
}

async fn put_back(machine: &Machine, rows: &[Record]) {
    for row in rows {
        let commit = Commit::new().put(row.key.clone(), row.value.clone());
        machine.disk.commit(commit).await.unwrap();
    }
}

#[tokio::test]
async fn one_operator_alone_destroys_nothing_and_two_are_on_record() {
    let (pair, _, _) = rotated().await;
    let (south, keeper) = (pair.south(), &pair.south().keeper);
    let active = keeper.destroy(2, "cn:ada").await;
    assert!(matches!(active, Err(EpochError::Step(_))), "{active:?}");
    assert_eq!(keeper.destroy(9, "cn:ada").await, Err(EpochError::NoSuch(9)));
    let full = keeper.destroy(1, "cn:ada").await;
    assert!(matches!(full, Err(EpochError::NotEmpty { number: 1, .. })), "{full:?}");
    // That look moved everything.
    assert!(matches!(keeper.destroy(1, "cn:ada").await, Ok(Destruction::Approved { .. })));
    let again = keeper.destroy(1, "cn:ada").await;
    assert_eq!(again, Err(EpochError::SameOperator { operator: "cn:ada".into() }));
    assert_eq!(pair.machines[SOUTH].hsm.keks().await.unwrap().len(), 2);
    let done = keeper.destroy(1, "cn:bob").await.unwrap();
    let Destruction::Done(epoch) = done else { panic!("{done:?}") };
    let operators: Vec<&str> = epoch.approvals.iter().map(|a| a.operator.as_str()).collect();
    assert_eq!(operators, ["cn:ada", "cn:bob"]);
    let deeds = audit::list(&south.records, 100).await.unwrap();
    let said: Vec<(&str, &Deed)> = deeds.iter().map(|e| (e.who.as_str(), &e.what)).collect();
    assert_eq!(
        said,
        [
            ("start", &Deed::EpochMade(1)),
            ("cn:ada", &Deed::EpochMade(2)),
            ("cn:ada", &Deed::EpochDestructionApproved(1)),
            ("cn:bob", &Deed::EpochDestructionDecided(1)),
            ("cn:ada and cn:bob", &Deed::EpochDestroyed(1)),
        ]
    );
    assert!(deeds.is_sorted_by_key(|entry| entry.at_ms) && deeds[0].at_ms > 0);
    let over = keeper.destroy(1, "cn:ada").await;
    assert!(matches!(over, Err(EpochError::Step(_))), "{over:?}");
}

/// A keeper with rules of its own, over a store with one object under epoch 1.
async fn lone(machine: &Machine, policy: EpochPolicy) -> (Objects, Keeper) {
    let (records, vault, epochs) = machine.unlock(machine.disk.clone(), policy).await.unwrap();
    let objects = Objects::new(records.clone(), vault.clone());
    let keeper = Keeper::new(epochs, vault, records, [], objects.clone());
    (objects, keeper)
}

#[tokio::test]
async fn an_approval_that_waited_too_long_counts_no_more() {
    let machine = Machine::new();
    let approval_window = Duration::from_millis(50);
    let policy = EpochPolicy { approval_window, ..EpochPolicy::default() };
    let (_, keeper) = lone(&machine, policy).await;
    keeper.epochs().rotate("cn:ada").await.unwrap();
    keeper.pass().await.unwrap();
    keeper.destroy(1, "cn:ada").await.unwrap();
    tokio::time::sleep(Duration::from_millis(80)).await;
    let late = keeper.destroy(1, "cn:bob").await.unwrap();
    assert!(matches!(late, Destruction::Approved { by, .. } if by.operator == "cn:bob"));
    assert_eq!(machine.hsm.keks().await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_approval_outlives_a_restart() {
    let (mut pair, _, _) = rotated().await;
    pair.south().keeper.pass().await.unwrap();
    pair.south().keeper.destroy(1, "cn:ada").await.unwrap();
    pair.crash(SOUTH).await;
    let keeper = &pair.south().keeper;
    let again = keeper.destroy(1, "cn:ada").await;
    assert!(matches!(again, Err(EpochError::SameOperator { .. })), "{again:?}");
    assert!(matches!(keeper.destroy(1, "cn:bob").await, Ok(Destruction::Done(_))));
}

/// At whatever write of the destruction the KM dies, the KEK is either whole and undecided, or
/// destroyed after the next start.
#[tokio::test]
async fn a_destruction_that_was_decided_is_ended_by_the_next_start() {
    for commits in 0..3 {
        let (mut pair, _, _) = rotated().await;
        while !is_empty(pair.south(), 1) {
            pair.south().keeper.pass().await.unwrap();
        }
        pair.south().keeper.destroy(1, "cn:ada").await.unwrap();
        pair.south().life.die_after(commits);
        let keeper = pair.south().keeper.clone();
        let task = tokio::spawn(async move { keeper.destroy(1, "cn:bob").await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        task.abort();
        pair.crash(SOUTH).await;
        let destroyed = pair.machines[SOUTH].hsm.keks().await.unwrap().len() == 1;
        assert_eq!(destroyed, commits > 0, "after {commits} commits");
        let expected = if destroyed { EpochState::Destroyed } else { EpochState::Retiring };
        assert_eq!(view(pair.south(), 1).0, expected);
    }
}

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
    pair.south().pool.settled().await;
    assert!(!pair.south().pool.has_block(number));
    assert!(rows(&pair.machines[SOUTH], b"block/").await.is_empty());
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

/// A store whose epochs were deleted, or set back, is not taken for a new one.
#[tokio::test]
async fn epoch_records_cannot_be_removed_or_changed_unnoticed() {
    let (pair, _, _) = rotated().await;
    let machine = &pair.machines[SOUTH];
    let all = rows(machine, b"epoch/").await;
    for byte in 0..all[0].value.len() {
        let mut changed = all[0].value.clone();
        changed[byte] ^= 4;
        let commit = Commit::new().put(all[0].key.clone(), changed);
        machine.disk.commit(commit).await.unwrap();
        assert!(machine.unlock(machine.disk.clone(), EpochPolicy::default()).await.is_err());
    }
    machine.disk.purge(b"epoch/").await.unwrap();
    let refused = machine.unlock(machine.disk.clone(), EpochPolicy::default()).await.err();
    assert!(refused.unwrap().to_string().contains("epochs are missing"));
}

/// What a sealed blob can be made to be by who has the record key but not the KEK.
#[tokio::test]
async fn foreign_blobs_are_refused_and_counted() {
    let (pair, keys, _) = rotated().await;
    let (south, disk) = (pair.south(), &pair.machines[SOUTH].disk);
    let kek2 = pair.machines[SOUTH].hsm.current_kek();
    let (a, _) = south.objects.get(&sae("n1"), "a").await.unwrap();
    let sealed = |object: &km_core::objects::Object| {
        let bytes = postcard::to_allocvec(object.sealed.as_ref().unwrap()).unwrap();
        // After the byte that tells the form.
        postcard::from_bytes::<km_core::hsm::Sealed>(&bytes[1..]).unwrap()
    };
    let good = sealed(&a);
    let (b, _) = south.objects.get(&sae("n1"), "b").await.unwrap();
    let mut flipped = good.clone();
    flipped.ciphertext[3] ^= 1;
    let mut cut = good.clone();
    cut.ciphertext.pop();
    let other_epoch = km_core::hsm::Sealed { kek: kek2.clone(), ..good.clone() };
    let unknown = km_core::hsm::Sealed { kek: km_core::hsm::KekId("77".into()), ..good.clone() };
    let mut refusals = 0;
    for blob in [sealed(&b), flipped, cut, other_epoch, unknown] {
        // In the form of bytes that are sealed.
        let bytes = postcard::to_allocvec(&(0u8, &blob)).unwrap();
        let forged = km_core::objects::Object {
            sealed: Some(postcard::from_bytes(&bytes).unwrap()),
            ..a.clone()
        };
        let refused = south.objects.open(&forged).await;
        // As stored, it opens: who has an old reading gets what is there now.
        assert_eq!(refused.unwrap().len(), 32);
        let key = b"object/a\0n1".as_slice();
        let kept = disk.get(key).await.unwrap().unwrap();
        disk.commit(Commit::new().put(key, south.records.encode(key, &forged))).await.unwrap();
        let refused = south.objects.open(&forged).await.unwrap_err();
        assert!(refused.to_string().contains("refused by the HSM"), "{refused}");
        refusals += 1;
        assert_eq!(south.vault.refusals().of(Kind::Object), refusals);
        disk.commit(Commit::new().put(key, kept.value)).await.unwrap();
    }
    // Blocks: a flipped bit under a good record tag, and a block relabelled to the other epoch.
    let row = rows(&pair.machines[SOUTH], b"block/").await.remove(0);
    let block: km_core::block::SealedBlock = south.records.decode(&row.key, &row.value).unwrap();
    let bytes = postcard::to_allocvec(&block).unwrap();
    let kek1 = pair.machines[SOUTH].hsm.keks().await.unwrap()[0].id.0.clone();
    let at = bytes.windows(kek1.len()).position(|w| w == kek1.as_bytes()).unwrap();
    let mut relabelled = bytes.clone();
    relabelled[at..at + kek1.len()].copy_from_slice(kek2.0.as_bytes());
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (count, forged) in [(1, relabelled), (2, flipped)] {
        let forged: km_core::block::SealedBlock = postcard::from_bytes(&forged).unwrap();
        let forged = south.records.encode(&row.key, &forged);
        disk.commit(Commit::new().put(row.key.clone(), forged)).await.unwrap();
        let refused = south.supply.collect(&sae("s1"), None, &ids_of(&keys)).await;
        assert!(refused.unwrap_err().to_string().contains("refused by the HSM"));
        assert_eq!(south.vault.refusals().of(Kind::Block), count);
    }
    // A blob no KEK opens is left alone, and does not keep an epoch from being empty.
    let tally = south.keeper.pass().await.unwrap();
    assert_eq!((tally.found, tally.moved, tally.refused), (6, 5, 1));
    assert_eq!(south.keeper.pass().await.unwrap().found, 1);
    assert!(is_empty(south, 1));
    disk.commit(Commit::new().put(row.key, row.value)).await.unwrap();
    assert!(matches!(south.keeper.destroy(1, "cn:ada").await, Err(EpochError::NotEmpty { .. })));
}

/// Of a block sealed slice by slice, a slice that does not open stays behind alone.
#[tokio::test]
async fn a_slice_that_does_not_open_takes_no_other_with_it() {
    let mut pair = Pair::kept_in(km_core::payload::Storage::Each(32)).await;
    pair.admit_random(NORTH, 640).await;
    let keys = single_keys(pair.north(), 20).await.unwrap();
    let south = pair.south();
    let row = rows(&pair.machines[SOUTH], b"block/").await.remove(0);
    let block: km_core::block::SealedBlock = south.records.decode(&row.key, &row.value).unwrap();
    let mut bytes = postcard::to_allocvec(&block).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let forged: km_core::block::SealedBlock = postcard::from_bytes(&bytes).unwrap();
    let forged = south.records.encode(&row.key, &forged);
    let disk = &pair.machines[SOUTH].disk;
    disk.commit(Commit::new().put(row.key.clone(), forged)).await.unwrap();
    south.keeper.epochs().rotate("cn:ada").await.unwrap();
    assert_eq!(south.keeper.pass().await.unwrap().moved, 2);
    let tally = south.keeper.pass().await.unwrap();
    assert_eq!((tally.found, tally.moved, tally.refused), (1, 0, 1));
    destroy(&south.keeper, 1).await;
    let (last, good) = keys.split_last().unwrap();
    let got = south.supply.collect(&sae("s1"), None, &ids_of(good)).await.unwrap();
    let bytes = |keys: &[km_core::pool::SuppliedKey]| keys.iter().map(bytes_of).collect::<Vec<_>>();
    assert_eq!(bytes(&got), bytes(good));
    let lost = south.supply.collect(&sae("s1"), None, &[last.id]).await;
    assert!(lost.unwrap_err().to_string().contains("epoch 1, which was destroyed"));
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

type Heard = (km_core::pool::SuppliedKey, Option<km_core::pool::SuppliedKey>);

/// Keys flow, KEKs change, blocks move, and an end dies at whatever commit: nothing is lost,
/// nothing comes twice, and in the end every old KEK can go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_whatever_commit_a_rotating_end_dies_nothing_is_lost_or_delivered_twice() {
    let mut pair = Pair::new().await;
    let mut handed_out: BTreeMap<KeyId, Vec<u8>> = BTreeMap::new();
    for uid in 0..20 {
        let clear = ClearBytes::copy_from(&[uid; 32]);
        pair.south().objects.create(object(&uid.to_string()), &clear).await.unwrap();
    }
    for round in 0..24 {
        for owner in [NORTH, SOUTH] {
            pair.admit_random(owner, 2048).await;
        }
        let south = pair.south();
        south.keeper.epochs().rotate("cn:ada").await.unwrap();
        south.life.die_after(round * 4);
        let (done, mut heard) = mpsc::unbounded_channel();
        let issuing = tokio::spawn(work(pair.north().pool.clone(), south.supply.clone(), done));
        let keeper = south.keeper.clone();
        let moving = tokio::spawn(async move { while keeper.pass().await.is_ok() {} });
        tokio::time::sleep(Duration::from_millis(40)).await;
        for task in [issuing, moving] {
            task.abort();
            let _ = task.await;
        }
        pair.crash(SOUTH).await;
        pair.assert_balanced();
        while let Ok((key, collected)) = heard.try_recv() {
            let again = pair.south().supply.collect(&sae("s1"), None, &[key.id]).await;
            match collected {
                Some(collected) => {
                    assert_eq!(bytes_of(&collected), bytes_of(&key));
                    assert!(again.is_err(), "delivered twice");
                }
                None => assert_eq!(bytes_of(&again.unwrap()[0]), bytes_of(&key)),
            }
            assert!(handed_out.insert(key.id, bytes_of(&key)).is_none());
        }
    }
    assert!(handed_out.len() > 50, "hardly anything happened: {}", handed_out.len());
    let south = pair.south();
    let old = |end: &End| -> Vec<u64> {
        let list = end.keeper.epochs().list();
        let retiring = list.iter().filter(|view| view.epoch.state == EpochState::Retiring);
        retiring.map(|view| view.epoch.number).collect()
    };
    while !old(south).iter().all(|number| is_empty(south, *number)) {
        south.keeper.pass().await.unwrap();
    }
    assert!(old(south).len() >= 24);
    for number in old(south) {
        destroy(&south.keeper, number).await;
    }
    for uid in 0..20 {
        assert_eq!(open(&south.objects, &uid.to_string()).await, [uid; 32]);
    }
    let keys = single_keys(pair.north(), 4).await.unwrap();
    south.supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    for end in &pair.ends {
        end.supply.stop().await;
    }
    pair.assert_settled_and_balanced().await;
}

/// Leases runs and collects from them; the first key of each is left for after the crash.
async fn work(
    here: Arc<km_core::pool::Pool>,
    there: Arc<km_core::supply::Supply>,
    done: mpsc::UnboundedSender<Heard>,
) {
    while let Ok(mut run) = here.lease(&sae("n1"), &[sae("s1")], 32, 4).await {
        for place in 0..4 {
            let Some(key) = run.take() else { break };
            let collected = match place {
                0 => None,
                _ => match there.collect(&sae("s1"), None, &[key.id]).await {
                    Ok(mut got) => got.pop(),
                    Err(_) => return,
                },
            };
            done.send((key, collected)).unwrap();
        }
        here.end_run(run);
    }
}
