//! The count that tells the newest copy of the store, through crashes between store and token.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{NORTH, Pair, SOUTH, hsm::SoftHsm, ids_of, sae, single_keys};
use km_core::{
    anchor::{Anchor, AnchorError},
    ids::ClusterId,
    material::ClearBytes,
    records::Records,
    store::{Commit, Outcome, Record, SqliteStore, Store},
};

fn records(store: &Arc<SqliteStore>) -> Records {
    Records::new(store.clone(), &ClearBytes::from_vec(vec![7; 32]))
}

fn here() -> ClusterId {
    ClusterId::parse("north").unwrap()
}

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
        let anchor = Anchor::open(self.hsm.clone(), records(&self.store), &here(), is_new).await?;
        anchor.advance().await?;
        Ok((anchor.store(), anchor.token()))
    }

    async fn copy(&self) -> Option<Record> {
        self.store.get(b"meta/generation").await.unwrap()
    }

    async fn put_back(&self, copy: Option<Record>) {
        let commit = match copy {
            Some(record) => Commit::new().put(record.key, record.value),
            None => Commit::new().delete(b"meta/generation".to_vec()),
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
    let anchor =
        Anchor::open(room.hsm.clone(), records(&room.store), &here(), false).await.unwrap();
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
    let anchor =
        Anchor::open(room.hsm.clone(), records(&room.store), &here(), false).await.unwrap();
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
    let anchor = Anchor::read(room.hsm.clone(), records(&room.store), &here()).await.unwrap();
    anchor.surpass().await.unwrap();
    anchor.follow().await.unwrap();
    assert_eq!(room.start(false).await.unwrap(), (5, 5));
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
    let burned = pool.burn_all().await;
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
