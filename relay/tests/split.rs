//! Keys split by exclusive or over ways without a common node, and rations, over real TLS links.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../km-core/tests/common/mod.rs"]
mod ends;
mod net;

use std::time::{Duration, Instant};

use ends::{bytes_of, cluster, ids_of, sae};
use km_core::{
    provenance::Grade,
    route::{CipherPolicy, Route, RoutingTable, Ways},
};
use net::{Net, Plan};
use relay::{Scheme, feed::Mode};

/// a and d are joined over b and over c.
fn square(ways: usize) -> Plan {
    let plan = Plan::chain(3, CipherPolicy::OtpOnly, Scheme::FirstKey);
    let links = vec![(0, 1), (1, 3), (0, 2), (2, 3)];
    Plan { links, relays: vec![(0, 3, vec![1])], ways, ..plan }
}

fn way(hops: &[&str]) -> Route {
    let hops = hops.iter().map(|hop| cluster(hop)).collect();
    Route::new(hops, CipherPolicy::OtpOnly).unwrap()
}

/// Puts up the ways from a to d and back.
fn direct(net: &Net, version: u64, middles: &[&str], max_bits_per_s: Option<u64>) {
    for (at, far) in [(0, "d"), (3, "a")] {
        let routes: Vec<Route> = middles.iter().map(|middle| way(&[middle, far])).collect();
        let ways = Ways { disjoint: routes.clone(), routes, max_bits_per_s, feed: None };
        net.kms[at].routes.put(RoutingTable { version, to: [(cluster(far), ways)].into() });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_key_comes_over_two_ways_of_which_no_node_knows_both() {
    let net = Net::start(square(2)).await;
    direct(&net, 1, &["b"], None);
    let stocked = |net: &Net| {
        [(0, "b"), (0, "c")].iter().all(|(at, peer)| net.kms[*at].pool(peer).own_bytes() > 0)
    };
    net.until("the links have keys", stocked).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stored = |net: &Net| net.kms[0].pool("d").view().stored_bits;
    assert_eq!(stored(&net), 0, "rather no key than one that a single node knows");

    direct(&net, 2, &["b", "c"], None);
    net.until("split keys come", |net| net.kms[0].pool("d").own_bytes() > 0).await;
    let (a, d) = (sae("sae-a"), sae("sae-d"));
    let keys = net.kms[0].supply.issue(&a, std::slice::from_ref(&d), 256, 32).await.unwrap();
    let got = net.kms[3].supply.collect(&d, None, &ids_of(&keys)).await.unwrap();
    for (key, same) in keys.iter().zip(&got) {
        assert_eq!(bytes_of(key), bytes_of(same));
        for seen in [&key.provenance, &same.provenance] {
            let mut middles = vec![seen.path[0].to.as_str()];
            middles.extend(seen.split.iter().map(|share| share.path[0].to.as_str()));
            assert_eq!((middles, seen.grade()), (vec!["b", "c"], Grade::ItsRelay));
        }
    }

    // Without one of the nodes there is no such key any more, and what was half-way is no key.
    direct(&net, 3, &["c"], None);
    net.until("what was on its way is there", |net| {
        let view = net.kms[0].pool("d").view();
        view.balanced
    })
    .await;
    net.stop_and_audit().await;
}

/// The end that collects refuses what the other end split over fewer ways than it asks for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_over_fewer_ways_than_one_end_asks_for_is_stored_at_neither() {
    let net = Net::start(Plan { ways_at: vec![1, 1, 1, 2], ..square(1) }).await;
    direct(&net, 1, &["b", "c"], None);
    net.until("batches arrive", |net| net.kms[0].links.relay().fetched > 2).await;
    net.until("they are given up", |net| {
        net.kms[0].links.status().iter().any(|link| link.peer == cluster("d") && link.given_up > 0)
    })
    .await;
    for (at, far) in [(0, "d"), (3, "a")] {
        assert_eq!(net.kms[at].pool(far).view().stored_bits, 0, "at {at}");
    }
    net.stop_and_audit().await;
}

/// Bytes sent over the way that works, and batches lost, while `dark` gives no keys: at first, and once
/// it is clear that it gives none.
async fn spent_beside(dark: usize) -> [u64; 2] {
    let net = Net::start(Plan { dark: vec![dark], ..square(2) }).await;
    direct(&net, 1, &["b", "c"], None);
    let good = |net: &Net| {
        let links = net.kms[0].links.status();
        links.iter().find(|link| link.peer == cluster("c")).unwrap().hop_bytes_sent
    };
    net.until("both links of the good way have keys", |net| {
        [(0, "c"), (2, "d")].iter().all(|(at, peer)| net.kms[*at].pool(peer).own_bytes() > 1 << 18)
    })
    .await;
    net.until("the bad way loses", |net| net.kms[0].links.relay().lost > 4).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let first = good(&net);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let then = good(&net) - first;
    net.stop_and_audit().await;
    [first, then]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_is_short_or_rests_costs_the_other_ways_of_a_split_key_nothing() {
    assert_eq!(spent_beside(0).await, [0, 0], "the first link of the other way is empty");
    // Which way goes first is not known before one of them fails.
    let [first, then] = spent_beside(1).await;
    assert!(first <= 5 << 16, "{first}");
    assert_eq!(then, 0, "the second link of the other way is empty");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ration_holds_however_much_is_wanted() {
    let bits_per_s = 200_000;
    let plan = Plan { mode: Mode::Watermark { low: 256 << 10, high: 512 << 10 }, ..square(1) };
    let net = Net::start(plan).await;
    let start = Instant::now();
    direct(&net, 1, &["b"], Some(bits_per_s));
    net.until("the first keys came", |net| net.kms[0].pool("d").view().stored_bits > 0).await;
    let (began, first) = (Instant::now(), net.kms[0].pool("d").view().stored_bits);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let stored = net.kms[0].pool("d").view().stored_bits;
    let came = stored - first;
    let allowed = (began.elapsed().as_secs_f64() * bits_per_s as f64) as u64;
    assert!(came > allowed / 4, "{came} of {allowed} bits");
    let most = (start.elapsed().as_secs_f64() * bits_per_s as f64) as u64;
    assert!(stored <= most, "{stored} of {most} bits");
    direct(&net, 2, &["b"], None);
    net.until("without a ration the pool fills", |net| {
        net.kms[0].pool("d").view().stored_bits > 8 * (300 << 10)
    })
    .await;
    net.stop_and_audit().await;
}
