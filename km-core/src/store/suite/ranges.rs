//! Promises about [`Store::range`] and [`Store::purge`].

use std::ops::Bound::{self, Excluded, Included, Unbounded};

use super::{Engine, done, everything};
use crate::store::{Commit, MAX_OPS, MAX_RANGE, Store};

pub(super) async fn all<E: Engine>(engine: &E) {
    order_and_prefixes(&engine.create().await).await;
    pages_meet_without_gap_or_overlap(&engine.create().await).await;
    limits_hold(&engine.create().await).await;
    purge_takes_the_prefix_alone(&engine.create().await).await;
}

const KEYS: [&[u8]; 10] = [
    b"\0",
    b"a",
    b"a\0",
    b"a\x7f",
    b"a\xff",
    b"a\xff\xff",
    b"a\xff\xffz",
    b"b",
    b"\xff",
    b"\xff\xff\0",
];

async fn page(
    store: &impl Store,
    prefix: &[u8],
    after: Bound<Vec<u8>>,
    limit: usize,
) -> Vec<Vec<u8>> {
    let records = store.range(prefix, after, limit).await.expect("range must answer");
    for record in &records {
        let single = store.get(&record.key).await.expect("get must answer");
        assert_eq!(single.as_ref(), Some(record), "range and get must agree");
    }
    records.into_iter().map(|record| record.key).collect()
}

async fn order_and_prefixes(store: &impl Store) {
    // Written in another order than they must be read.
    for key in KEYS.iter().rev() {
        done(store, Commit::new().put(*key, *key)).await;
    }
    for limit in [100, MAX_RANGE] {
        assert_eq!(page(store, b"", Unbounded, limit).await, KEYS, "all keys, in byte order");
    }
    let prefixes: [&[u8]; 9] =
        [b"a", b"a\xff", b"a\xff\xff", b"a\xff\xffz", b"\xff", b"\xff\xff", b"b", b"c", b"\0"];
    for prefix in prefixes {
        let expected: Vec<_> = KEYS.into_iter().filter(|key| key.starts_with(prefix)).collect();
        for limit in [10, 100] {
            let found = page(store, prefix, Unbounded, limit).await;
            assert_eq!(found, expected, "keys under prefix {prefix:x?}");
        }
    }
}

async fn pages_meet_without_gap_or_overlap(store: &impl Store) {
    for key in KEYS {
        done(store, Commit::new().put(key, "")).await;
    }
    for size in [1, 3] {
        let mut found = page(store, b"a", Unbounded, size).await;
        while let Some(last) = found.last().cloned() {
            let next = page(store, b"a", Excluded(last), size).await;
            assert!(next.len() <= size, "a page must keep to its limit");
            if next.is_empty() {
                break;
            }
            found.extend(next);
        }
        assert_eq!(found, KEYS[1..7], "pages of {size} must make up the whole");
    }
    let from = |bound| page(store, b"a", bound, 50);
    assert_eq!(from(Included(b"a\x7f".to_vec())).await, KEYS[3..7], "`Included` starts at the key");
    assert_eq!(from(Excluded(b"a\x01".to_vec())).await, KEYS[3..7], "`after` need not exist");
    assert_eq!(from(Excluded(b"A".to_vec())).await, KEYS[1..7], "`after` before the prefix");
    assert!(from(Excluded(b"b".to_vec())).await.is_empty(), "`after` behind the prefix");
}

async fn limits_hold(store: &impl Store) {
    let names: Vec<String> = (0..MAX_RANGE + 50).map(|n| format!("k{n:06}")).collect();
    for some in names.chunks(MAX_OPS) {
        let puts = some.iter().map(|name| (name.clone().into_bytes(), vec![])).collect();
        done(store, Commit { puts, ..Commit::new() }).await;
    }
    let range = async |limit| store.range(b"k", Unbounded, limit).await.expect("range must answer");
    assert_eq!(range(usize::MAX).await.len(), MAX_RANGE, "the store's own limit must hold");
    assert_eq!(range(0).await.len(), 0, "a limit of zero must give nothing");
    assert_eq!(range(20).await.len(), 20, "the caller's limit must hold");
}

async fn purge_takes_the_prefix_alone(store: &impl Store) {
    for n in 0..2 * MAX_OPS + 1 {
        done(store, Commit::new().put(format!("p/{n}"), "x")).await;
    }
    done(store, Commit::new().put("p", "x").put("p0", "x").put("p.", "x")).await;
    store.purge(b"p/").await.expect("purge must answer");
    let left: Vec<_> = everything(store).await.into_iter().map(|record| record.key).collect();
    assert_eq!(left, [b"p".to_vec(), b"p.".to_vec(), b"p0".to_vec()], "purge of `p/`");
    store.purge(b"none").await.expect("purging nothing is no error");
    store.purge(b"").await.expect("purge must answer");
    assert!(everything(store).await.is_empty(), "the empty prefix is everything");
}
