//! At most once: applications of both ends issue and collect at the same time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{collections::HashMap, sync::Arc};

use common::{End, NORTH, Pair, SOUTH, bytes_of, ids_of, sae};
use km_core::{
    key_id::KeyId,
    pool::{CollectError, SuppliedKey},
    supply::{Supply, SupplyError},
};
use tokio::sync::mpsc;

/// Draws `requests` times 8 keys at one end and sends them to whoever collects.
async fn draw(
    supply: Arc<Supply>,
    master: &'static str,
    slaves: &'static [&'static str],
    requests: usize,
    drawn: mpsc::UnboundedSender<Vec<SuppliedKey>>,
) {
    let slaves: Vec<_> = slaves.iter().map(|name| sae(name)).collect();
    for _ in 0..requests {
        let keys = supply.issue(&sae(master), &slaves, 256, 8).await.unwrap();
        drawn.send(keys).unwrap();
    }
}

/// Every slave collects what comes, twice at the same time: exactly one of the two gets it.
async fn collect_twice(
    supply: Arc<Supply>,
    slaves: &'static [&'static str],
    mut drawn: mpsc::UnboundedReceiver<Vec<SuppliedKey>>,
) -> HashMap<KeyId, Vec<u8>> {
    let mut seen = HashMap::new();
    while let Some(keys) = drawn.recv().await {
        let ids = ids_of(&keys);
        for slave in slaves {
            let slave = sae(slave);
            let ask = || supply.collect(&slave, None, &ids);
            let answers = tokio::join!(ask(), ask());
            let (got, refused) = match answers {
                (Ok(got), Err(refused)) | (Err(refused), Ok(got)) => (got, refused),
                other => panic!("{other:?}"),
            };
            assert!(matches!(refused, SupplyError::Collect(CollectError::NotFound(_))));
            for (there, here) in keys.iter().zip(&got) {
                assert_eq!((there.id, bytes_of(there)), (here.id, bytes_of(here)));
            }
        }
        for key in &keys {
            assert!(seen.insert(key.id, bytes_of(key)).is_none(), "an ID came twice");
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_keys_at_both_ends_at_once() {
    let mut pair = Pair::new().await;
    for _ in 0..3 {
        pair.admit_random(NORTH, 65_472).await;
        pair.admit_random(SOUTH, 65_472).await;
    }
    let ways: [(usize, &'static str, &'static [&'static str]); 5] = [
        (NORTH, "n1", &["s1"]),
        (NORTH, "n1", &["s1", "s2", "s3"]),
        (NORTH, "n2", &["s2"]),
        (SOUTH, "s1", &["n1"]),
        (SOUTH, "both", &["both"]),
    ];
    let mut collecting = Vec::new();
    for (from, master, slaves) in ways {
        let (sender, drawn) = mpsc::unbounded_channel();
        let (here, there) = (pair.ends[from].supply.clone(), pair.ends[1 - from].supply.clone());
        tokio::spawn(draw(here, master, slaves, 60, sender));
        collecting.push(tokio::spawn(collect_twice(there, slaves, drawn)));
    }
    let watch = async {
        loop {
            pair.assert_balanced();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let all = async {
        let mut all = HashMap::new();
        for task in collecting {
            let seen = task.await.unwrap();
            assert_eq!(seen.len(), 60 * 8);
            all.extend(seen);
        }
        all
    };
    let all = tokio::select! { all = all => all, () = watch => unreachable!() };
    assert_eq!(all.len(), 5 * 60 * 8, "two pairs were given one ID");
    let distinct: std::collections::HashSet<_> = all.values().collect();
    assert_eq!(distinct.len(), all.len(), "two IDs name the same bytes");
    for end in &pair.ends {
        end.supply.stop().await;
    }
    pair.assert_settled_and_balanced().await;
}

async fn one_key(pair: &Pair) -> SuppliedKey {
    let mut keys = pair.north().supply.issue(&sae("n1"), &[sae("s1")], 256, 1).await.unwrap();
    keys.pop().unwrap()
}

fn refusal(answer: Result<Vec<SuppliedKey>, SupplyError>) -> CollectError {
    match answer {
        Err(SupplyError::Collect(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_third_application_and_a_wrong_master_get_nothing() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 4096).await;
    let key = one_key(&pair).await;
    let south = &pair.south().supply;
    for third in ["s2", "s3", "n1", "both"] {
        let refused = refusal(south.collect(&sae(third), None, &[key.id]).await);
        assert_eq!(refused, CollectError::NotYours(key.id), "{third}");
    }
    let n2 = sae("n2");
    let refused = refusal(south.collect(&sae("s1"), Some(&n2), &[key.id]).await);
    assert_eq!(refused, CollectError::NotYours(key.id));
    let n1 = sae("n1");
    let got = south.collect(&sae("s1"), Some(&n1), &[key.id]).await.unwrap();
    assert_eq!(bytes_of(&got[0]), bytes_of(&key));
}

/// The owner's own end does not serve its keys by ID, and a refusal leaves the others free.
#[tokio::test]
async fn all_or_none_and_only_at_the_other_end() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 4096).await;
    let (one, two) = (one_key(&pair).await, one_key(&pair).await);
    let here = refusal(pair.north().supply.collect(&sae("n1"), None, &[one.id]).await);
    assert_eq!(here, CollectError::NotFound(vec![one.id]));
    let south = &pair.south().supply;
    south.collect(&sae("s1"), None, &[two.id]).await.unwrap();
    let both = refusal(south.collect(&sae("s1"), None, &[one.id, two.id]).await);
    assert_eq!(both, CollectError::NotFound(vec![two.id]));
    let same_twice = refusal(south.collect(&sae("s1"), None, &[one.id, one.id]).await);
    assert_eq!(same_twice, CollectError::NotFound(vec![one.id]));
    let got = south.collect(&sae("s1"), None, &[one.id]).await.unwrap();
    assert_eq!(bytes_of(&got[0]), bytes_of(&one));
    pair.assert_settled_and_balanced().await;
}

/// What an ended run did not hand out is burned at both ends and served at neither.
#[tokio::test]
async fn burned_keys_are_not_served() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 4096).await;
    let mut run = pair.north().pool.lease(&sae("n1"), &[sae("s1")], 32, 8).await.unwrap();
    let first = run.take().unwrap();
    let second = run.take().unwrap();
    let ids: Vec<KeyId> = std::iter::from_fn(|| run.take()).map(|key| key.id).take(6).collect();
    assert_eq!(ids.len(), 6);
    let mut rest = pair.north().pool.lease(&sae("n1"), &[sae("s1")], 32, 8).await.unwrap();
    let used = rest.take().unwrap();
    pair.north().pool.end_run(rest);
    let mut slice = used.id.slice();
    slice.offset += 32;
    let south: &End = pair.south();
    let burned = KeyId::of(slice);
    let refused = refusal(south.supply.collect(&sae("s1"), None, &[burned]).await);
    assert_eq!(refused, CollectError::NotFound(vec![burned]));
    for key in [first, second, used] {
        let got = south.supply.collect(&sae("s1"), None, &[key.id]).await.unwrap();
        assert_eq!(bytes_of(&got[0]), bytes_of(&key));
    }
    let (north, south) = (pair.north().pool.view().ledger, pair.south().pool.view().ledger);
    assert_eq!(north.burned, 7 * 256);
    assert_eq!(south.burned, 7 * 256);
    pair.assert_settled_and_balanced().await;
}

/// A multicast key counts as delivered once, and its block goes when the last slave has it.
#[tokio::test]
async fn a_block_is_erased_when_the_last_of_its_keys_is_collected() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 64).await;
    let slaves = [sae("s1"), sae("s2")];
    let keys = pair.north().supply.issue(&sae("n1"), &slaves, 256, 2).await.unwrap();
    pair.north().pool.settled().await.unwrap();
    assert_eq!(pair.north().pool.view().blocks, 0);
    let south = pair.south();
    south.supply.collect(&slaves[0], None, &ids_of(&keys)).await.unwrap();
    assert_eq!((south.pool.view().blocks, south.pool.view().ledger.delivered), (1, 512));
    south.supply.collect(&slaves[1], None, &ids_of(&keys)).await.unwrap();
    assert_eq!((south.pool.view().blocks, south.pool.view().ledger.delivered), (0, 512));
    let rows = km_core::store::Store::range(
        pair.machines[SOUTH].disk.as_ref(),
        b"block/",
        std::ops::Bound::Unbounded,
        10,
    );
    assert!(rows.await.unwrap().is_empty(), "the sealed bits are still stored");
    pair.assert_settled_and_balanced().await;
}
