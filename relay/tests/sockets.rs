//! Two KMs' links over real TLS: pools fill, keys issued at one end are collected at the other,
//! and a connection that keeps breaking heals.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../km-core/tests/common/mod.rs"]
mod ends;
mod two_ends;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use ends::{bytes_of, cluster, ids_of, sae};
use km_core::{pool::Pool, supply::SupplyError, vault::Vault};
use two_ends::{BOUND, Identities, Km, Network, RIGHT, lead};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_fill_and_keys_pass_both_ways() {
    let network = Network::start(RIGHT).await;
    let both = |net: &Network| net.north.pool.own_bytes() > 0 && net.south.pool.own_bytes() > 0;
    network.until("both ends own blocks", both).await;
    let (north, south) = (&network.north, &network.south);
    for (here, there, master, slave) in [(north, south, "n1", "s1"), (south, north, "s1", "n1")] {
        let keys = here.supply.issue(&sae(master), &[sae(slave)], 256, 32).await.unwrap();
        let got = there.supply.collect(&sae(slave), None, &ids_of(&keys)).await.unwrap();
        assert_eq!(got.len(), 32);
        for (one, other) in keys.iter().zip(&got) {
            assert_eq!((one.id, bytes_of(one)), (other.id, bytes_of(other)));
        }
    }
    network.until_quiet().await;
    north.assert_balanced().await;
    south.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_keeps_breaking_heals_and_leaves_nothing_open() {
    let network = Network::start(RIGHT).await;
    let (north, south) = (&network.north, &network.south);
    let mut issued = VecDeque::new();
    for round in 0..12 {
        network.until("the link is up", Network::up).await;
        tokio::time::sleep(Duration::from_millis(5 * (round % 5))).await;
        if let Ok(keys) = north.supply.issue(&sae("n1"), &[sae("s1")], 256, 8).await {
            issued.extend(keys);
        }
        network.proxy.cut();
        // Once broken it must be noticed, or the next round would test nothing.
        let connections = north.links.status()[0].connections;
        network
            .until("it was dialled again", |n| n.north.links.status()[0].connections > connections)
            .await;
    }
    network.until("the link is up", Network::up).await;
    network.until_quiet().await;
    network
        .until("all is confirmed", |net| {
            net.north.pool.unconfirmed().is_empty() && net.south.pool.unconfirmed().is_empty()
        })
        .await;
    assert!(!issued.is_empty());
    for key in issued {
        let got = south.supply.collect(&sae("s1"), None, &[key.id]).await.unwrap();
        assert_eq!(bytes_of(&got[0]), bytes_of(&key));
    }
    assert_eq!(north.links.status()[0].mismatched, 0);
    north.assert_balanced().await;
    south.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_that_all_break_soon_are_dialled_in_pauses() {
    let network = Network::start_over(RIGHT, [BOUND, BOUND], 2).await;
    for _ in 0..6 {
        network.until("the link is up", Network::up).await;
        let (cut, before) = (Instant::now(), network.proxy.came.lock().unwrap().len());
        network.proxy.cut();
        network.until("another is tried", |n| n.proxy.came.lock().unwrap().len() > before).await;
        let pause = network.proxy.came.lock().unwrap()[before] - cut;
        let lasted = cut - network.proxy.came.lock().unwrap()[before - 1];
        assert!(
            pause >= Duration::from_millis(90) || lasted > Duration::from_millis(900),
            "{pause:?}"
        );
    }
    // One that lasted is replaced at once.
    network.until("the link is up", Network::up).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    network.proxy.cut();
    network.until("another took over", Network::up).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn different_bits_are_rejected_at_both_ends_and_counted() {
    let network = Network::start(RIGHT).await;
    network.fibre.differ.store(true, Relaxed);
    network
        .until("both ends reject", |net| {
            let rejected = |km: &Km| km.links.status()[0].mismatched > 0;
            rejected(&net.north) && rejected(&net.south)
        })
        .await;
    network.fibre.differ.store(false, Relaxed);
    network.until_quiet().await;
    network.north.assert_balanced().await;
    network.south.assert_balanced().await;
    assert!(network.south.pool.view().ledger.rejected > 0);
}

async fn never_up(who: Identities) {
    let network = Network::start(who).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for km in [&network.north, &network.south] {
        assert!(!km.links.status()[0].up);
        assert_eq!(km.pool.view().blocks, 0);
    }
    assert_eq!(*network.fibre.made.lock().unwrap(), 0, "keys were taken for a stranger");
}

#[tokio::test]
async fn a_caller_with_another_identity_is_refused() {
    never_up(Identities { expected_at_south: "cn:east", ..RIGHT }).await;
}

#[tokio::test]
async fn a_server_with_another_identity_is_left() {
    never_up(Identities { expected_at_north: "cn:east", ..RIGHT }).await;
}

#[tokio::test]
async fn a_peer_of_another_ca_is_refused() {
    never_up(Identities { foreign_north: true, ..RIGHT }).await;
}

/// A cluster says which of its KMs it took out; nobody who shows their certificates is its KM any more, at
/// either end of a link, over a restart too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_taken_out_of_the_other_cluster_is_refused() {
    let network = Network::start(RIGHT).await;
    network.until("the link is up", Network::up).await;
    let (north, south) = (&network.north, &network.south);
    let gone = BTreeSet::from([[7; 32], network.shown[0]]);
    // It says so of another, and then of itself.
    north.links.tell_gone(&BTreeSet::from([[7; 32]]));
    network.until("it is heard", |net| net.south.pool.is_barred(&[7; 32])).await;
    assert!(network.up());
    north.links.tell_gone(&gone);
    network.until("it is left", |net| !net.up()).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let refused = |net: &Network| !net.up() && net.south.links.status()[0].connections == 1;
    assert!(refused(&network), "it dialled again and was let in");

    south.pool.settled().await.unwrap();
    let (config, vault) = (south.pool.config().clone(), Vault::new(south.machine.hsm.clone()));
    let pool = Pool::open(config, south.records.clone(), vault).await.unwrap();
    assert!(gone.iter().all(|certificate| pool.is_barred(certificate)));

    // The end that dials looks too.
    let network = Network::start(RIGHT).await;
    network.until("the link is up", Network::up).await;
    network.south.links.tell_gone(&BTreeSet::from([network.shown[1]]));
    network.until("it is left", |net| !net.up()).await;
    let dialled = network.proxy.came.lock().unwrap().len();
    network.until("it is dialled", |n| n.proxy.came.lock().unwrap().len() > dialled + 1).await;
    assert_eq!(network.north.links.status()[0].connections, 1);
}

/// Keys of a run that an orderly stop ends do not wait at the other end until they expire.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_last_before_an_orderly_stop_arrives() {
    let network = Network::start(RIGHT).await;
    network.until("stocked", |n| n.up() && n.north.pool.own_bytes() > 4096).await;
    let pool = &network.north.pool;
    let mut runs = Vec::new();
    for _ in 0..16 {
        runs.push(pool.lease(&sae("n1"), &[sae("s1")], 32, 4).await.unwrap());
    }
    runs.into_iter().for_each(|run| pool.end_run(run));
    network.stop_north.start();
    network.until("no run is left", |n| n.south.pool.view().collecting == 0).await;
    network.south.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_larger_bound_does_not_fill_the_follower_beyond_its_own() {
    let network = Network::start_with(RIGHT, [16 * BOUND, BOUND]).await;
    let refused = |net: &Network| {
        let link = &net.north.links.status()[0];
        link.given_up > 0 && link.in_flight == 0
    };
    network.until("the follower is full", refused).await;
    // It takes what a leader of the same bound may have on its way or in its hand, 14 blocks, and
    // the eight that may come before it has stored the last of those.
    let stored = network.south.pool.view().stored_bits / 8;
    assert!((BOUND..=BOUND + (14 + 8) * 65_472).contains(&stored), "{stored} bytes");
    network.south.assert_balanced().await;
}

/// A KM that was paused while another led has old tables: the other end would burn what they lack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_no_longer_leads_greets_nobody() {
    let network = Network::start(RIGHT).await;
    network.until_quiet().await;
    network.north.pool.settled().await.unwrap();
    lead(&network.north.machine).await;
    network.proxy.cut();
    network.until("it is left", |net| !net.up()).await;
    let dialled = network.proxy.came.lock().unwrap().len();
    network.until("it is dialled", |n| n.proxy.came.lock().unwrap().len() > dialled + 1).await;
    let (north, south) = (&network.north.links.status()[0], &network.south.links.status()[0]);
    assert!(!north.up && !south.up && network.south.pool.view().ledger.burned == 0);
    network.south.assert_balanced().await;
}

/// The peer says why it refuses a run, and the owner end acts on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_arrive_with_their_reason() {
    let network = Network::start(RIGHT).await;
    network.until_quiet().await;
    let (north, south) = (&network.north, &network.south);
    // North was put back to an older state: south knows of a run it does not.
    let number = north.pool.floor();
    let earlier = ends::run_in(&south.pool, number, 1024, 4);
    south.supply.accept(&cluster("north"), earlier).unwrap().durable().await.unwrap();
    let keys = north.supply.issue(&sae("n1"), &[sae("s1")], 256, 1).await.unwrap();
    let at = keys[0].id.slice();
    assert_eq!((at.block.number, at.offset), (number, 1024 + 4 * 32));
    south.supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    // n2 and s1 are a pair at north only.
    let burned = || north.pool.view().ledger.burned;
    let before = burned();
    for _ in 0..3 {
        let refused = north.supply.issue(&sae("n2"), &[sae("s1")], 256, 1).await;
        let Err(SupplyError::Unavailable(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("not registered"), "{why}");
    }
    assert_eq!(burned() - before, 256);
}
