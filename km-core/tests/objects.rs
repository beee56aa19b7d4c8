//! Managed objects over a real store and a token that really seals.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Life, Machine, SoftHsm, sae};
use km_core::{
    material::ClearBytes,
    objects::{
        MAX_TERMS, NewObject, Object, ObjectError, ObjectState, ObjectStep, Objects, Quota, Walk,
        WalkError,
    },
    provenance::{Origin, Provenance},
    records::{RecordError, Records},
    store::{Commit, Store, faulty::Fault},
    vault::Vault,
};
use std::{ops::Bound, sync::Arc};

struct Room {
    machine: Machine,
    objects: Objects,
}

async fn room() -> Room {
    let machine = Machine::new();
    let vault = Vault::new(machine.hsm.clone() as Arc<SoftHsm>);
    let key = vault.record_key(machine.disk.as_ref()).await.unwrap();
    let records = Records::new(Arc::new(Life::new(machine.disk.clone())), &key);
    Room { machine, objects: Objects::new(records, vault) }
}

fn new(uid: &str, owner: &str, terms: &[&str]) -> NewObject {
    NewObject {
        uid: uid.into(),
        owner: sae(owner),
        state: ObjectState::PreActive,
        provenance: Provenance::local(Origin::HsmRng),
        attributes: b"attributes".to_vec(),
        terms: terms.iter().map(|term| (*term).to_owned()).collect(),
    }
}

fn clear() -> ClearBytes {
    ClearBytes::from_vec(vec![0x5A; 32])
}

impl Room {
    async fn rows(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.machine.disk.range(prefix, Bound::Unbounded, 1000).await.unwrap();
        rows.into_iter().map(|row| (row.key, row.value)).collect()
    }
}

/// Through the objects of `n1`.
fn walk(terms: &[&str], page_size: usize) -> Walk {
    let terms = terms.iter().map(|&term| term.to_owned()).collect();
    Walk::of(sae("n1"), terms, page_size)
}

/// The next objects that a walk meets, at most `most`.
async fn met(walk: &mut Walk, room: &Room, most: usize) -> Vec<String> {
    let mut met = Vec::new();
    while met.len() < most {
        let Some(object) = walk.next(&room.objects).await.unwrap() else { break };
        met.push(object.uid);
    }
    met
}

#[tokio::test]
async fn what_was_created_is_read_and_opened_by_its_owner_alone() {
    let room = room().await;
    room.objects.create(new("u1", "n1", &[]), &clear()).await.unwrap();
    let (object, _) = room.objects.get(&sae("n1"), "u1").await.unwrap();
    assert_eq!(*room.objects.open(&object).await.unwrap(), clear());
    let other = room.objects.get(&sae("n2"), "u1").await;
    assert_eq!(other.unwrap_err(), ObjectError::NotFound("u1".into()));
    let again = room.objects.create(new("u1", "n1", &[]), &clear()).await;
    assert_eq!(again.unwrap_err(), ObjectError::Exists("u1".into()));
    assert_eq!(room.objects.get(&sae("n1"), "u1").await.unwrap().0, object);
}

#[tokio::test]
async fn several_owners_may_hold_objects_of_one_identifier() {
    let room = room().await;
    let first = room.objects.create(new("u1", "n1", &[]), &clear()).await.unwrap();
    let second = room.objects.create(new("u1", "n2", &[]), &clear()).await.unwrap();
    room.objects.create(new("u12", "n1", &[]), &clear()).await.unwrap();
    assert_eq!(room.objects.get(&sae("n1"), "u1").await.unwrap().0, first);
    assert_eq!(room.objects.get(&sae("n2"), "u1").await.unwrap().0, second);
    assert_eq!(room.objects.inspect("u1").await.unwrap(), [first, second]);
}

#[tokio::test]
async fn sealed_bytes_open_under_their_own_name_and_owner_only() {
    let room = room().await;
    let mut object = room.objects.create(new("u1", "n1", &[]), &clear()).await.unwrap();
    object.uid = "u2".into();
    assert!(matches!(room.objects.open(&object).await, Err(ObjectError::Hsm(_))));
    object.uid = "u1".into();
    object.owner = sae("n2");
    assert!(matches!(room.objects.open(&object).await, Err(ObjectError::Hsm(_))));
}

#[tokio::test]
async fn the_index_follows_every_change() {
    let room = room().await;
    let owner = sae("n1");
    room.objects.create(new("u1", "n1", &["name:a", "type:x"]), &clear()).await.unwrap();
    room.objects.create(new("u2", "n1", &["name:b", "type:x"]), &clear()).await.unwrap();
    room.objects.create(new("u3", "n2", &["name:a"]), &clear()).await.unwrap();
    let found = async |term: &str| room.objects.search(&owner, term, 10).await.unwrap();
    assert_eq!(found("name:a").await, ["u1"]);
    assert_eq!(found("type:x").await, ["u2", "u1"], "the newest first");
    assert_eq!(found("name").await, [""; 0], "a term is matched whole");
    let (old, version) = room.objects.get(&owner, "u1").await.unwrap();
    let mut changed = old.clone();
    changed.terms = vec!["name:c".into(), "type:x".into()];
    room.objects.update(&old, version, &changed).await.unwrap();
    assert_eq!(found("name:a").await, [""; 0]);
    assert_eq!(found("name:c").await, ["u1"]);
    assert_eq!(met(&mut walk(&["type:x"], 1), &room, 10).await, ["u2", "u1"], "page by page");
    assert_eq!(room.rows(b"index/n1").await.len(), 4);
}

/// Whatever happens to whichever object, wherever the walk is and however long its pages are.
#[tokio::test]
async fn a_walk_meets_each_object_once_while_others_change_them() {
    let room = room().await;
    let owner = sae("n1");
    let all = ["u6", "u5", "u4", "u3", "u2", "u1"];
    let destroy = async |uid: &str, gone: &str| {
        let change = |object: &mut Object| object.terms = vec![gone.to_owned()];
        room.objects.step(&owner, uid, ObjectStep::Destroy, change).await.unwrap();
    };
    let replace = async |uid: &str, live: &str| {
        let (old, version) = room.objects.get(&owner, uid).await.unwrap();
        let new = new(uid, "n1", &[live]);
        room.objects.replace(new, &clear(), (&old, version)).await.unwrap();
    };
    for (page_size, steps, one) in (1..=4)
        .flat_map(|page_size| (0..=6).map(move |steps| (page_size, steps)))
        .flat_map(|(page_size, steps)| (0..6).map(move |one| (page_size, steps, one)))
    {
        for is_destroyed in [true, false] {
            let round = format!("{page_size}/{steps}/{one}/{is_destroyed}");
            let [live, gone] = ["live", "gone"].map(|term| format!("{term}:{round}"));
            let uid = |name: &str| format!("{round}/{name}");
            for name in all.iter().rev() {
                room.objects.create(new(&uid(name), "n1", &[&live]), &clear()).await.unwrap();
            }
            let mut walk = walk(&[&live, &gone], page_size);
            let mut found = met(&mut walk, &room, steps).await;
            match is_destroyed {
                true => destroy(&uid(all[one]), &gone).await,
                false => replace(&uid(all[one]), &live).await,
            }
            room.objects.create(new(&uid("u7"), "n1", &[&live]), &clear()).await.unwrap();
            found.extend(met(&mut walk, &room, 10).await);
            // The new one is met where the walk had not begun.
            found.retain(|found| *found != uid("u7"));
            assert_eq!(found, all.map(uid));
        }
    }
}

#[tokio::test]
async fn what_replaces_a_destroyed_object_is_not_met_in_its_place() {
    let room = room().await;
    let owner = sae("n1");
    for uid in ["u1", "u2"] {
        room.objects.create(new(uid, "n1", &["live"]), &clear()).await.unwrap();
    }
    let change = |object: &mut Object| object.terms = vec!["gone".to_owned()];
    room.objects.step(&owner, "u1", ObjectStep::Destroy, change).await.unwrap();
    let mut under_way = walk(&["live", "gone"], 10);
    assert_eq!(met(&mut under_way, &room, 1).await, ["u2"]);
    // Of one millisecond the identifiers would decide.
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let (old, version) = room.objects.get(&owner, "u1").await.unwrap();
    room.objects.replace(new("u1", "n1", &["live"]), &clear(), (&old, version)).await.unwrap();
    assert_eq!(met(&mut under_way, &room, 10).await, [""; 0]);
    assert_eq!(met(&mut walk(&["live", "gone"], 10), &room, 10).await, ["u1", "u2"]);
}

/// The walk goes on behind it; a page that was not read is tried again.
#[tokio::test]
async fn an_object_that_cannot_be_read_ends_no_walk() {
    let room = room().await;
    for uid in ["u1", "u2", "u3"] {
        room.objects.create(new(uid, "n1", &["live"]), &clear()).await.unwrap();
    }
    let rot = Commit::new().put(b"object/u2\0n1".to_vec(), b"rot".to_vec());
    room.machine.disk.commit(rot).await.unwrap();
    let mut walk = walk(&["live"], 3);
    room.machine.disk.set_down(true);
    let refused = walk.next(&room.objects).await;
    assert!(matches!(refused, Err(WalkError::Page(_))), "{refused:?}");
    room.machine.disk.set_down(false);
    assert_eq!(met(&mut walk, &room, 1).await, ["u3"]);
    match walk.next(&room.objects).await {
        Err(WalkError::Object { uid, error: ObjectError::Record(_) }) => assert_eq!(uid, "u2"),
        other => panic!("{other:?}"),
    }
    assert_eq!(met(&mut walk, &room, 10).await, ["u1"]);
}

#[tokio::test]
async fn every_search_term_may_change_at_once() {
    let room = room().await;
    let terms = |kind: &str| (0..MAX_TERMS).map(|i| format!("{kind}:{i}")).collect::<Vec<_>>();
    let mut first = new("u1", "n1", &[]);
    first.terms = terms("a");
    room.objects.create(first, &clear()).await.unwrap();
    let (old, version) = room.objects.get(&sae("n1"), "u1").await.unwrap();
    let mut changed = old.clone();
    changed.terms = terms("b");
    room.objects.update(&old, version, &changed).await.unwrap();
    assert_eq!(room.objects.search(&sae("n1"), "b:7", 10).await.unwrap(), ["u1"]);
    changed.terms.push("one:more".into());
    let refused = room.objects.update(&old, version, &changed).await;
    assert!(matches!(refused, Err(ObjectError::TooLarge(_))));
}

#[tokio::test]
async fn of_two_changes_from_one_reading_one_wins() {
    let room = room().await;
    room.objects.create(new("u1", "n1", &[]), &clear()).await.unwrap();
    let (old, version) = room.objects.get(&sae("n1"), "u1").await.unwrap();
    let mut one = old.clone();
    one.attributes = b"one".to_vec();
    room.objects.update(&old, version, &one).await.unwrap();
    let mut two = old.clone();
    two.attributes = b"two".to_vec();
    two.terms = vec!["two:2".into()];
    let refused = room.objects.update(&old, version, &two).await;
    assert_eq!(refused.unwrap_err(), ObjectError::Conflict("u1".into()));
    assert_eq!(room.objects.get(&sae("n1"), "u1").await.unwrap().0, one);
    assert!(room.objects.search(&sae("n1"), "two:2", 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_destroyed_object_keeps_its_name_and_loses_its_bytes() {
    let room = room().await;
    let made = room.objects.create(new("u1", "n1", &["name:a"]), &clear()).await.unwrap();
    let sealed = postcard::to_allocvec(&made.sealed).unwrap();
    let owner = sae("n1");
    let holds = |rows: &[(Vec<u8>, Vec<u8>)]| {
        rows.iter().any(|(_, value)| value.windows(32).any(|part| part == &sealed[24..56]))
    };
    assert!(holds(&room.rows(b"object/").await), "the test looks for the wrong bytes");
    room.objects.step(&owner, "u1", ObjectStep::Activate, |_| {}).await.unwrap();
    let refused = room.objects.step(&owner, "u1", ObjectStep::Destroy, |_| {}).await;
    assert!(matches!(refused, Err(ObjectError::Step(_))));
    room.objects.step(&owner, "u1", ObjectStep::Deactivate, |_| {}).await.unwrap();
    let gone = room.objects.step(&owner, "u1", ObjectStep::Destroy, |_| {}).await.unwrap();
    assert_eq!(gone.state, ObjectState::Destroyed);
    assert!(matches!(room.objects.open(&gone).await, Err(ObjectError::Destroyed(_))));
    assert!(!holds(&room.rows(b"").await));
    assert_eq!(room.objects.search(&owner, "name:a", 10).await.unwrap(), ["u1"]);
}

#[tokio::test]
async fn an_unknown_outcome_is_said_and_never_taken_for_done() {
    let room = room().await;
    for (fault, there) in [(Fault::UnknownApplied, true), (Fault::UnknownDropped, false)] {
        let uid = format!("{fault:?}");
        room.machine.disk.inject([fault]);
        let answer = room.objects.create(new(&uid, "n1", &[]), &clear()).await;
        assert_eq!(answer.unwrap_err(), ObjectError::Unknown(uid.clone()));
        assert_eq!(room.objects.get(&sae("n1"), &uid).await.is_ok(), there);
    }
    room.machine.disk.inject([Fault::Full]);
    let full = room.objects.create(new("u9", "n1", &[]), &clear()).await;
    assert!(matches!(full, Err(ObjectError::Record(RecordError::Store(_)))));
}

/// A record's tag covers its key and its bytes, not its age: who can write the store can put an
/// old row of one object back. For pools the account notices that; for objects nothing does yet.
#[tokio::test]
async fn a_moved_or_changed_row_is_refused_but_an_old_one_put_back_is_not_noticed() {
    let room = room().await;
    let owner = sae("n1");
    for uid in ["u1", "u2"] {
        room.objects.create(new(uid, "n1", &[]), &clear()).await.unwrap();
    }
    let rows = room.rows(b"object/").await;
    let write = async |key: &[u8], value: &[u8]| {
        let commit = Commit::new().put(key, value);
        room.machine.disk.commit(commit).await.unwrap();
    };
    let damaged = |answer: Result<_, ObjectError>| {
        let damaged = matches!(answer, Err(ObjectError::Record(RecordError::Damaged { .. })));
        assert!(damaged);
    };
    write(&rows[0].0, &rows[1].1).await;
    damaged(room.objects.get(&owner, "u1").await);
    let mut flipped = rows[0].1.clone();
    flipped[5] ^= 0x10;
    write(&rows[0].0, &flipped).await;
    damaged(room.objects.get(&owner, "u1").await);
    write(&rows[0].0, &rows[0].1).await;
    room.objects.step(&owner, "u1", ObjectStep::Destroy, |_| {}).await.unwrap();
    write(&rows[0].0, &rows[0].1).await;
    let (revived, _) = room.objects.get(&owner, "u1").await.unwrap();
    assert_eq!(revived.state, ObjectState::PreActive);
}

#[tokio::test]
async fn quotas_hold_for_what_was_stored_before_and_for_many_at_once() {
    let room = room().await;
    for number in 0..5 {
        let uid = format!("u{number}");
        room.objects.create(new(&uid, "n1", &["type:2", "name:x"]), &clear()).await.unwrap();
    }
    let gone = room.objects.step(&sae("n1"), "u0", ObjectStep::Destroy, |_| {}).await;
    assert!(gone.unwrap().state.is_destroyed());
    // As after a start: nothing is counted yet.
    let quota = Quota { objects: 8, bytes: u64::MAX };
    let objects = room.objects.clone().with_quotas([(sae("n1"), quota)].into());
    let many = (10..30).map(|number| {
        let objects = objects.clone();
        tokio::spawn(async move {
            objects.create(new(&format!("u{number}"), "n1", &["type:2"]), &clear()).await
        })
    });
    let mut made = 0;
    for one in many.collect::<Vec<_>>() {
        match one.await.unwrap() {
            Ok(_) => made += 1,
            Err(ObjectError::Quota { objects: 8, .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(made, 4, "four were there");
    objects.create(new("u99", "n2", &["type:2"]), &clear()).await.unwrap();
    let one = new("u98", "n1", &["type:2"]);
    let full = objects.places(&one, 32, 1).await.map(drop);
    assert!(matches!(full, Err(ObjectError::Quota { .. })));
    objects.step(&sae("n1"), "u1", ObjectStep::Destroy, |_| {}).await.unwrap();
    let places = objects.places(&one, 32, 1).await.unwrap();
    let taken = objects.create(new("u97", "n1", &["type:2"]), &clear()).await;
    assert!(matches!(taken, Err(ObjectError::Quota { .. })), "it is taken ahead");
    let place = places.into_iter().next().unwrap();
    objects.create_in(place, one, &clear()).await.unwrap();
}

#[tokio::test]
async fn what_is_there_is_counted_before_anybody_asks() {
    let room = room().await;
    for uid in ["u1", "u2"] {
        room.objects.create(new(uid, "n1", &["type:2"]), &clear()).await.unwrap();
    }
    let quota = Quota { objects: 4, bytes: u64::MAX };
    let objects = room.objects.clone().with_quotas([(sae("n1"), quota)].into());
    objects.count_ahead().await;
    // Made by another KM, and not counted until the next count: so that was not begun now.
    room.objects.create(new("u3", "n1", &["type:2"]), &clear()).await.unwrap();
    let one = new("u4", "n1", &["type:2"]);
    assert_eq!(objects.places(&one, 32, 2).await.unwrap().len(), 2);
}

#[tokio::test]
async fn whoever_is_over_the_quota_can_revoke_and_destroy_and_what_is_left_counts() {
    let room = room().await;
    for uid in ["u1", "u2"] {
        room.objects.create(new(uid, "n1", &["type:2"]), &clear()).await.unwrap();
    }
    let quota = Quota { objects: 1, bytes: 600 };
    let objects = room.objects.clone().with_quotas([(sae("n1"), quota)].into());
    let more = |object: &mut Object| object.attributes.extend([7; 300]);
    let owner = sae("n1");
    let revoked = objects.step(&owner, "u1", ObjectStep::Compromise, more).await.unwrap();
    assert_eq!(revoked.state, ObjectState::Compromised);
    assert!(
        objects.step(&owner, "u1", ObjectStep::Destroy, more).await.unwrap().state.is_destroyed()
    );
    // Without objects there is still no room for another: two records are left.
    objects.step(&owner, "u2", ObjectStep::Destroy, more).await.unwrap();
    let full = objects.create(new("u3", "n1", &["type:2"]), &clear()).await;
    assert!(matches!(full, Err(ObjectError::Quota { .. })));
}
