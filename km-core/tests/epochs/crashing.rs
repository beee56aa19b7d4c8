//! An end that rotates dies at any commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use km_core::{epoch::EpochState, key_id::KeyId, material::ClearBytes};
use tokio::sync::mpsc;

use crate::{
    common::{End, NORTH, Pair, SOUTH, bytes_of, ids_of, sae, single_keys},
    destroy, is_empty, object, open,
};

type Heard = (km_core::pool::SuppliedKey, Option<km_core::pool::SuppliedKey>);

/// Keys flow, KEKs change, blocks move, and an end dies at whatever commit: nothing is lost,
/// nothing comes twice, and in the end every old KEK can go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_whatever_commit_a_rotating_end_dies_nothing_is_lost_or_delivered_twice() {
    let mut pair = Pair::new().await;
    let mut handed_out: BTreeMap<KeyId, Vec<u8>> = BTreeMap::new();
    for uid in 0..20 {
        let clear = ClearBytes::copy_from(&[uid; 32]);
        pair.south().objects.create(object(&uid.to_string()), &clear).await.unwrap();
    }
    for round in 0..24 {
        for owner in [NORTH, SOUTH] {
            pair.admit_random(owner, 2048).await;
        }
        let south = pair.south();
        south.keeper.epochs().rotate("cn:ada").await.unwrap();
        south.life.die_after(round * 4);
        let (done, mut heard) = mpsc::unbounded_channel();
        let issuing = tokio::spawn(work(pair.north().pool.clone(), south.supply.clone(), done));
        let keeper = south.keeper.clone();
        let moving = tokio::spawn(async move { while keeper.pass().await.is_ok() {} });
        tokio::time::sleep(Duration::from_millis(40)).await;
        for task in [issuing, moving] {
            task.abort();
            let _ = task.await;
        }
        pair.crash(SOUTH).await;
        pair.assert_balanced();
        while let Ok((key, collected)) = heard.try_recv() {
            let again = pair.south().supply.collect(&sae("s1"), None, &[key.id]).await;
            match collected {
                Some(collected) => {
                    assert_eq!(bytes_of(&collected), bytes_of(&key));
                    assert!(again.is_err(), "delivered twice");
                }
                None => assert_eq!(bytes_of(&again.unwrap()[0]), bytes_of(&key)),
            }
            assert!(handed_out.insert(key.id, bytes_of(&key)).is_none());
        }
    }
    assert!(handed_out.len() > 50, "hardly anything happened: {}", handed_out.len());
    let south = pair.south();
    let old = |end: &End| -> Vec<u64> {
        let list = end.keeper.epochs().list();
        let retiring = list.iter().filter(|view| view.epoch.state == EpochState::Retiring);
        retiring.map(|view| view.epoch.number).collect()
    };
    while !old(south).iter().all(|number| is_empty(south, *number)) {
        south.keeper.pass().await.unwrap();
    }
    assert!(old(south).len() >= 24);
    for number in old(south) {
        destroy(&south.keeper, number).await;
    }
    for uid in 0..20 {
        assert_eq!(open(&south.objects, &uid.to_string()).await, [uid; 32]);
    }
    let keys = single_keys(pair.north(), 4).await.unwrap();
    south.supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    for end in &pair.ends {
        end.supply.stop().await;
    }
    pair.assert_settled_and_balanced().await;
}

/// Leases runs and collects from them; the first key of each is left for after the crash.
async fn work(
    here: Arc<km_core::pool::Pool>,
    there: Arc<km_core::supply::Supply>,
    done: mpsc::UnboundedSender<Heard>,
) {
    while let Ok(mut run) = here.lease(&sae("n1"), &[sae("s1")], 32, 4).await {
        for place in 0..4 {
            let Some(key) = run.take() else { break };
            let collected = match place {
                0 => None,
                _ => match there.collect(&sae("s1"), None, &[key.id]).await {
                    Ok(mut got) => got.pop(),
                    Err(_) => return,
                },
            };
            done.send((key, collected)).unwrap();
        }
        here.end_run(run);
    }
}
