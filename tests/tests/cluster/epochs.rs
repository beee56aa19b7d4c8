//! KEK epochs of a store that several KMs share.

use std::sync::atomic::Ordering::Relaxed;

use kmip::client;
use qkm_tests::{
    clients::{Kmip, material},
    cluster::{Cluster, NORTH},
};
use serde_json::Value;

use crate::load::start_load;

/// `qkm hsm epoch …` at a KM, with the certificate of a custodian or the operator's.
fn epoch(
    cluster: &Cluster,
    km: usize,
    custodian: Option<usize>,
    command: &[&str],
) -> (i32, String) {
    let mut all = [&["hsm", "epoch"], command].concat();
    let shown = custodian.map(|at| cluster.custodian(at));
    let paths =
        shown.map(|files| [&files.certificate, &files.key].map(|p| p.display().to_string()));
    if let Some([certificate, key]) = &paths {
        all.extend(["--certificate", certificate, "--key", key]);
    }
    cluster.qkm(km, &all)
}

fn is_empty(cluster: &Cluster, km: usize, number: u64) -> bool {
    let (_, said) = epoch(cluster, km, None, &["list", "-o", "json"]);
    let Ok(listed) = serde_json::from_str::<Value>(&said) else { return false };
    let epochs = listed["epochs"].as_array().cloned().unwrap_or_default();
    epochs.iter().any(|epoch| epoch["number"] == number && epoch["empty"] == true)
}

/// While all of them serve: two custodians rotate and destroy, nothing is lost, and all start again.
#[tokio::test(flavor = "multi_thread")]
async fn two_custodians_destroy_an_epoch_of_a_cluster_under_load() {
    let mut cluster = Cluster::start().await;
    let (load, _, workers) = start_load(&cluster);
    cluster.until("objects are made", async || load.told.lock().unwrap().objects.len() > 20).await;
    let leader = cluster.leader().await.expect("one leads");
    let follower = (leader + 1) % NORTH;
    let (code, said) = epoch(&cluster, follower, Some(0), &["rotate"]);
    assert_eq!((code, said.trim()), (0, "epoch 2 begins"));
    cluster.until("the old epoch is empty", async || is_empty(&cluster, leader, 1)).await;
    let (code, said) = epoch(&cluster, follower, Some(0), &["destroy", "1"]);
    assert!(code == 4 && said.contains("does not lead"), "{code} {said}");
    for custodian in [0, 1] {
        let (code, said) = epoch(&cluster, leader, Some(custodian), &["destroy", "1"]);
        assert_eq!(code, 0, "{said}");
    }
    let made = load.told.lock().unwrap().objects.len();
    cluster
        .until("objects are made under the new epoch", async || {
            load.told.lock().unwrap().objects.len() > made + 20
        })
        .await;
    load.over.store(true, Relaxed);
    for worker in workers {
        worker.await.expect("a worker");
    }
    load.all_was_kept();
    for km in 0..NORTH {
        cluster.stop(km);
        cluster.run(km);
        cluster.ready(km).await;
    }
    let kmip: Vec<Kmip> = (0..NORTH).map(|km| cluster.kmip(km, "sae-n1")).collect();
    let objects = load.told.lock().unwrap().objects.clone();
    for (id, bytes) in objects {
        let got = load.any(&kmip).ask(client::get(&id)).await.expect("it is there");
        assert_eq!(material(&got), Some(bytes), "{id}");
    }
}
