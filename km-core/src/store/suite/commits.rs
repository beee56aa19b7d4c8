//! Promises about [`Store::commit`] and [`Store::get`].

use super::{Engine, conflicts, done, everything, read, too_large};
use crate::store::{Commit, MAX_COMMIT_BYTES, MAX_KEY_BYTES, MAX_OPS, Store, Version};

pub(super) async fn all<E: Engine>(engine: &E) {
    versions_grow(&engine.create().await).await;
    checks_decide(&engine.create().await).await;
    a_conflict_changes_nothing(&engine.create().await).await;
    checks_see_the_state_before(&engine.create().await).await;
    keys_named_twice(&engine.create().await).await;
    deletes_of_absent_keys_are_no_error(&engine.create().await).await;
    any_bytes_are_kept(&engine.create().await).await;
    limits_are_refused(&engine.create().await).await;
    the_largest_commit_is_taken(&engine.create().await).await;
}

async fn versions_grow(store: &impl Store) {
    assert_eq!(read(store, "a").await, None, "a new store must be empty");
    let first = done(store, Commit::new().put("a", "1").put("b", "1")).await;
    for key in ["a", "b"] {
        let record = read(store, key).await.expect("a committed record must be there");
        assert_eq!((record.key.as_slice(), record.version), (key.as_bytes(), first));
    }
    let second = done(store, Commit::new().put("a", "1")).await;
    assert!(second > first, "writing the same value again must raise the version");
    let untouched = read(store, "b").await.expect("b must stay");
    assert_eq!(untouched.version, first, "another key's version must not move");
    done(store, Commit::new().delete("a")).await;
    let reborn = done(store, Commit::new().put("a", "2")).await;
    assert!(reborn > second, "a deleted key that returns must not reuse a version");
}

async fn checks_decide(store: &impl Store) {
    let old = done(store, Commit::new().absent("k").put("k", "1")).await;
    conflicts(store, Commit::new().absent("k").put("k", "x"), "absent, but it is there").await;
    let new = done(store, Commit::new().unchanged("k", old).put("k", "2")).await;
    conflicts(store, Commit::new().unchanged("k", old).put("k", "x"), "an old version").await;
    let ahead = Version(new.0 + 1);
    conflicts(store, Commit::new().unchanged("k", ahead).put("k", "x"), "a future version").await;
    conflicts(store, Commit::new().unchanged("none", new), "a version of an absent key").await;
    conflicts(store, Commit::new().unchanged("none", Version(0)), "version 0 is not absent").await;
    done(store, Commit::new().unchanged("k", new).absent("none")).await;
    conflicts(store, Commit::new().unchanged("k", new).absent("k"), "one of two fails").await;
    done(store, Commit::new().unchanged("k", new).delete("k")).await;
    done(store, Commit::new().absent("k")).await;
    done(store, Commit::new()).await;
}

async fn a_conflict_changes_nothing(store: &impl Store) {
    done(store, Commit::new().put("a", "1").put("b", "1").put("c", "1")).await;
    let before = everything(store).await;
    let commit = Commit::new().put("a", "2").put("new", "2").delete("b").absent("c");
    conflicts(store, commit, "the check stands last and must count first").await;
    assert_eq!(everything(store).await, before, "a conflict must change nothing at all");
}

async fn checks_see_the_state_before(store: &impl Store) {
    let version = done(store, Commit::new().absent("k").put("k", "1")).await;
    let swap = Commit::new().unchanged("k", version).absent("l").put("l", "1").delete("k");
    done(store, swap).await;
    assert_eq!(read(store, "k").await, None, "the moved record must be gone from its old key");
    assert!(read(store, "l").await.is_some(), "the moved record must be at its new key");
}

async fn keys_named_twice(store: &impl Store) {
    done(store, Commit::new().put("k", "1").put("k", "2")).await;
    let record = read(store, "k").await.expect("k must be there");
    assert_eq!(record.value, b"2", "the last put of a key must win");
    done(store, Commit::new().delete("k").put("k", "3").delete("k")).await;
    assert_eq!(read(store, "k").await, None, "a delete must win over a put");
}

async fn deletes_of_absent_keys_are_no_error(store: &impl Store) {
    done(store, Commit::new().put("k", "1").delete("never")).await;
    assert_eq!(everything(store).await.len(), 1, "the rest of such a commit must happen");
}

async fn any_bytes_are_kept(store: &impl Store) {
    let values = [vec![], vec![0], vec![0xff; 3], (0..=255).collect(), vec![7; 1 << 16]];
    for (n, value) in (0u8..).zip(values) {
        for key in [vec![0, n], vec![0xff, n], vec![n; MAX_KEY_BYTES]] {
            done(store, Commit::new().put(key.clone(), value.clone())).await;
            let record = read(store, &key).await.expect("the record must be there");
            assert_eq!(record.value, value, "a value must come back as it went in");
        }
    }
}

async fn limits_are_refused(store: &impl Store) {
    let mut many = Commit::new();
    for n in 0..=MAX_OPS {
        many = many.put(format!("{n}"), "");
    }
    too_large(store, many, "one operation too many").await;
    let mut checks = Commit::new().put("k", "");
    for n in 0..MAX_OPS {
        checks = checks.absent(format!("{n}"));
    }
    too_large(store, checks, "one operation too many, counting checks").await;
    too_large(store, Commit::new().put("k", vec![0; MAX_COMMIT_BYTES]), "one byte too many").await;
    let long = vec![1; MAX_KEY_BYTES + 1];
    too_large(store, Commit::new().put(long.clone(), ""), "a put's key too long").await;
    too_large(store, Commit::new().delete(long.clone()), "a delete's key too long").await;
    too_large(store, Commit::new().absent(long), "a check's key too long").await;
    too_large(store, Commit::new().put("", "x"), "an empty key").await;
    assert!(everything(store).await.is_empty(), "a refused commit must change nothing");
}

async fn the_largest_commit_is_taken(store: &impl Store) {
    let mut largest = Commit::new();
    for n in 0..MAX_OPS {
        let key = format!("{n:04}");
        let value = vec![3; MAX_COMMIT_BYTES / MAX_OPS - key.len()];
        largest = largest.put(key, value);
    }
    done(store, largest).await;
    assert_eq!(everything(store).await.len(), MAX_OPS, "a commit at the limits must be taken");
}
