//! `kill -9` of either KM at random moments under load. Nothing is delivered twice, nothing
//! differs, nothing acknowledged is lost, the accounts balance.
//!
//! 20 kills here; `QKM_KILLS=200` (`make kill`) for the full run. `QKM_SEED` repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use kmip::client;
use qkm_tests::{
    clients::material,
    network::{End, Network, Options},
    promises::{Dice, Load, from_env, object_worker, pair_worker, pool_object_worker},
};

const WORKERS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn killing_a_km_at_any_moment_loses_and_repeats_nothing() {
    let (kills, mut dice) = (from_env("QKM_KILLS").unwrap_or(20), Dice::seeded());
    let mut network = Network::start(Options::default()).await;
    network.stocked(End::North, 10_000).await;
    let (load, workers) = start_load(&network);
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(30 + dice.roll(500))).await;
        let victim = if dice.roll(2) == 0 { End::North } else { End::South };
        network.kill(victim);
        tokio::time::sleep(Duration::from_millis(dice.roll(200))).await;
        network.start_km(victim);
        network.ready(victim).await;
        let before = load.steps.load(Relaxed);
        network.until("service goes on", || async { load.steps.load(Relaxed) > before }).await;
    }
    load.over.store(true, Relaxed);
    for worker in workers {
        worker.await.expect("a worker");
    }
    load.all_was_kept();
    objects_are_still_there(&network, &load).await;
    accounts_balance(&mut network).await;
    let told = load.told.lock().unwrap();
    println!(
        "{} keys issued, {} collected, {} in doubt, {} objects",
        told.issued.len(),
        told.collected,
        told.doubtful.len(),
        told.objects.len()
    );
    assert!(told.collected > kills && told.objects.len() as u64 > kills, "the load was a load");
}

fn start_load(network: &Network) -> (Load, Vec<tokio::task::JoinHandle<()>>) {
    let load = Load::default();
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        for (from, to) in [(End::North, End::South), (End::South, End::North)] {
            let (master, slave) = match from {
                End::North => ("sae-n1", "sae-s1"),
                End::South => ("sae-s1", "sae-n1"),
            };
            let near = network.etsi(from, master);
            let far = network.etsi(to, slave);
            let (near, far) = (vec![near], vec![far]);
            workers.push(tokio::spawn(pair_worker(load.clone(), near, far, (master, slave))));
        }
        let kmip = network.kmip_client(End::North, "sae-n1");
        workers.push(tokio::spawn(object_worker(load.clone(), vec![kmip])));
        let near = network.kmip_client(End::North, "sae-n1");
        let far = network.kmip_client(End::South, "sae-s1");
        workers.push(tokio::spawn(pool_object_worker(load.clone(), vec![near], vec![far])));
    }
    (load, workers)
}

async fn objects_are_still_there(network: &Network, load: &Load) {
    let (near, far) = {
        let mut told = load.told.lock().unwrap();
        assert!(!told.far_objects.is_empty(), "pool keys were drawn over KMIP");
        (told.objects.clone(), std::mem::take(&mut told.far_objects))
    };
    for (end, sae, objects) in [(End::North, "sae-n1", near), (End::South, "sae-s1", far)] {
        let kmip = network.kmip_client(end, sae);
        for (id, bytes) in objects {
            let got = kmip.ask(client::get(&id)).await;
            let got = got.unwrap_or_else(|error| panic!("object {id} is gone: {error}"));
            assert_eq!(material(&got), Some(bytes), "object {id} changed");
        }
    }
}

/// As the running KMs see it, and as the records alone say once they have stopped.
async fn accounts_balance(network: &mut Network) {
    for end in [End::North, End::South] {
        assert_eq!(network.metric(end, "qkm_pool_balanced").await, 1.0, "{end:?}, running");
    }
    for end in [End::North, End::South] {
        assert_eq!(network.stop(end), Some(0), "{end:?} stops in order");
        let doctor = network.qkm(end, &["doctor"]);
        assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));
    }
}
