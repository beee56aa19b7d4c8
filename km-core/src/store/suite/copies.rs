//! Promises about [`Store::snapshot`] and about opening again.

use super::{Engine, done, everything, read};
use crate::store::{Commit, Record, Store};

pub(super) async fn all<E: Engine>(engine: &E) {
    everything_survives_reopening(engine).await;
    a_snapshot_is_a_store_of_its_own(engine).await;
    a_snapshot_overwrites_nothing(engine).await;
}

async fn fill(store: &impl Store) {
    for n in 0..300 {
        done(store, Commit::new().put(format!("a{n:03}"), vec![1; n])).await;
    }
    done(store, Commit::new().put("large", vec![2; 1 << 18]).delete("a007")).await;
}

async fn everything_survives_reopening<E: Engine>(engine: &E) {
    let store = engine.create().await;
    fill(&store).await;
    let newest = done(&store, Commit::new().put("last", "1")).await;
    // The newest version belongs to no record any more, and must still not be used again.
    let gone = done(&store, Commit::new().delete("last")).await;
    let before = everything(&store).await;
    let store = engine.reopen(store).await;
    assert_eq!(everything(&store).await, before, "what was committed must survive reopening");
    let next = done(&store, Commit::new().put("last", "1")).await;
    assert!(next > newest && next >= gone, "versions must go on after reopening");
}

async fn a_snapshot_is_a_store_of_its_own<E: Engine>(engine: &E) {
    let store = engine.create().await;
    fill(&store).await;
    let before = everything(&store).await;
    let copy = engine.scratch().join("copy");
    store.snapshot(&copy).await.expect("a snapshot must be written");
    done(&store, Commit::new().put("later", "1")).await;
    let opened = engine.open_snapshot(&copy).await;
    // Versions are of one store.
    let contents = |records: &[Record]| -> Vec<_> {
        records.iter().map(|record| (record.key.clone(), record.value.clone())).collect()
    };
    let copied = everything(&opened).await;
    assert_eq!(contents(&copied), contents(&before), "a snapshot must equal its moment");
    let version = done(&opened, Commit::new().put("own", "1")).await;
    let newest = copied.iter().map(|record| record.version).max();
    assert!(Some(version) > newest, "versions must go on in a snapshot");
    assert_eq!(read(&store, "own").await, None, "a snapshot must not be the original");
}

async fn a_snapshot_overwrites_nothing<E: Engine>(engine: &E) {
    let store = engine.create().await;
    done(&store, Commit::new().put("k", "1")).await;
    let taken = engine.scratch().join("taken");
    std::fs::write(&taken, b"precious").expect("the scratch directory must be writable");
    assert!(store.snapshot(&taken).await.is_err(), "an existing target must be refused");
    let kept = std::fs::read(&taken).expect("the target must still be there");
    assert_eq!(kept, b"precious", "an existing target must not be touched");
}
