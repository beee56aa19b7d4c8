//! Blocks sealed one by one, and blocks kept inside the token.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    ops::Bound,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use common::{
    FORMS, MOST_OBJECTS, Machine, NORTH, Pair, SOUTH, block, bytes_of, cluster, config, ids_of,
    random, sae, single_keys,
};
use km_core::{
    block::SealedBlock,
    cabinet::Cabinet,
    epoch::EpochPolicy,
    hsm::HsmError,
    objects::Objects,
    payload::Storage,
    pool::{Pool, PoolConfig, PoolError},
    store::{Commit, SqliteStore, Store, faulty::FaultyStore},
};

#[tokio::test]
async fn every_form_gives_the_same_keys_and_keeps_them_over_a_restart() {
    for storage in FORMS {
        let mut pair = Pair::kept_in(storage).await;
        let bits = random(1000);
        pair.admit(NORTH, &bits).await;
        pair.crash(NORTH).await;
        pair.crash(SOUTH).await;
        // Keys of 20 bytes lie across the slices of 32.
        let mut run = pair.north().pool.lease(&sae("n1"), &[sae("s1")], 20, 7).await.unwrap();
        for place in 0..7 {
            let key = run.take().unwrap();
            assert_eq!(bytes_of(&key), bits[20 * place..20 * place + 20], "{storage:?}");
            let got = pair.south().supply.collect(&sae("s1"), None, &[key.id]).await.unwrap();
            assert_eq!(bytes_of(&got[0]), bytes_of(&key));
        }
        pair.north().pool.end_run(run);
        pair.assert_settled_and_balanced().await;
        for machine in &pair.machines {
            let rows = machine.disk.range(b"", Bound::Unbounded, 1000).await.unwrap();
            let clear = |row: &[u8]| row.windows(16).any(|part| part == &bits[500..516]);
            assert!(!rows.iter().any(|row| clear(&row.value)), "{storage:?}");
        }
    }
}

#[tokio::test]
async fn a_key_sealed_by_itself_is_opened_without_its_neighbours() {
    let mut pair = Pair::kept_in(Storage::Each(32)).await;
    pair.admit_random(NORTH, 4096).await;
    let opened = |pair: &Pair, at: usize| pair.machines[at].hsm.opened.load(Relaxed);
    let before = [opened(&pair, NORTH), opened(&pair, SOUTH)];
    let slave = [sae("s1")];
    for _ in 0..6 {
        // Asked for again and again, a pair gets no run ahead.
        let keys = pair.north().supply.issue(&sae("n1"), &slave, 256, 1).await.unwrap();
        pair.south().supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    }
    assert_eq!(opened(&pair, NORTH) - before[NORTH], 6 * 32);
    assert_eq!(opened(&pair, SOUTH) - before[SOUTH], 6 * 32);
}

/// Under a good record tag: who has the record key still cannot pass one slice off as another.
#[tokio::test]
async fn slices_of_a_block_cannot_change_places() {
    let mut pair = Pair::kept_in(Storage::Each(32)).await;
    pair.admit_random(NORTH, 64).await;
    pair.admit_random(NORTH, 96).await;
    let disk = &pair.machines[NORTH].disk;
    let rows = disk.range(b"block/", Bound::Unbounded, 2).await.unwrap();
    let records = &pair.north().records;
    let bytes = |row: usize| {
        let block: SealedBlock = records.decode(&rows[row].key, &rows[row].value).unwrap();
        postcard::to_allocvec(&block).unwrap()
    };
    let (two, mut three) = (bytes(0), bytes(1));
    // One slice is what the longer block has more.
    let slice = three.len() - two.len();
    let at = three.len() - slice;
    let (rest, last) = three.split_at_mut(at);
    rest[at - slice..].swap_with_slice(last);
    let swapped: SealedBlock = postcard::from_bytes(&three).unwrap();
    let refused = pair.north().vault.open_part(&swapped, 32..64).await;
    assert!(matches!(refused, Err(HsmError::Refused(_))), "{refused:?}");
    assert!(pair.north().vault.open_part(&swapped, 0..32).await.is_ok());
}

#[tokio::test]
async fn an_object_whose_record_was_not_stored_is_removed_at_the_next_start() {
    for commits in 0..3 {
        let mut pair = Pair::kept_in(Storage::Token).await;
        pair.admit_random(NORTH, 256).await;
        pair.ends[NORTH].life.die_after(commits);
        let number = pair.fresh_number();
        let end = &pair.ends[NORTH].pool;
        let admitted = end.admit(block(number, NORTH, &random(256), true));
        let waited = tokio::time::timeout(std::time::Duration::from_millis(300), admitted).await;
        assert!(waited.is_err() || commits > 0, "it was stored by a store that is dead");
        assert_eq!(pair.machines[NORTH].hsm.objects().len(), 2);
        pair.crash(NORTH).await;
        let blocks = pair.north().pool.view().blocks;
        assert_eq!(pair.machines[NORTH].hsm.objects().len(), blocks);
        assert_eq!(blocks, if commits == 0 { 1 } else { 2 });
    }
}

#[tokio::test]
async fn an_object_whose_record_is_erased_goes_after_it_also_over_a_crash() {
    let mut pair = Pair::kept_in(Storage::Token).await;
    pair.admit_random(NORTH, 32).await;
    let keys = single_keys(pair.north(), 1).await.unwrap();
    pair.south().supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    for at in [NORTH, SOUTH] {
        pair.ends[at].pool.settled().await.unwrap();
        assert_eq!(pair.ends[at].pool.view().blocks, 0);
        assert_eq!(pair.machines[at].hsm.objects().len(), 1, "after the record, not before");
    }
    pair.north().pool.destroy_erased().await;
    pair.crash(SOUTH).await;
    pair.assert_nothing_stray_in_the_tokens();
}

/// A copy of the store knows nothing of the blocks that came after it.
/// Of several KMs, one that leads again opens its pools again; what others did meanwhile a sweep sees.
#[tokio::test]
async fn what_is_kept_of_a_pool_counts_once_however_often_it_is_opened() {
    let mut pair = Pair::kept_in(Storage::Token).await;
    for _ in 0..3 {
        pair.admit_random(NORTH, 64).await;
    }
    pair.north().life.kill().await;
    let machine = &pair.machines[NORTH];
    let unlocked = machine.unlock(machine.disk.clone(), EpochPolicy::default()).await;
    let (records, vault, _) = unlocked.unwrap();
    let cabinet = Arc::new(Cabinet::new(cluster("here"), MOST_OBJECTS));
    let vault = vault.with_cabinet(cabinet.clone());
    for _ in 0..2 {
        let config = PoolConfig { storage: Storage::Token, ..config(NORTH, pair.key_ttl) };
        let pool = Pool::open(config, records.clone(), vault.clone()).await.unwrap();
        assert_eq!((pool.view().blocks, cabinet.view().held), (3, 3));
    }
    let gone = machine.hsm.objects().keys().next().cloned().unwrap();
    machine.hsm.objects().remove(&gone);
    Objects::new(records, vault).sweep(&Default::default()).await.unwrap();
    assert_eq!(cabinet.view().held, 2);
}

#[tokio::test]
async fn a_copy_that_is_opened_and_burned_leaves_the_objects_of_the_store_in_place() {
    let mut pair = Pair::kept_in(Storage::Token).await;
    pair.admit_random(NORTH, 320).await;
    pair.north().pool.settled().await.unwrap();
    let hsm = pair.machines[NORTH].hsm.clone();
    let (dir, mut copy) = (common::temp_dir(), Machine::with(hsm.clone()));
    let file = dir.path().join("copy");
    pair.machines[NORTH].disk.snapshot(&file).await.unwrap();
    pair.admit_random(NORTH, 320).await;
    copy.disk = Arc::new(FaultyStore::new(SqliteStore::open(&file).unwrap()));
    let unlocked = copy.unlock(copy.disk.clone(), EpochPolicy::default()).await;
    let (records, vault, _epochs) = unlocked.unwrap();
    let config = PoolConfig { storage: Storage::Token, ..config(NORTH, pair.key_ttl) };
    let pool = Pool::open_copy(config, records, vault).await.unwrap();
    assert_eq!(pool.burn_all().await.unwrap(), 320 * 8);
    assert_eq!(
        hsm.objects().len(),
        2,
        "of the block in both, and of the one in the store in place"
    );
    drop(pool);
    pair.crash(NORTH).await;
    assert_eq!(pair.north().pool.view().own_bits, 640 * 8);
    pair.assert_settled_and_balanced().await;
}

#[tokio::test]
async fn a_block_whose_object_is_gone_is_held_and_others_serve() {
    let mut pair = Pair::kept_in(Storage::Token).await;
    pair.admit_random(NORTH, 320).await;
    pair.admit_random(NORTH, 320).await;
    let lost = pair.machines[NORTH].hsm.objects().keys().next().unwrap().clone();
    pair.machines[NORTH].hsm.objects().remove(&lost);
    pair.crash(NORTH).await;
    let keys = single_keys(pair.north(), 1).await.unwrap();
    assert_eq!(keys[0].id.slice().block.number, 2);
    // Gone while the KM runs: no key, and the block is held then.
    pair.machines[NORTH].hsm.objects().clear();
    let refused = single_keys(pair.north(), 1).await;
    assert!(matches!(refused, Err(PoolError::Block(2, _))), "{refused:?}");
}

/// Who has the record key still cannot name another block's object.
#[tokio::test]
async fn a_record_cannot_name_the_object_of_another_block() {
    let mut pair = Pair::kept_in(Storage::Token).await;
    pair.admit_random(NORTH, 320).await;
    pair.admit_random(NORTH, 320).await;
    let disk = &pair.machines[NORTH].disk;
    let rows = disk.range(b"block/", Bound::Unbounded, 2).await.unwrap();
    let records = &pair.north().records;
    let names: Vec<String> = pair.machines[NORTH].hsm.objects().keys().cloned().collect();
    let block: SealedBlock = records.decode(&rows[0].key, &rows[0].value).unwrap();
    let mut bytes = postcard::to_allocvec(&block).unwrap();
    let at = bytes.windows(names[0].len()).position(|part| part == names[0].as_bytes()).unwrap();
    bytes[at..at + names[0].len()].copy_from_slice(names[1].as_bytes());
    let forged: SealedBlock = postcard::from_bytes(&bytes).unwrap();
    let value = records.encode(&rows[0].key, &forged);
    disk.commit(Commit::new().put(rows[0].key.clone(), value)).await.unwrap();
    let refused = single_keys(pair.north(), 1).await;
    assert!(matches!(refused, Err(PoolError::Block(1, _))), "{refused:?}");
}

#[tokio::test]
async fn a_full_token_says_so_loses_nothing_and_takes_more_when_there_is_room() {
    let mut pair = Pair::kept_in(Storage::Token).await;
    for _ in 0..MOST_OBJECTS {
        pair.admit_random(NORTH, 32).await;
    }
    assert!(!pair.north().pool.has_room());
    let number = pair.fresh_number();
    let full = pair.north().pool.admit(block(number, NORTH, &random(32), true)).await;
    assert!(matches!(full, Err(PoolError::Hsm(HsmError::Full(_)))), "{full:?}");
    pair.assert_settled_and_balanced().await;
    let keys = single_keys(pair.north(), 1).await.unwrap();
    pair.south().supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    pair.assert_settled_and_balanced().await;
    assert!(pair.north().pool.has_room());
    pair.admit_random(NORTH, 32).await;
    pair.assert_settled_and_balanced().await;
}
