//! Managed objects kept inside the token.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use common::{Life, Machine, cluster, sae};
use km_core::{
    cabinet::Cabinet,
    epoch::EpochPolicy,
    hsm::HsmError,
    material::ClearBytes,
    objects::{NewObject, Object, ObjectError, ObjectState, ObjectStep, Objects},
    provenance::{Origin, Provenance},
    store::{Store, faulty::Fault},
    vault::Vault,
};

const MOST: u64 = 3;
const CLEAR: [u8; 32] = [0xB7; 32];

/// One life of a key manager: objects of n1 are kept in the token, those of n2 are not.
struct Home {
    life: Arc<Life>,
    objects: Objects,
    cabinet: Arc<Cabinet>,
    vault: Vault,
}

async fn home(machine: &Machine) -> Home {
    let life = Arc::new(Life::new(machine.disk.clone()));
    let unlocked = machine.unlock(life.clone(), EpochPolicy::default()).await;
    let (records, vault, _) = unlocked.unwrap();
    let cabinet = Arc::new(Cabinet::new(cluster("here"), MOST));
    let vault = vault.with_cabinet(cabinet.clone());
    let objects = Objects::new(records, vault.clone()).kept_in_token([sae("n1")].into());
    objects.compare_with_token().await.unwrap();
    Home { life, objects, cabinet, vault }
}

fn new(uid: &str, owner: &str) -> NewObject {
    NewObject {
        uid: uid.into(),
        owner: sae(owner),
        state: ObjectState::PreActive,
        provenance: Provenance::local(Origin::HsmRng),
        attributes: Vec::new(),
        terms: Vec::new(),
    }
}

fn clear() -> ClearBytes {
    ClearBytes::copy_from(&CLEAR)
}

impl Home {
    async fn make(&self, uid: &str) -> Result<Object, ObjectError> {
        self.objects.create(new(uid, "n1"), &clear()).await
    }

    async fn destroy(&self, uid: &str) {
        self.objects.step(&sae("n1"), uid, ObjectStep::Destroy, |_| {}).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_kept_in_the_token_is_not_in_the_store_and_outlives_a_restart() {
    let machine = Machine::new();
    let first = home(&machine).await;
    let inside = first.make("u1").await.unwrap();
    let outside = first.objects.create(new("u1", "n2"), &clear()).await.unwrap();
    assert_eq!(machine.hsm.objects().len(), 1);
    assert!(inside.sealed.as_ref().unwrap().is_kept_in_token());
    assert!(!outside.sealed.as_ref().unwrap().is_kept_in_token());
    first.life.kill().await;
    let again = home(&machine).await;
    assert_eq!(again.cabinet.view().held, 1);
    for owner in ["n1", "n2"] {
        let (object, _) = again.objects.get(&sae(owner), "u1").await.unwrap();
        assert_eq!(*again.objects.open(&object).await.unwrap(), clear(), "{owner}");
    }
    again.destroy("u1").await;
    assert!(machine.hsm.objects().is_empty(), "destroyed with its record");
    assert_eq!(again.cabinet.view().held, 0);
    let rows = machine.disk.range(b"", Bound::Unbounded, 1000).await.unwrap();
    assert!(!rows.iter().any(|row| row.value.windows(16).any(|part| part == &CLEAR[..16])));
}

/// A crash at any commit leaves an object without a record at worst, and that for one start.
#[tokio::test]
async fn a_crash_between_token_and_record_leaves_nothing() {
    let machine = Machine::new();
    let first = home(&machine).await;
    first.make("stays").await.unwrap();
    first.life.die_after(0);
    let lost = tokio::time::timeout(std::time::Duration::from_millis(50), first.make("lost")).await;
    assert!(lost.is_err(), "it died before the commit");
    assert_eq!(machine.hsm.objects().len(), 2);
    let second = home(&machine).await;
    assert_eq!(machine.hsm.objects().len(), 1, "what no record names is gone");
    let (object, _) = second.objects.get(&sae("n1"), "stays").await.unwrap();
    assert_eq!(*second.objects.open(&object).await.unwrap(), clear());
    assert_eq!(second.cabinet.view().held, 1);
}

/// Nobody knows whether the record is there: what it names stays until that is seen.
#[tokio::test]
async fn an_unknown_outcome_costs_no_object() {
    let machine = Machine::new();
    let home = home(&machine).await;
    for (uid, fault, there) in
        [("a", Fault::UnknownApplied, true), ("b", Fault::UnknownDropped, false)]
    {
        machine.disk.inject([fault]);
        assert!(matches!(home.make(uid).await, Err(ObjectError::Unknown(_))), "{uid}");
        let suspects = home.objects.sweep(&BTreeSet::new()).await.unwrap();
        assert_eq!(suspects.is_empty(), there, "{uid}: {suspects:?}");
        assert_eq!(home.objects.sweep(&suspects).await.unwrap(), BTreeSet::new());
        assert_eq!(machine.hsm.objects().len(), 1, "{uid}");
    }
    let (object, _) = home.objects.get(&sae("n1"), "a").await.unwrap();
    assert_eq!(*home.objects.open(&object).await.unwrap(), clear());
    assert_eq!(home.cabinet.view().held, 1);
}

#[tokio::test]
async fn an_undone_batch_is_swept_away_and_a_published_one_is_not() {
    let machine = Machine::new();
    let home = home(&machine).await;
    let (staged, _dropped) = home.objects.staged();
    staged.create(new("undone", "n1"), &clear()).await.unwrap();
    let (kept, stage) = home.objects.staged();
    kept.create(new("done", "n1"), &clear()).await.unwrap();
    let suspects = home.objects.sweep(&BTreeSet::new()).await.unwrap();
    assert_eq!(suspects.len(), 2, "neither is stored yet");
    stage.publish().await.unwrap();
    home.objects.sweep(&suspects).await.unwrap();
    assert_eq!(machine.hsm.objects().len(), 1);
    let (object, _) = home.objects.get(&sae("n1"), "done").await.unwrap();
    assert_eq!(*home.objects.open(&object).await.unwrap(), clear());
}

/// Whoever fails again and again fills no token with it.
#[tokio::test]
async fn what_is_refused_or_undone_leaves_nothing_in_the_token() {
    let machine = Machine::new();
    let home = home(&machine).await;
    home.make("u1").await.unwrap();
    home.make("u2").await.unwrap();
    let (u1, version) = home.objects.get(&sae("n1"), "u1").await.unwrap();
    home.objects.update(&u1, version, &Object { attributes: vec![1], ..u1.clone() }).await.unwrap();
    for _ in 0..2 * MOST {
        assert!(matches!(home.make("u1").await, Err(ObjectError::Exists(_))));
        let sealed = home.objects.seal("new", &sae("n1"), &clear()).await.unwrap();
        let late = home.objects.supersede(new("new", "n1"), sealed, (&u1, version), &u1).await;
        assert!(matches!(late, Err(ObjectError::Conflict(_))), "{late:?}");
        let late = home.objects.replace(new("u1", "n1"), &clear(), (&u1, version)).await;
        assert!(matches!(late, Err(ObjectError::Conflict(_))), "{late:?}");
        let (staged, _stage) = home.objects.staged();
        staged.create(new("undone", "n1"), &clear()).await.unwrap();
        staged.step(&sae("n1"), "u1", ObjectStep::Destroy, |_| {}).await.unwrap();
        staged.undone().await;
        assert_eq!((machine.hsm.objects().len(), home.cabinet.view().held), (2, 2));
    }
    for uid in ["u1", "u2"] {
        let (object, _) = home.objects.get(&sae("n1"), uid).await.unwrap();
        assert_eq!(*home.objects.open(&object).await.unwrap(), clear(), "{uid}");
    }
    let (staged, stage) = home.objects.staged();
    staged.step(&sae("n1"), "u1", ObjectStep::Destroy, |_| {}).await.unwrap();
    assert_eq!(machine.hsm.objects().len(), 2, "it is not known yet whether it is destroyed");
    stage.publish().await.unwrap();
    staged.published().await;
    assert_eq!(machine.hsm.objects().len(), 1);
    assert_eq!(home.cabinet.failed_removals(), 0);
}

/// The record is gone, so the object is destroyed for its owner; that its bytes are still there is told.
#[tokio::test]
async fn an_object_that_is_not_destroyed_yet_is_counted_and_swept() {
    let machine = Machine::new();
    let home = home(&machine).await;
    home.make("u1").await.unwrap();
    machine.hsm.keeps_all.store(true, Relaxed);
    home.destroy("u1").await;
    assert_eq!(home.cabinet.failed_removals(), 1);
    assert_eq!((machine.hsm.objects().len(), home.cabinet.view().held), (1, 1));
    let suspects = home.objects.sweep(&BTreeSet::new()).await.unwrap();
    assert!(home.objects.sweep(&suspects).await.is_err());
    assert_eq!(home.cabinet.failed_removals(), 2);
    machine.hsm.keeps_all.store(false, Relaxed);
    home.objects.sweep(&suspects).await.unwrap();
    assert_eq!((machine.hsm.objects().len(), home.cabinet.view().held), (0, 0));
}

/// Of several KMs none removes at its start what another may be making; all are bound by what is there.
#[tokio::test]
async fn what_other_key_managers_made_and_destroyed_is_counted() {
    let machine = Machine::new();
    let first = home(&machine).await;
    first.make("u1").await.unwrap();
    let (records, vault, _) =
        machine.unlock(first.life.clone(), EpochPolicy::default()).await.unwrap();
    let cabinet = Arc::new(Cabinet::new(cluster("here"), MOST));
    let objects = Objects::new(records, vault.with_cabinet(cabinet.clone()));
    let second = objects.kept_in_token([sae("n1")].into());
    second.count_kept().await.unwrap();
    assert_eq!(second.sweep(&BTreeSet::new()).await.unwrap(), BTreeSet::new());
    assert_eq!(cabinet.view().held, 1, "counted once however often it is looked at");
    second.create(new("u2", "n1"), &clear()).await.unwrap();
    first.make("u3").await.unwrap();
    second.sweep(&BTreeSet::new()).await.unwrap();
    let full = second.create(new("u4", "n1"), &clear()).await;
    assert!(matches!(full, Err(ObjectError::Hsm(HsmError::Full(_)))), "{full:?}");
    first.destroy("u1").await;
    second.sweep(&BTreeSet::new()).await.unwrap();
    second.create(new("u4", "n1"), &clear()).await.unwrap();
    assert_eq!(cabinet.view().held, MOST);
}

#[tokio::test]
async fn a_full_token_says_so_and_nothing_goes_elsewhere() {
    let machine = Machine::new();
    let home = home(&machine).await;
    for uid in ["a", "b", "c"] {
        home.objects.check_room(&sae("n1"), 1).unwrap();
        home.make(uid).await.unwrap();
    }
    let full = |error| matches!(error, Err(ObjectError::Hsm(HsmError::Full(_))));
    assert!(full(home.make("d").await.map(drop)));
    assert!(home.objects.check_room(&sae("n1"), 1).is_err());
    home.objects.check_room(&sae("n2"), 1).unwrap();
    assert!(home.objects.get(&sae("n1"), "d").await.is_err());
    assert!(home.cabinet.view().nearly_full().is_some());
    home.destroy("b").await;
    home.make("d").await.unwrap();
}

/// Under a good record tag: whoever has the record key still cannot pass one off as another.
#[tokio::test]
async fn a_record_cannot_name_what_is_kept_for_another_object() {
    let machine = Machine::new();
    let home = home(&machine).await;
    home.make("u1").await.unwrap();
    let two = home.objects.create(new("u2", "n1"), &ClearBytes::copy_from(&[1; 32])).await.unwrap();
    let sealed = two.sealed.unwrap();
    home.vault.open_object("u2", "n1", &sealed).await.unwrap();
    for (uid, owner) in [("u1", "n1"), ("u2", "n2")] {
        let refused = home.vault.open_object(uid, owner, &sealed).await;
        assert!(matches!(refused, Err(HsmError::Refused(_))), "{uid} of {owner}: {refused:?}");
    }
    let gone = machine.hsm.objects().keys().next().cloned().unwrap();
    machine.hsm.objects().remove(&gone);
    let refusals = home.vault.refusals().of(km_core::vault::Kind::Object);
    for uid in ["u1", "u2"] {
        let (object, _) = home.objects.get(&sae("n1"), uid).await.unwrap();
        drop(home.objects.open(&object).await);
    }
    assert_eq!(home.vault.refusals().of(km_core::vault::Kind::Object), refusals + 1);
}
