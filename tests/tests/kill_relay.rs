//! `kill -9` of a KM in the middle of a relay, of its source and of its destination, at random moments
//! under load, also while single objects are copied. Nothing is delivered twice, nothing differs, nothing
//! acknowledged is lost, and the accounts balance, also between the two ends of each link.
//!
//! 6 kills here; `QKM_KILLS=100` (`make kill`) for the full run. `QKM_SEED` repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{process::Child, sync::atomic::Ordering::Relaxed, time::Duration};

use kmip::{client, enums::CryptographicAlgorithm, op::Answer};
use qkm_tests::{
    chain::{Chain, Far, Plan, SAES},
    clients::material,
    promises::{Dice, Load, from_env, pair_worker},
};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn killing_source_middle_or_destination_of_a_relay_loses_and_repeats_nothing() {
    let (kills, mut dice) = (from_env("QKM_KILLS").unwrap_or(6), Dice::seeded());
    let lines = "cipher = \"otp-only\"\nlow_kib = 64\nhigh_kib = 128";
    let far = vec![Far { from: 0, to: 2, lines }];
    let mut chain = Chain::start(Plan { far, ..Plan::default() }).await;
    let (relayed, direct) = (Load::default(), Load::default());
    let mut workers = Vec::new();
    for (load, ends) in
        [(&relayed, [0, 2]), (&relayed, [2, 0]), (&direct, [0, 1]), (&direct, [1, 2])]
    {
        let [near, far] = ends.map(|at| chain.etsi(at));
        let [master, slave] = ends.map(|at| SAES[at]);
        workers.push(tokio::spawn(pair_worker(
            load.clone(),
            vec![near],
            vec![far],
            (master, slave),
        )));
    }
    goes_on(&chain, &relayed).await;
    let mut first = 0;
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(30 + dice.roll(1500))).await;
        let (id, copying) = copy_begun(&chain).await;
        tokio::time::sleep(Duration::from_millis(dice.roll(150))).await;
        // Of three kills each has another victim.
        if kill % 3 == 0 {
            first = dice.roll(3);
        }
        let victim = ((kill + first) % 3) as usize;
        chain.kill(victim);
        tokio::time::sleep(Duration::from_millis(dice.roll(200))).await;
        chain.start_km(victim);
        chain.ready(victim).await;
        goes_on(&chain, &relayed).await;
        copied_once(&chain, &id, copying).await;
    }
    for load in [&relayed, &direct] {
        load.over.store(true, Relaxed);
    }
    for worker in workers {
        worker.await.expect("a worker");
    }
    for load in [&relayed, &direct] {
        load.all_was_kept();
    }
    accounts_balance(&mut chain).await;
    let told = relayed.told.lock().unwrap();
    let (issued, collected, doubtful) = (told.issued.len(), told.collected, told.doubtful.len());
    println!("{issued} relayed keys issued, {collected} collected, {doubtful} in doubt");
    assert!(collected > kills, "the load was a load");
}

/// A key of the first cluster's application that is being copied to the last.
async fn copy_begun(chain: &Chain) -> (String, Child) {
    let create = client::create(CryptographicAlgorithm::Aes, 256, 0xC, []);
    let Answer::Create(created) = chain.kmip(0).ask(create).await.expect("a key") else { panic!() };
    let id = created.id.to_string();
    let copying = chain.qkm_begun(0, &["key", "copy", &id, "--to", SAES[2]]);
    (id, copying)
}

/// Whoever was killed: asked for again, the copy is there, and it was there if that was said before.
async fn copied_once(chain: &Chain, id: &str, copying: Child) {
    let done = copying.wait_with_output().expect("it ends");
    let get = async |at: usize| chain.kmip(at).ask(client::get(id)).await;
    if done.status.success() {
        assert!(get(2).await.is_ok(), "what was said to be there is there");
    }
    let again = ["key", "copy", id, "--to", SAES[2]];
    chain.until("a copy", async || chain.qkm(0, &again).status.success()).await;
    let [ours, theirs] = [get(0).await, get(2).await].map(|got| material(&got.expect("the key")));
    assert!(ours.is_some() && ours == theirs, "the copy has the same bytes");
}

async fn goes_on(chain: &Chain, load: &Load) {
    let before = load.steps.load(Relaxed);
    chain.until("relayed keys go on", async || load.steps.load(Relaxed) > before + 1).await;
}

/// To the bit: each end by itself, running and stopped, and what both ends of a link say was pad.
async fn accounts_balance(chain: &mut Chain) {
    chain.set_sims_paused(true).await;
    for (one, other) in [(0, 1), (1, 2)] {
        let pad = |pool: &Value| pool["ledger"]["pad"].as_u64();
        chain
            .until("both ends of a link say the same of its pad", async || {
                let (here, there) = (chain.pool(one, other).await, chain.pool(other, one).await);
                pad(&here).is_some_and(|bits| bits > 0) && pad(&here) == pad(&there)
            })
            .await;
    }
    for at in 0..chain.clusters() {
        for pool in chain.pools(at).await {
            assert_eq!(pool["balanced"], true, "{pool}");
        }
    }
    for at in 0..chain.clusters() {
        assert_eq!(chain.stop(at), Some(0), "it stops in order");
        let doctor = chain.qkm(at, &["doctor"]);
        assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));
    }
}
