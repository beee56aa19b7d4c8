//! A stage over a store: it reads as if its changes were there, nobody else sees them before they
//! are published, and they are published all or not at all.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use km_core::store::{Commit, MAX_OPS, Outcome, SqliteStore, Staged, Store, StoreError};
use proptest::prelude::*;

fn store() -> (tempfile::TempDir, Arc<dyn Store>) {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path().join("store.db")).unwrap();
    (dir, Arc::new(store))
}

async fn all(store: &dyn Store, page: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut after = Bound::Unbounded;
    loop {
        let records = store.range(b"k", after, page).await.unwrap();
        let full = records.len() == page;
        found.extend(records.iter().map(|r| (r.key.clone(), r.value.clone())));
        match records.last() {
            Some(last) if full => after = Bound::Excluded(last.key.clone()),
            _ => return found,
        }
    }
}

fn key(number: u8) -> Vec<u8> {
    vec![b'k', number]
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..12, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        (0u8..12).prop_map(Step::Delete),
    ]
}

fn apply(step: &Step, model: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Commit {
    match step {
        Step::Put(number, value) => {
            model.insert(key(*number), vec![*value]);
            Commit::new().put(key(*number), vec![*value])
        }
        Step::Delete(number) => {
            model.remove(&key(*number));
            Commit::new().delete(key(*number))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_stage_reads_as_a_store_does_and_hides_until_published(
        before in proptest::collection::vec(step(), 0..12),
        staged in proptest::collection::vec(step(), 0..12),
        page in 1usize..5,
        publish in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_dir, below) = store();
            let mut model = BTreeMap::new();
            for step in &before {
                below.commit(apply(step, &mut model)).await.unwrap();
            }
            let untouched: Vec<_> = model.clone().into_iter().collect();
            let stage = Staged::over(below.clone());
            for step in &staged {
                stage.commit(apply(step, &mut model)).await.unwrap();
            }
            let expected: Vec<_> = model.into_iter().collect();
            assert_eq!(all(&stage, page).await, expected);
            for number in 0..12 {
                let found = stage.get(&key(number)).await.unwrap().map(|r| (r.key, r.value));
                assert_eq!(found.as_ref(), expected.iter().find(|(k, _)| *k == key(number)));
            }
            assert_eq!(all(below.as_ref(), 100).await, untouched);
            if publish {
                assert!(matches!(stage.publish().await, Ok(Outcome::Committed(_))));
                assert_eq!(all(below.as_ref(), 100).await, expected);
            }
        });
    }
}

#[tokio::test]
async fn what_a_stage_rests_on_must_still_hold_when_it_is_published() {
    let (_dir, below) = store();
    below.commit(Commit::new().put(key(1), b"old")).await.unwrap();
    let read = below.get(&key(1)).await.unwrap().unwrap();

    let stage = Staged::over(below.clone());
    let change = Commit::new().unchanged(key(1), read.version).put(key(1), b"mine");
    assert!(matches!(stage.commit(change).await, Ok(Outcome::Committed(_))));
    let new = Commit::new().absent(key(2)).put(key(2), b"mine");
    assert!(matches!(stage.commit(new.clone()).await, Ok(Outcome::Committed(_))));
    assert_eq!(stage.commit(new).await, Ok(Outcome::Conflict), "the stage has it by now");
    let mine = stage.get(&key(1)).await.unwrap().unwrap();
    let again = Commit::new().unchanged(key(1), mine.version).put(key(1), b"mine too");
    assert!(matches!(stage.commit(again).await, Ok(Outcome::Committed(_))));

    below.commit(Commit::new().put(key(1), b"theirs")).await.unwrap();
    assert_eq!(stage.publish().await, Ok(Outcome::Conflict));
    assert_eq!(all(below.as_ref(), 10).await, [(key(1), b"theirs".to_vec())], "nothing of it");
}

#[tokio::test]
async fn a_stage_holds_no_more_than_one_commit_does() {
    let (_dir, below) = store();
    let stage = Staged::over(below.clone());
    for number in 0..MAX_OPS {
        let number = u8::try_from(number).unwrap();
        stage.commit(Commit::new().put(key(number), b"x")).await.unwrap();
    }
    let more = stage.commit(Commit::new().put(b"l", b"x")).await;
    assert!(matches!(more, Err(StoreError::TooLarge(_))));
    assert_eq!(stage.get(b"l").await.unwrap(), None);
    assert!(matches!(stage.publish().await, Ok(Outcome::Committed(_))));
    assert_eq!(all(below.as_ref(), MAX_OPS + 1).await.len(), MAX_OPS);
}
