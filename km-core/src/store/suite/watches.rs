//! Promises about [`Store::watch`].

use std::time::Duration;

use tokio::sync::mpsc::Receiver;

use super::{Engine, conflicts, done};
use crate::store::{Commit, Event, Record, Store, Version};

/// Far more than any store may take to tell of a change.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn all<E: Engine>(engine: &E) {
    changes_come_in_order(&engine.create().await).await;
    what_was_before_is_not_told(&engine.create().await).await;
    a_slow_watcher_holds_up_nobody(&engine.create().await).await;
}

async fn next(events: &mut Receiver<Event>) -> Event {
    let event = tokio::time::timeout(PATIENCE, events.recv()).await;
    event.expect("a watcher must hear of a change").expect("a watch must not end by itself")
}

fn put(key: &str, value: &str, version: Version) -> Event {
    Event::Put(Record { key: key.into(), value: value.into(), version })
}

async fn changes_come_in_order(store: &impl Store) {
    let mut events = store.watch(b"w/").await.expect("watch must answer");
    let mut all = store.watch(b"").await.expect("watch must answer");
    let first = done(store, Commit::new().put("w/a", "1").put("x", "1")).await;
    conflicts(store, Commit::new().absent("w/a").put("w/a", "no"), "w/a is there").await;
    let second = done(store, Commit::new().put("w/a", "2")).await;
    let third = done(store, Commit::new().delete("w/a").delete("w/never")).await;
    let fourth = done(store, Commit::new().put("w/b", "3")).await;
    assert_eq!(next(&mut events).await, put("w/a", "1", first));
    assert_eq!(next(&mut events).await, put("w/a", "2", second));
    assert_eq!(next(&mut events).await, Event::Deleted(b"w/a".to_vec(), third));
    assert_eq!(next(&mut events).await, put("w/b", "3", fourth));
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.push(next(&mut all).await);
    }
    assert!(seen.contains(&put("x", "1", first)), "the empty prefix must see every key");
}

async fn what_was_before_is_not_told(store: &impl Store) {
    done(store, Commit::new().put("w", "before")).await;
    let mut events = store.watch(b"w").await.expect("watch must answer");
    let version = done(store, Commit::new().put("w", "after")).await;
    // An engine may still tell of what was just before; but in order, and up to now.
    while next(&mut events).await != put("w", "after", version) {}
}

async fn a_slow_watcher_holds_up_nobody(store: &impl Store) {
    let mut slow = store.watch(b"s").await.expect("watch must answer");
    let value = vec![0u8; 1 << 19];
    for _ in 0..40 {
        done(store, Commit::new().put("s", value.clone())).await;
    }
    // Either it was all kept for it, or it is told once that it was not.
    let mut last = Version(0);
    for _ in 0..40 {
        match next(&mut slow).await {
            Event::Put(record) => {
                assert!(record.version > last, "events must come in order");
                last = record.version;
            }
            Event::Compacted => return,
            Event::Deleted(..) => panic!("nothing was deleted"),
        }
    }
}
