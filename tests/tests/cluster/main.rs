//! Several KMs on one store, under load, while one part after the other dies, stops, is cut off, or pauses
//! longer than it may. Any KM answers for any key; nothing is delivered twice, nothing differs, nothing
//! acknowledged is lost, what clients see of an object has an order, the accounts balance.
//!
//! Half of the kinds of fault here, others each time; `QKM_CLUSTER_FAULTS=500` (`make faults`) for the full
//! run, `QKM_PREVIOUS` for another build to upgrade from, `QKM_FAULT=KillLeader` for one kind only. `QKM_SEED`
//! repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod epochs;
mod faults;
mod load;
mod report;

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use faults::{FAULTS, Fault, inject, other_build};
use kmip::{Answer, client, enums::CryptographicAlgorithm};
use load::{is_destroyed, start_load};
use qkm_tests::{
    clients::{Kmip, material},
    cluster::{Cluster, NORTH, SOUTH, Settings},
    promises::{Dice, ENCRYPT_DECRYPT, Load, from_env},
};
use report::Report;

/// Also by one that does not lead, and came when they were there.
#[tokio::test(flavor = "multi_thread")]
async fn objects_in_a_token_that_several_key_managers_share_are_counted() {
    let mut cluster = Cluster::with(Settings { kms: 2, ..Settings::default() }).await;
    for km in 0..2 {
        cluster.edit(km, |config| {
            for sae in config["sae"].as_array_mut().unwrap() {
                if sae["id"].as_str() == Some("sae-n1") {
                    sae.as_table_mut().unwrap().insert("storage".into(), "token".into());
                }
            }
        });
        cluster.stop(km);
        cluster.run(km);
        cluster.ready(km).await;
    }
    let create = client::create(CryptographicAlgorithm::Aes, 256, ENCRYPT_DECRYPT, []);
    cluster.kmip(0, "sae-n1").ask(create).await.unwrap();
    assert_eq!(cluster.metric(0, "qkm_token_objects").await, 1.0);
    for km in 0..2 {
        cluster.stop(km);
        cluster.run(km);
        cluster.ready(km).await;
        assert_eq!(cluster.metric(km, "qkm_token_objects").await, 1.0, "{km}");
    }
}

/// A start waits for an engine that is away, unless it is told to end. The lease that is told is the one that
/// the engine granted: whole seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_ends_at_once_and_the_lease_in_force_is_told() {
    let mut cluster = Cluster::with(Settings { kms: 1, ..Settings::default() }).await;
    cluster.stop(0);
    cluster.edit(0, |config| {
        config["node"].as_table_mut().unwrap().insert("lease_ms".into(), 2500.into());
    });
    cluster.run(0);
    cluster.ready(0).await;
    let name = cluster.site(0).name.clone();
    cluster
        .until("the lease in force is told", async || {
            let (code, shown) = cluster.qkm(0, &["node", "show", &name, "-o", "json"]);
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap_or_default();
            code == 0 && shown["lease_ms"] == 3000
        })
        .await;
    cluster.stop(0);
    (0..3).for_each(|member| cluster.engine.kill(member));
    cluster.run(0);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.ended(0), None, "it waits");
    cluster.signal(0, "TERM");
    let told = Instant::now();
    while cluster.ended(0).is_none() {
        assert!(told.elapsed() < Duration::from_secs(3), "it does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(cluster.ended(0), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_a_km_or_an_engine_member_loses_or_doubles_a_key() {
    let mut kinds = FAULTS.to_vec();
    kinds.extend(other_build().map(|_| Fault::RollingUpgrade));
    if let Ok(only) = std::env::var("QKM_FAULT") {
        kinds.retain(|kind| format!("{kind:?}") == only);
        assert!(!kinds.is_empty(), "no fault is called {only}");
    }
    let faults = from_env("QKM_CLUSTER_FAULTS").map_or(kinds.len() / 2, |faults| faults as usize);
    let mut dice = Dice::seeded();
    println!("{faults} faults");
    let mut report = Report::of(faults, dice.seed());
    let mut cluster = Cluster::start().await;
    let (load, registers, workers) = start_load(&cluster);
    let first = dice.roll(kinds.len() as u64) as usize;
    for number in 0..faults {
        let pause = std::time::Duration::from_millis(100 + dice.roll(400));
        tokio::time::sleep(pause).await;
        let fault = match number < kinds.len() {
            true => kinds[(first + number) % kinds.len()],
            false => any(&kinds, &mut dice),
        };
        let began = std::time::Instant::now();
        report.begins(fault);
        report.write(&load, &registers);
        let cost = inject(&mut cluster, fault, &load, &mut dice).await;
        println!("{number} {fault:?}: {cost:?}; all is well after {:?}", began.elapsed());
        report.add(fault, cost);
        report.burned(&cluster).await;
    }
    load.over.store(true, Relaxed);
    for worker in workers {
        worker.await.expect("a worker");
    }
    objects_are_as_they_were(&cluster, &load).await;
    nothing_is_given_again(&cluster, &load).await;
    let balanced = accounts_balance(&cluster).await;
    report.burned(&cluster).await;
    report.write(&load, &registers);
    println!("{:#}", report.told(&load, &registers));
    load.all_was_kept();
    assert!(balanced, "an account does not balance");
    report.was_under_load(&load, &registers);
}

/// The one that takes by far the longest comes a third as often as the others.
fn any(kinds: &[Fault], dice: &mut Dice) -> Fault {
    let fault = kinds[dice.roll(kinds.len() as u64) as usize];
    match fault == Fault::FillEngine && dice.roll(3) > 0 {
        true => kinds[dice.roll(kinds.len() as u64) as usize],
        false => fault,
    }
}

/// Things that are asked for once more at the end, at most.
const AGAIN: usize = 400;

fn some<T>(all: &[T]) -> impl Iterator<Item = &T> {
    all.iter().step_by(all.len().div_ceil(AGAIN).max(1))
}

/// At every KM of the cluster in turn; what was destroyed at none.
async fn objects_are_as_they_were(cluster: &Cluster, load: &Load) {
    let (objects, destroyed) = {
        let told = load.told.lock().unwrap();
        (told.objects.clone(), told.destroyed.clone())
    };
    let kmip: Vec<Kmip> = (0..NORTH).map(|km| cluster.kmip(km, "sae-n1")).collect();
    for (id, bytes) in objects {
        match load.any(&kmip).ask(client::get(&id)).await {
            Ok(got) if material(&got).as_ref() == Some(&bytes) => {}
            Ok(_) => load.broke(|b| &mut b.differing, &format!("object {id} changed")),
            Err(error) => load.broke(|b| &mut b.lost, &format!("object {id} is gone: {error}")),
        }
    }
    for id in some(&destroyed) {
        let got = load.any(&kmip).ask(client::get(id)).await;
        if got.as_ref().err().is_none_or(|error| !is_destroyed(error)) {
            load.broke(|b| &mut b.disordered, &format!("{id} was destroyed: {got:?}"));
        }
    }
}

/// No KM gives a key that was collected, however long ago that was and whoever led; one whose collection
/// came to nothing is given once.
async fn nothing_is_given_again(cluster: &Cluster, load: &Load) {
    let (issued, in_doubt) = {
        let told = load.told.lock().unwrap();
        (told.issued.keys().cloned().collect::<Vec<_>>(), told.doubtful.clone())
    };
    let north = (0..NORTH).map(|km| (cluster.etsi(km, "sae-n1"), "sae-s1"));
    let all: Vec<_> = north.chain([(cluster.etsi(SOUTH, "sae-s1"), "sae-n1")]).collect();
    let collected = issued.iter().filter(|id| !in_doubt.contains(*id)).collect::<Vec<_>>();
    let asked = some(&collected).map(|id| (*id, 0)).chain(in_doubt.iter().map(|id| (id, 1)));
    for (id, most) in asked {
        let mut given = 0;
        for (km, master) in &all {
            let again = km.dec(master, &[id]).await.expect("a KM that is ready answers");
            assert_ne!(again.status, 503, "key {id}: {:?}", again.body);
            given += usize::from(again.status == 200);
        }
        if given > most {
            let what = format!("key {id} was delivered again, {given} times for {most}");
            load.broke(|b| &mut b.doubled, &what);
        }
    }
}

/// Of both ends.
async fn accounts_balance(cluster: &Cluster) -> bool {
    let leader = cluster.leader().await.expect("one leads");
    cluster.metric(leader, "qkm_pool_balanced").await == 1.0
        && cluster.metric(SOUTH, "qkm_pool_balanced").await == 1.0
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
    assert!(accounts_balance(&cluster).await);
}
