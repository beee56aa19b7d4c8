//! Somebody in the middle of live links. Without keys: TLS stops him. With the keys of both ends, so
//! that he reads and writes the messages themselves: the one-time tags stop him.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../km-core/tests/common/mod.rs"]
mod ends;
mod middle_man;
mod net;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use ends::{bytes_of, ids_of, sae};
use km_core::route::CipherPolicy;
use middle_man::{Reader, Robber, Trick};
use net::{Net, Plan};
use relay::{LinkView, Scheme};

fn link(net: &Net, at: usize, peer: &str) -> LinkView {
    let links = net.kms[at].links.status();
    links.into_iter().find(|link| link.peer.as_str() == peer).unwrap()
}

fn sum(net: &Net, of: fn(&LinkView) -> u64) -> u64 {
    net.kms.iter().flat_map(|km| km.links.status()).map(|link| of(&link)).sum()
}

/// A key of one end at the other, if both give one; then it is the same.
async fn try_key(net: &Net, from: usize, to: usize) -> bool {
    let (one, other) = [from, to].map(|at| sae(&format!("sae-{}", net.plan.clusters[at]))).into();
    let issued = net.kms[from].supply.issue(&one, std::slice::from_ref(&other), 8192, 16).await;
    let Ok(keys) = issued else { return false };
    let Ok(got) = net.kms[to].supply.collect(&other, Some(&one), &ids_of(&keys)).await else {
        return false;
    };
    for (key, same) in keys.iter().zip(&got) {
        assert_eq!((key.id, bytes_of(key)), (same.id, bytes_of(same)), "different bytes");
        assert_eq!(key.provenance, same.provenance, "told differently how it came");
    }
    true
}

/// The first cluster's links, watched and attacked as raw bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_nothing_gets_through_altered_and_the_alarm_is_raised() {
    let plan = Plan::chain(2, CipherPolicy::OtpOnly, Scheme::FirstKey);
    let mut robbers = Vec::new();
    let net = Net::start_through(plan, |addresses, _| {
        robbers = vec![Robber::before(addresses[1]), Robber::before(addresses[2])];
        BTreeMap::from([((0, 1), robbers[0].address), ((1, 2), robbers[1].address)])
    })
    .await;
    let up = |net: &Net| link(net, 0, "b").up && link(net, 1, "c").up;
    for trick in [Trick::Drop, Trick::Repeat, Trick::Swap, Trick::Flip, Trick::Splice] {
        for to_server in [true, false] {
            net.until("the links are up", up).await;
            let seen = || link(&net, 0, "b").tampered + link(&net, 1, "a").tampered;
            let (before, connections) = (seen(), link(&net, 0, "b").connections);
            robbers[0].play(trick, to_server, &robbers[1]);
            let what = format!("{trick:?} is noticed");
            net.until(&what, |_| seen() > before).await;
            net.until("it is dialled again", |net| link(net, 0, "b").connections > connections)
                .await;
        }
    }
    net.until("the links are up", up).await;
    let began = Instant::now();
    while !try_key(&net, 0, 2).await || !try_key(&net, 0, 1).await {
        assert!(began.elapsed() < net::PATIENCE, "no keys come any more");
    }
    assert_eq!(sum(&net, |link| link.mismatched), 0, "altered bytes came as far as the protocol");
    net.stop_and_audit().await;
}

/// Another node of the same network answers in the place of the one that was dialled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_of_another_node_is_refused_and_the_alarm_is_raised() {
    let plan = Plan::chain(2, CipherPolicy::OtpOnly, Scheme::FirstKey);
    let mut reader = None;
    let net = Net::start_through(plan, |addresses, tls| {
        let address = reader.insert(Reader::between(addresses[1], &tls[2], &tls[2], 0)).address;
        BTreeMap::from([((0, 1), address)])
    })
    .await;
    net.until("the alarm is raised", |net| link(net, 0, "b").tampered > 0).await;
    net.until("the others are up", |net| link(net, 1, "c").up && link(net, 0, "c").up).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!link(&net, 0, "b").up && !link(&net, 1, "a").up);
    assert_eq!(net.kms[0].pool("b").view().blocks, 0);
    assert_eq!(net.kms[1].pool("a").view().blocks, 0);
}

/// He holds the keys of all three, and with them reads all links: he drops, repeats, reorders and
/// changes messages, and puts those of one link into another.
async fn reads_all(seed: u64, cipher: CipherPolicy) {
    let plan = Plan::chain(2, cipher, Scheme::FirstKey);
    let mut readers = Vec::new();
    let net = Net::start_through(plan, |addresses: &[SocketAddr], tls| {
        let ends = [(0, 1), (1, 2), (0, 2)];
        readers.extend(ends.map(|(from, to)| {
            Reader::between(
                addresses[to],
                &tls[to],
                &tls[from],
                seed * 10 + from as u64 + to as u64,
            )
        }));
        ends.into_iter().zip(readers.iter().map(|reader| reader.address)).collect()
    })
    .await;
    Reader::share(&readers);
    net.until("the far pool is fed", |net| net.kms[0].pool("c").own_bytes() > 0).await;
    readers.iter().for_each(|reader| reader.set_evil(true));
    let played = || readers.iter().map(Reader::played).sum::<u64>();
    let alarms = || sum(&net, |link| link.tampered + link.mismatched);
    let (mut got, began) = (0, Instant::now());
    while played() < 60 || alarms() < 5 || got == 0 {
        for (from, to) in [(0, 2), (2, 0), (0, 1), (1, 2)] {
            got += u32::from(try_key(&net, from, to).await);
        }
        let (played, alarms) = (played(), alarms());
        assert!(began.elapsed() < net::PATIENCE, "{got} keys, {played} tricks, {alarms} alarms");
    }
    println!("{got} times keys came through {} tricks; {} alarms", played(), alarms());
    readers.iter().for_each(|reader| reader.set_evil(false));
    let began = Instant::now();
    while !try_key(&net, 0, 2).await {
        assert!(began.elapsed() < net::PATIENCE, "no keys come any more");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    net.stop_and_audit().await;
    readers.iter().for_each(Reader::assert_no_pad_was_named_twice);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_keys_of_all_tls_links_he_gets_no_wrong_key_accepted_over_one_time_pad() {
    reads_all(1, CipherPolicy::OtpOnly).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_keys_of_all_tls_links_he_gets_no_wrong_key_accepted_over_aes() {
    reads_all(2, CipherPolicy::AesOnly).await;
}
