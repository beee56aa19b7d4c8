//! Several KMs on one store, under load, while one part after the other dies, stops, is cut off, or pauses
//! longer than it may. Any KM answers for any key; nothing is delivered twice, nothing differs, nothing
//! acknowledged is lost, what clients see of an object has an order, the accounts balance.
//!
//! Half of the kinds of fault here, others each time; `QKM_CLUSTER_FAULTS=500` (`make faults`) for the full run. `QKM_SEED`
//! repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod faults;
mod load;

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed, time::Duration};

use faults::{Dice, FAULTS, inject};
use kmip::{Answer, client, enums::CryptographicAlgorithm};
use load::{Registers, start_load};
use qkm_tests::{
    clients::{Kmip, material},
    cluster::{Cluster, NORTH, SOUTH},
    promises::{ENCRYPT_DECRYPT, Load},
};

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_a_km_or_an_engine_member_loses_or_doubles_a_key() {
    let from_env = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let faults = from_env("QKM_CLUSTER_FAULTS").unwrap_or(FAULTS.len() as u64 / 2);
    let seed = from_env("QKM_SEED").unwrap_or_else(|| std::process::id().into());
    println!("seed {seed}, {faults} faults");
    let mut dice = Dice(seed | 1);
    let mut cluster = Cluster::start().await;
    let (load, registers, workers) = start_load(&cluster);
    let mut longest: BTreeMap<String, Duration> = BTreeMap::new();
    for number in 0..faults {
        tokio::time::sleep(Duration::from_millis(200 + dice.roll(800))).await;
        let fault = match number < FAULTS.len() as u64 {
            true => FAULTS[(seed.wrapping_add(number) % FAULTS.len() as u64) as usize],
            false => FAULTS[dice.roll(FAULTS.len() as u64) as usize],
        };
        let pause = inject(&mut cluster, fault, &load, &mut dice).await;
        println!("{fault:?}: keys are issued again after {pause:?}");
        let known = longest.entry(format!("{fault:?}")).or_default();
        *known = pause.max(*known);
        for km in 0..NORTH {
            cluster.ready(km).await;
        }
    }
    load.over.store(true, Relaxed);
    for worker in workers {
        worker.await.expect("no worker saw a broken promise");
    }
    objects_are_still_there(&cluster, &load).await;
    nothing_is_given_again(&cluster, &load).await;
    accounts_balance(&cluster).await;
    let burned = cluster.burned().await;
    report(&load, &registers, faults, burned, &longest);
}

/// At every KM of the cluster.
async fn objects_are_still_there(cluster: &Cluster, load: &Load) {
    let objects = load.told.lock().unwrap().objects.clone();
    let kmip: Vec<Kmip> = (0..NORTH).map(|km| cluster.kmip(km, "sae-n1")).collect();
    for (id, bytes) in objects {
        let got = load.any(&kmip).ask(client::get(&id)).await;
        let got = got.unwrap_or_else(|error| panic!("object {id} is gone: {error}"));
        assert_eq!(material(&got), Some(bytes), "object {id} changed");
    }
}

/// Keys that are asked for once more at the end, at most.
const AGAIN: usize = 400;

/// No KM gives a key to the application that may have had it, however long ago that was and whoever led.
async fn nothing_is_given_again(cluster: &Cluster, load: &Load) {
    let issued: Vec<String> = load.told.lock().unwrap().issued.keys().cloned().collect();
    let north = (0..NORTH).map(|km| (cluster.etsi(km, "sae-n1"), "sae-s1"));
    let all: Vec<_> = north.chain([(cluster.etsi(SOUTH, "sae-s1"), "sae-n1")]).collect();
    for id in issued.iter().step_by(issued.len().div_ceil(AGAIN)) {
        for (km, master) in &all {
            let again = km.dec(master, &[id]).await.expect("a KM that is ready answers");
            assert_ne!(again.status, 200, "key {id} was delivered twice");
            assert_ne!(again.status, 503, "key {id}: {:?}", again.body);
        }
    }
}

async fn accounts_balance(cluster: &Cluster) {
    let leader = cluster.leader().await.expect("one leads");
    for km in [leader, SOUTH] {
        assert_eq!(cluster.metric(km, "qkm_pool_balanced").await, 1.0, "KM {km}");
    }
}

fn report(
    load: &Load,
    registers: &Registers,
    faults: u64,
    burned: f64,
    longest: &BTreeMap<String, Duration>,
) {
    let told = load.told.lock().unwrap();
    let pauses: BTreeMap<&str, u128> =
        longest.iter().map(|(fault, pause)| (fault.as_str(), pause.as_millis())).collect();
    let asked = registers.asked.load(Relaxed);
    // Whatever was lost or delivered twice has ended the run before.
    let results = serde_json::json!({
        "faults": faults,
        "issued": told.issued.len(),
        "collected": told.collected,
        "in_doubt": told.doubtful,
        "burned_bytes": burned,
        "registers_checked": registers.checked.load(Relaxed),
        "requests_checked": asked,
        "objects": told.objects.len(),
        "lost": 0,
        "doubled": 0,
        "longest_pause_ms": pauses,
    });
    println!("{results:#}");
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/faults");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("results.json"), format!("{results:#}\n")).unwrap();
    let worked = [told.collected, told.objects.len() as u64, asked];
    let doubts = told.doubtful as f64 / told.collected as f64;
    assert!(doubts < 0.05, "{doubts} of the keys may have been delivered or not");
    assert!(worked.iter().all(|done| *done > faults), "the load was a load");
}

/// An older copy of the engine, put back under running key managers: they stop using it, do not start
/// with it, and once it is restored give no key out a second time.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_the_engine_put_back_gives_no_key_out_again() {
    let mut cluster = Cluster::start().await;
    let app = cluster.kmip(0, "sae-n1");
    let create = client::create(CryptographicAlgorithm::Aes, 256, ENCRYPT_DECRYPT, []);
    let Answer::Create(made) = app.ask(create).await.unwrap() else { panic!("no object") };
    let object = material(&app.ask(client::get(made.id.as_str())).await.unwrap()).unwrap();
    let waiting = cluster.etsi(SOUTH, "sae-s1").enc("sae-n1", 8).await.unwrap().keys();
    let ids: Vec<&str> = waiting.iter().map(|(id, _)| id.as_str()).collect();
    let (code, said) = cluster.qkm(0, &["store", "backup"]);
    assert!(code != 0 && said.contains("etcdctl snapshot save"), "{code} {said}");
    let copy = cluster.engine.snapshot("copy.db");

    let got = cluster.etsi(1, "sae-n1").dec("sae-s1", &ids).await.unwrap();
    assert_eq!(got.keys(), waiting);
    let (code, said) = cluster.qkm(0, &["store", "restore"]);
    assert!(code == 1 && said.contains("still uses the store"), "{code} {said}");
    cluster.engine.put_back(&copy);
    for km in 0..NORTH {
        cluster.troubled(km, "older copy").await;
        assert_ne!(cluster.etsi(km, "sae-n1").enc("sae-s1", 1).await.map_or(0, |s| s.status), 200);
        cluster.stop(km);
    }
    for km in 0..NORTH {
        for command in ["serve", "doctor"] {
            let (code, said) = cluster.qkm(km, &[command]);
            assert!(code != 0 && said.contains("QKM-S006"), "KM {km} {command}: {code} {said}");
        }
    }
    let (code, said) = cluster.qkm(1, &["store", "restore"]);
    assert!(code == 0 && said.contains("burned") && !said.contains("burned 0 "), "{code} {said}");
    for km in 0..NORTH {
        cluster.run(km);
        cluster.ready(km).await;
    }
    let near = cluster.etsi(2, "sae-n1");
    cluster
        .until("keys flow again", async || {
            near.enc("sae-s1", 1).await.is_ok_and(|said| said.status == 200)
        })
        .await;
    let again = near.dec("sae-s1", &ids).await.unwrap();
    assert_ne!(again.status, 200, "keys that were collected before come a second time");
    let app = cluster.kmip(2, "sae-n1");
    let restored = material(&app.ask(client::get(made.id.as_str())).await.unwrap()).unwrap();
    assert_eq!(restored, object, "a managed object is as it was");
    accounts_balance(&cluster).await;
}
