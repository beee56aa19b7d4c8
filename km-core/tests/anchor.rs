//! The count that tells the newest copy of the store, through crashes between store and token.

#![allow(clippy::unwrap_used)]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Machine, NORTH, Pair, SOUTH, config, hsm::SoftHsm, ids_of, sae, single_keys};
use km_core::{
    anchor::{self, Anchor, AnchorError},
    epoch::EpochPolicy,
    journal::Fence,
    material::ClearBytes,
    pool::{Pool, PoolConfig},
    records::Records,
    store::{
        Commit, Outcome, Record, SqliteStore, Store,
        faulty::{Fault, FaultyStore},
    },
    vault::Vault,
};

fn records(store: &Arc<SqliteStore>) -> Records {
    Records::new(store.clone(), &ClearBytes::from_vec(vec![7; 32]))
}

const HERE: &str = "north";

struct Room {
    _folder: tempfile::TempDir,
    hsm: Arc<SoftHsm>,
    store: Arc<SqliteStore>,
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path().join("store.qkm")).unwrap());
        Self { _folder: folder, hsm: SoftHsm::new(), store }
    }

    /// As a start does it; both counts.
    async fn start(&self, is_new: bool) -> Result<(u64, u64), AnchorError> {
        let anchor = Anchor::open(self.hsm.clone(), records(&self.store), HERE, is_new).await?;
        anchor.advance().await?;
        Ok((anchor.store(), anchor.token()))
    }

    async fn copy(&self) -> Option<Record> {
        self.store.get(b"meta/generation/north").await.unwrap()
    }

    async fn put_back(&self, copy: Option<Record>) {
        let commit = match copy {
            Some(record) => Commit::new().put(record.key, record.value),
            None => Commit::new().delete(b"meta/generation/north".to_vec()),
        };
        assert!(matches!(self.store.commit(commit).await, Ok(Outcome::Committed(_))));
    }
}

#[tokio::test]
async fn the_count_grows_and_the_token_keeps_the_last_only() {
    let room = Room::new();
    for number in 1..4 {
        assert_eq!(room.start(number == 1).await.unwrap(), (number, number));
        let kept: Vec<String> = room.hsm.objects().keys().cloned().collect();
        assert_eq!(kept, [format!("generation-north-{number}")]);
    }
}

#[tokio::test]
async fn an_older_copy_is_refused_and_changes_nothing() {
    let room = Room::new();
    room.start(true).await.unwrap();
    let copy = room.copy().await;
    room.start(false).await.unwrap();
    let newest = room.copy().await;
    for older in [copy, None] {
        room.put_back(older).await;
        let refused = room.start(false).await.unwrap_err();
        assert!(matches!(refused, AnchorError::Older { token: 2, .. }), "{refused}");
    }
    room.put_back(newest).await;
    assert_eq!(room.start(false).await.unwrap(), (3, 3));
}

#[tokio::test]
async fn a_crash_between_store_and_token_locks_nobody_out() {
    let room = Room::new();
    room.start(true).await.unwrap();
    let before = room.copy().await;
    // The store has the new count, the token never heard of it.
    let anchor = Anchor::open(room.hsm.clone(), records(&room.store), HERE, false).await.unwrap();
    anchor.surpass().await.unwrap();
    drop(anchor);
    assert_eq!(room.start(false).await.unwrap(), (2, 2), "the token follows");
    room.put_back(before).await;
    assert!(matches!(room.start(false).await, Err(AnchorError::Older { .. })));
}

#[tokio::test]
async fn a_token_that_is_away_is_told_later_and_the_count_waits_for_it() {
    let room = Room::new();
    room.start(true).await.unwrap();
    let anchor = Anchor::open(room.hsm.clone(), records(&room.store), HERE, false).await.unwrap();
    // What stores the new object and fails to destroy the old one.
    room.hsm.keeps_all.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(anchor.advance().await.is_err());
    room.hsm.keeps_all.store(false, std::sync::atomic::Ordering::Relaxed);
    drop(anchor);
    assert_eq!(room.start(false).await.unwrap(), (3, 3));
    assert_eq!(room.hsm.objects().len(), 1, "what was left is gone");
}

#[tokio::test]
async fn a_token_that_was_set_back_or_replaced_is_noticed() {
    let room = Room::new();
    for number in 1..4 {
        room.start(number == 1).await.unwrap();
    }
    room.hsm.objects().clear();
    let refused = room.start(false).await.unwrap_err();
    assert!(matches!(refused, AnchorError::Unknown { store: 3, token: None }), "{refused}");
    room.hsm.objects().insert("generation-north-1".into(), vec![]);
    let refused = room.start(false).await.unwrap_err();
    assert!(matches!(refused, AnchorError::Unknown { store: 3, token: Some(1) }), "{refused}");
    // As a restore does it.
    let anchor = Anchor::read(room.hsm.clone(), records(&room.store), HERE).await.unwrap();
    anchor.surpass().await.unwrap();
    anchor.follow().await.unwrap();
    assert_eq!(room.start(false).await.unwrap(), (5, 5));
}

/// The first start is killed after the store's key or its epochs were written, and before the count. The
/// token has seen another store of this cluster.
#[tokio::test]
async fn a_first_start_that_was_killed_is_no_older_copy() {
    let machine = Machine::new();
    for number in 1..4 {
        machine.hsm.objects().insert(format!("generation-north-{number}"), vec![]);
    }
    assert!(anchor::is_new(machine.disk.as_ref()).await.unwrap());
    let key = Vault::new(machine.hsm.clone()).record_key(machine.disk.as_ref()).await.unwrap();
    assert!(anchor::is_new(machine.disk.as_ref()).await.unwrap(), "only its key is there");
    machine.unlock(machine.disk.clone(), EpochPolicy::default()).await.unwrap();
    assert!(anchor::is_new(machine.disk.as_ref()).await.unwrap(), "only its epochs are there");
    let records = Records::new(machine.disk.clone(), &key);
    let anchor = Anchor::open(machine.hsm.clone(), records, HERE, true).await.unwrap();
    anchor.advance().await.unwrap();
    assert!(!anchor::is_new(machine.disk.as_ref()).await.unwrap());
    // Without its count it is not new either, once anything else is in it.
    let commit = Commit::new().delete(b"meta/generation/north".to_vec()).put(b"object/x", b"x");
    assert!(matches!(machine.disk.commit(commit).await, Ok(Outcome::Committed(_))));
    assert!(!anchor::is_new(machine.disk.as_ref()).await.unwrap());
}

#[tokio::test]
async fn an_empty_store_is_new_and_what_was_there_before_is_old() {
    let room = Room::new();
    room.start(true).await.unwrap();
    room.start(false).await.unwrap();
    let old = room.copy().await;
    let other = Room { hsm: room.hsm.clone(), ..Room::new() };
    assert_eq!(other.start(true).await.unwrap(), (3, 3));
    room.put_back(old).await;
    assert!(matches!(room.start(false).await, Err(AnchorError::Older { store: 2, token: 3 })));
}

/// Several KMs share a store, and their token too: each has a count of its own.
#[tokio::test]
async fn km_that_share_a_store_count_for_themselves() {
    let room = Room::new();
    let open = async |keeper: &str, is_new| {
        Anchor::open(room.hsm.clone(), records(&room.store), keeper, is_new).await
    };
    let one = open("north.one", true).await.unwrap();
    one.advance().await.unwrap();
    let two = open("north.two", false).await.unwrap();
    two.advance().await.unwrap();
    let copy = room.store.get(b"meta/generation/north.one").await.unwrap().unwrap();
    for _ in 0..5 {
        one.advance().await.unwrap();
    }
    drop(two);
    let two = open("north.two", false).await.expect("it was away while the other ran");
    two.advance().await.unwrap();
    assert_eq!((one.token(), two.token()), (6, 2));
    one.check().await.unwrap();

    // An older copy: seen by one that runs, and by one that starts.
    let whole = room.store.get(b"meta/generation/north.one").await.unwrap().unwrap();
    room.put_back(Some(copy)).await;
    let told = one.check().await.unwrap_err();
    assert!(matches!(told, AnchorError::Older { store: 1, token: 6 }), "{told}");
    assert!(one.advance().await.is_err(), "it does not make the copy the newest");
    assert!(matches!(open("north.one", false).await, Err(AnchorError::Older { .. })));
    two.check().await.expect("the other's count is as it was");

    // A restore by the other one lets it in, once.
    two.pardon_others().await.unwrap();
    two.surpass().await.unwrap();
    two.follow().await.unwrap();
    let copy = room.store.get(b"meta/generation/north.one").await.unwrap();
    let one = open("north.one", false).await.unwrap();
    one.advance().await.unwrap();
    assert_eq!((one.store(), one.token()), (7, 7));
    room.put_back(Some(whole)).await;
    assert!(matches!(open("north.one", false).await, Err(AnchorError::Older { .. })));
    room.put_back(copy).await;
    open("north.one", false).await.expect("the copy of the restored store says so");
}

/// A snapshot of etcd from before the move is put back: the KMs other than the one that moved it refuse too.
#[tokio::test]
async fn a_store_that_moved_away_is_old_for_all_who_count_in_its_token() {
    let (room, elsewhere) = (Room::new(), SoftHsm::new());
    let open = async |hsm: &Arc<SoftHsm>, keeper: &str, is_new| {
        Anchor::open(hsm.clone(), records(&room.store), keeper, is_new).await
    };
    let others = [(&room.hsm, "north.two"), (&elsewhere, "north.three")];
    open(&room.hsm, "north.one", true).await.unwrap().advance().await.unwrap();
    for (hsm, keeper) in others {
        open(hsm, keeper, false).await.unwrap().advance().await.unwrap();
    }
    let moves = Anchor::read(room.hsm.clone(), records(&room.store), "north.one").await.unwrap();
    moves.condemn_all().await.unwrap();
    for keeper in ["north.one", "north.two"] {
        let refused = open(&room.hsm, keeper, false).await;
        assert!(matches!(refused, Err(AnchorError::Older { store: 1, token: 2 })), "{keeper}");
    }
    assert!(!room.hsm.objects().keys().any(|name| name.contains("north.three")));
    open(&elsewhere, "north.three", false).await.expect("its own token was not told");

    // What was moved comes back to them as to all others of a cluster.
    let home = Anchor::read(room.hsm.clone(), records(&room.store), "north").await.unwrap();
    home.pardon_others().await.unwrap();
    open(&room.hsm, "north.two", false).await.unwrap().advance().await.unwrap();
}

#[tokio::test]
async fn a_store_known_to_be_old_is_refused_at_the_next_start() {
    let room = Room::new();
    room.start(true).await.unwrap();
    let running = Anchor::open(room.hsm.clone(), records(&room.store), HERE, false).await.unwrap();
    running.condemn().await.unwrap();
    assert!(matches!(room.start(false).await, Err(AnchorError::Older { store: 1, token: 2 })));
}

#[tokio::test]
async fn a_count_whose_writing_was_in_doubt_goes_on() {
    let room = Room::new();
    let store = Arc::new(FaultyStore::new(
        SqliteStore::open(room._folder.path().join("other.qkm")).unwrap(),
    ));
    let records = Records::new(store.clone(), &ClearBytes::from_vec(vec![7; 32]));
    let anchor = Anchor::open(room.hsm.clone(), records, HERE, true).await.unwrap();
    for (number, fault) in [Fault::UnknownApplied, Fault::UnknownDropped].into_iter().enumerate() {
        store.inject([fault]);
        anchor.advance().await.unwrap_err();
        anchor.check().await.unwrap();
        anchor.advance().await.unwrap();
        assert_eq!((anchor.store(), anchor.token()), (number as u64 + 1, number as u64 + 1));
    }
}

/// Everything that may be stored is burned, and the accounts balance: blocks of both ends, runs that
/// wait to be collected.
#[tokio::test]
async fn a_burned_pool_gives_no_key_out_and_balances() {
    let mut pair = Pair::new().await;
    for _ in 0..2 {
        pair.admit_random(NORTH, 4096).await;
        pair.admit_random(SOUTH, 4096).await;
    }
    let keys = single_keys(pair.north(), 5).await.unwrap();
    let pool = pair.south().pool.clone();
    assert!(pool.view().stored_bits > 0 && pool.view().collecting > 0);
    let before = pool.view();
    let burned = pool.burn_all().await.unwrap();
    let after = pool.view();
    assert_eq!((after.stored_bits, after.blocks, after.collecting), (0, 0, 0));
    assert_eq!(burned, before.stored_bits);
    assert!(after.balanced);
    let gone = pair.south().supply.collect(&sae("s1"), None, &ids_of(&keys)).await;
    assert!(gone.is_err(), "{gone:?}");
    assert!(single_keys(pair.south(), 1).await.is_err(), "nothing is left to issue");
    pair.crash(SOUTH).await;
    let view = pair.south().pool.view();
    assert!(view.balanced && view.stored_bits == 0, "{view:?}");
}

/// Somebody else took the lead meanwhile: it is said, and waited for no longer.
#[tokio::test]
async fn a_pool_whose_lead_is_lost_says_that_it_is_not_burned() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 4096).await;
    pair.north().pool.settled().await.unwrap();
    let (dir, mut copy) = (common::temp_dir(), Machine::with(pair.machines[NORTH].hsm.clone()));
    let file = dir.path().join("copy");
    pair.machines[NORTH].disk.snapshot(&file).await.unwrap();
    copy.disk = Arc::new(FaultyStore::new(SqliteStore::open(&file).unwrap()));
    let lead = |name: &str| copy.disk.commit(Commit::new().put("lead", name));
    let Ok(Outcome::Committed(version)) = lead("restore").await else { panic!("no lead") };
    let unlocked = copy.unlock(copy.disk.clone(), EpochPolicy::default()).await;
    let (records, vault, _epochs) = unlocked.unwrap();
    let fence = Some(Fence { key: b"lead".to_vec(), version });
    let config = PoolConfig { fence, ..config(NORTH, pair.key_ttl) };
    let pool = Pool::open_copy(config, records, vault).await.unwrap();
    assert!(matches!(lead("another").await, Ok(Outcome::Committed(_))));
    let burned = tokio::time::timeout(Duration::from_secs(20), pool.burn_all()).await;
    let refused = burned.expect("it ends").unwrap_err();
    assert!(refused.to_string().contains("took the lead"), "{refused}");
}
