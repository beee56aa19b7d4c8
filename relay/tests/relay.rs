//! Keys between clusters that share no QKD link, over real TLS links.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../km-core/tests/common/mod.rs"]
mod ends;
mod net;

use std::{io::Write as _, time::Duration};

use ends::{bytes_of, cluster, ids_of, sae};
use km_core::{
    ids::LinkId,
    provenance::{EndTag, Grade, HopCipher, Origin},
    route::{CipherPolicy, Route, RoutingTable, Ways},
};
use net::{Net, Plan};
use relay::{
    Scheme,
    feed::{Mode, Window},
};

/// Keys issued at the first cluster are collected at the last, and say how they came there.
async fn passes(hops: usize, cipher: CipherPolicy, scheme: Scheme, expected: &[HopCipher]) {
    let net = Net::start(Plan::chain(hops, cipher, scheme)).await;
    let (first, last) = (&net.kms[0], &net.kms[hops]);
    let far = net.plan.clusters[hops];
    net.until("both ends own blocks", |net| {
        net.kms[0].pool(far).own_bytes() > 0 && net.kms[hops].pool("a").own_bytes() > 0
    })
    .await;
    let (master, slave) = (sae("sae-a"), sae(&format!("sae-{far}")));
    for (here, there, one, other) in
        [(first, last, &master, &slave), (last, first, &slave, &master)]
    {
        let keys = here.supply.issue(one, std::slice::from_ref(other), 256, 32).await.unwrap();
        let got = there.supply.collect(other, None, &ids_of(&keys)).await.unwrap();
        assert_eq!(got.len(), 32);
        for (key, same) in keys.iter().zip(&got) {
            assert_eq!((key.id, bytes_of(key)), (same.id, bytes_of(same)));
            for seen in [&key.provenance, &same.provenance] {
                let ciphers: Vec<HopCipher> = seen.path.iter().map(|hop| hop.cipher).collect();
                assert_eq!(ciphers, expected);
                let names: Vec<&str> = seen.path.iter().map(|hop| hop.to.as_str()).collect();
                assert_eq!(names, net.plan.clusters[1..=hops]);
                let (origin, its) = match scheme {
                    Scheme::FirstKey | Scheme::Supplied => {
                        (Origin::Qkd(LinkId::parse("link-0").unwrap()), true)
                    }
                    Scheme::Random => (Origin::HsmRng, false),
                };
                assert_eq!(seen.origin, origin);
                let its = its && !expected.contains(&HopCipher::Aes256Gcm);
                assert_eq!(seen.end_tag(), EndTag::Relayed);
                let grade = if its { Grade::ItsRelay } else { Grade::Computational };
                assert_eq!(seen.grade(), grade);
            }
        }
    }
    let names = net.plan.clusters.clone();
    net.until("every link has pad both ways", |net| {
        let enough = |at: usize, far: usize| net.kms[at].pool(names[far]).own_bytes() > 1024;
        (0..hops).all(|at| enough(at, at + 1) && enough(at + 1, at))
    })
    .await;
    // A single object goes the same way, and back. One that may claim more than the least is hidden as well
    // as it can be.
    for (from, to) in [(0, hops), (hops, 0)] {
        let qkd = Origin::Qkd(LinkId::parse("elsewhere").unwrap());
        let best = [&[Shared], &vec![Otp; hops - 1][..]].concat();
        assert_eq!(net.copy(from, to, qkd).await, (best, Grade::ItsRelay));
        let (ciphers, grade) = net.copy(from, to, Origin::HsmRng).await;
        assert_eq!((&ciphers[..], grade), (expected, Grade::Computational));
    }
    net.stop_and_audit().await;
}

use HopCipher::{Aes256Gcm, KmLink, Otp, OtpComputational, Shared};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_the_first_hop_is_passed_on() {
    passes(2, CipherPolicy::OtpOnly, Scheme::FirstKey, &[Shared, Otp]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_key_is_relayed_with_one_time_pad() {
    passes(3, CipherPolicy::OtpOnly, Scheme::Random, &[Otp, Otp, Otp]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_hop_with_aes_makes_the_key_computational() {
    passes(2, CipherPolicy::AesOnly, Scheme::FirstKey, &[Shared, Aes256Gcm]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_key_is_relayed_with_aes() {
    passes(2, CipherPolicy::AesOnly, Scheme::Random, &[Aes256Gcm, Aes256Gcm]).await;
}

/// Figure 6 with a QRNG: both ends know that the bits were born there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_key_tells_that_a_qrng_made_it() {
    let dir = ends::temp_dir();
    let path = dir.path().join("qrng0");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let device = path.clone();
    std::thread::spawn(move || {
        // All three read from it, until the last of them is gone.
        let mut pipe = std::fs::OpenOptions::new().write(true).open(device).unwrap();
        while pipe.write_all(&ends::random(512)).is_ok() {}
    });
    let plan = Plan::chain(2, CipherPolicy::OtpOnly, Scheme::Random);
    let net = Net::start(Plan { qrng: Some(path), ..plan }).await;
    net.until("keys came", |net| net.kms[0].pool("c").own_bytes() > 0).await;
    let (a, c) = (sae("sae-a"), sae("sae-c"));
    let keys = net.kms[0].supply.issue(&a, std::slice::from_ref(&c), 256, 2).await.unwrap();
    let got = net.kms[2].supply.collect(&c, None, &ids_of(&keys)).await.unwrap();
    for key in keys.iter().chain(&got) {
        let way = &key.provenance;
        assert_eq!((&way.origin, way.grade()), (&Origin::Qrng, Grade::Computational));
    }
    net.stop_and_audit().await;
}

/// Policy and stock would spare the pad; who needs `its-relay` gets it all the same, and nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grade_that_is_asked_for_chooses_the_hop_ciphers() {
    for (cipher, scheme) in
        [(CipherPolicy::AesOnly, Scheme::FirstKey), (CipherPolicy::OtpElseAes, Scheme::Random)]
    {
        let plan = Plan::chain(2, cipher, scheme);
        let plan = Plan { mode: Mode::OnDemand, grade: Grade::ItsRelay, ..plan };
        let net = Net::start(plan).await;
        net.until("the links are stocked", |net| {
            [(0, "b"), (1, "c")]
                .iter()
                .all(|(at, peer)| net.kms[*at].pool(peer).own_bytes() > 512 << 10)
                && net.kms[0].pool("c").link_up()
        })
        .await;
        // What nobody asked for with a grade comes as policy says.
        assert!(net.kms[0].links.order(&ends::cluster("c"), 60_000));
        let far = |net: &Net| net.kms[0].pool("c");
        net.until("it came", |net| far(net).view().stored_bits >= 8 * 60_000).await;
        let its = |net: &Net| {
            let pool = far(net);
            pool.own_bytes_of(Grade::ItsRelay) + pool.peer_bytes_of(Grade::ItsRelay)
        };
        assert_eq!(its(&net), 0);
        let (a, c) = (sae("sae-a"), sae("sae-c"));
        for (here, there, one, other) in [(0, 2, &a, &c), (2, 0, &c, &a)] {
            let began = std::time::Instant::now();
            let keys = loop {
                match net.kms[here].supply.issue(one, std::slice::from_ref(other), 256, 2).await {
                    Ok(keys) => break keys,
                    Err(error) => assert!(began.elapsed() < net::PATIENCE, "{error}"),
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            };
            let got = net.kms[there].supply.collect(other, None, &ids_of(&keys)).await.unwrap();
            for key in keys.iter().chain(&got) {
                let ciphers: Vec<HopCipher> =
                    key.provenance.path.iter().map(|hop| hop.cipher).collect();
                assert_eq!((ciphers, key.provenance.grade()), (vec![Shared, Otp], Grade::ItsRelay));
            }
        }
        assert!(its(&net) < 8 << 10, "{} bytes for four keys", its(&net));
        net.stop_and_audit().await;
    }
}

/// Clause 9.4: who asks sends no key; the trusted node spends its own of both pools, which all ends account
/// for alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_node_supplies_the_exclusive_or_of_its_keys_with_both_ends_on_request() {
    passes(2, CipherPolicy::OtpOnly, Scheme::Supplied, &[Shared, Otp]).await;
    // Of two nodes with a link between them, such as satellites, the second passes on what the first supplies.
    passes(3, CipherPolicy::OtpOnly, Scheme::Supplied, &[Shared, Otp, Otp]).await;

    let plan = Plan::chain(2, CipherPolicy::OtpOnly, Scheme::Supplied);
    let net = Net::start(Plan { mode: Mode::Manual, ..plan }).await;
    net.until("the trusted node has keys with both", |net| {
        net.kms[2].pool("a").link_up()
            && ["a", "c"].iter().all(|peer| net.kms[1].pool(peer).own_bytes() > 256 << 10)
    })
    .await;
    assert!(net.kms[0].links.order(&ends::cluster("c"), 60_000));
    net.until("it came", |net| net.kms[2].pool("a").view().stored_bits >= 8 * 60_000).await;
    let sent =
        |at: usize| net.kms[at].links.status().iter().map(|link| link.hops_sent).sum::<u64>();
    assert_eq!([sent(0), sent(1), sent(2)], [0, 2, 0], "one batch, to each of the ends");
    net.until("both ends of each link account for the same pad", |net| {
        [(0, "b"), (1, "a"), (1, "c"), (2, "b")].iter().all(|(at, peer)| {
            let view = net.kms[*at].pool(peer).view();
            let pad = net.kms[1].pool("a").view().ledger.pad;
            view.ends_agree == Some(true) && view.ledger.pad == pad && pad >= 8 * 60_064
        })
    })
    .await;

    // Where the node has no more for one end, the other end's keys stay as they are.
    let stock = |net: &Net, peer: &str| net.kms[1].pool(peer).own_bytes();
    let short = Plan { dark: vec![1], ..net.plan.clone() };
    net.stop_and_audit().await;
    let net = Net::start(short).await;
    net.until("it has keys with one", |net| {
        net.kms[0].pool("c").link_up() && stock(net, "a") > 256 << 10
    })
    .await;
    assert!(net.kms[0].links.order(&ends::cluster("c"), 60_000));
    net.until("it was asked", |net| net.kms[0].links.relay().lost > 0).await;
    let ledger = net.kms[1].pool("a").view().ledger;
    assert_eq!((ledger.pad, ledger.burned), (0, 0));
    net.stop_and_audit().await;
}

/// Nothing is relayed until an application asks, and then as much as it asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_demand_an_empty_pool_serves_named_applications_at_either_end() {
    let plan = Plan::chain(2, CipherPolicy::OtpOnly, Scheme::FirstKey);
    let net = Net::start(Plan { mode: Mode::OnDemand, ..plan }).await;
    let stocked = |net: &Net| {
        let links = [(0, "b"), (1, "a"), (1, "c"), (2, "b")];
        links.iter().all(|(at, peer)| net.kms[*at].pool(peer).own_bytes() > 256 << 10)
            && net.kms[0].pool("c").link_up()
    };
    net.until("the links are stocked", stocked).await;
    assert_eq!(net.kms[0].pool("c").view().stored_bits, 0);
    let (a, c) = (sae("sae-a"), sae("sae-c"));
    for (here, there, one, other) in [(0, 2, &a, &c), (2, 0, &c, &a)] {
        let mut keys = Vec::new();
        // Nobody waits longer than half a second for a relay; who comes again finds it there.
        for _ in 0..100 {
            let slaves = std::slice::from_ref(other);
            match net.kms[here].supply.issue(one, slaves, 256, 3).await {
                Ok(issued) => {
                    keys = issued;
                    break;
                }
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
        assert_eq!(keys.len(), 3);
        let got = net.kms[there].supply.collect(other, None, &ids_of(&keys)).await.unwrap();
        assert_eq!(bytes_of(&keys[2]), bytes_of(&got[2]));
    }
    let stored = net.kms[0].pool("c").view().stored_bits / 8;
    assert!(stored < 16 << 10, "{stored} bytes were relayed for six keys");
    net.stop_and_audit().await;
}

/// At a fixed rate, whatever is stored; adaptive to the use; and at some times of the day only. To a
/// watermark, on demand and by hand: see the other tests here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_are_fed_at_a_rate_after_the_use_and_by_schedule() {
    let fed = async |mode: Mode| {
        let plan = Plan::chain(2, CipherPolicy::OtpOnly, Scheme::FirstKey);
        let net = Net::start(Plan { mode, ..plan }).await;
        let came = |net: &Net| net.kms[0].pool("c").view().ledger.absorbed / 8;
        net.until("both links have keys, and the pool is up", |net| {
            [(0, "b"), (1, "c")]
                .iter()
                .all(|(at, peer)| net.kms[*at].pool(peer).own_bytes() > 256 << 10)
                && net.kms[0].pool("c").link_up()
        })
        .await;
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let (began, first) = (std::time::Instant::now(), came(&net));
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        let rate = (came(&net) - first) as f64 / began.elapsed().as_secs_f64();
        (net, rate, came)
    };
    let (net, rate, _) = fed(Mode::Rate(20_000)).await;
    assert!((5_000.0..=45_000.0).contains(&rate), "{rate} bytes a second, 20000 were asked for");
    net.stop_and_audit().await;

    let horizon = std::time::Duration::from_secs(60);
    let (net, rate, came) = fed(Mode::Adaptive { horizon, least: 16 << 10 }).await;
    let idle = came(&net);
    assert!(rate == 0.0 && (16 << 10..40 << 10).contains(&idle), "{idle} bytes, nobody uses any");
    let (a, c) = (sae("sae-a"), sae("sae-c"));
    for _ in 0..30 {
        let _ = net.kms[0].supply.issue(&a, std::slice::from_ref(&c), 8192, 8).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    net.until("more comes than was used, for the minute ahead", |net| {
        net.kms[0].pool("c").view().stored_bits / 8 > 4 * idle
    })
    .await;
    net.stop_and_audit().await;

    let hour = |from: u64| {
        let now = km_core::clock::now_ms() / 3_600_000;
        let at = |hour: u64| format!("{:02}:00", hour % 24);
        Window::parse(&format!("{}-{}", at(now + from), at(now + from + 2))).unwrap()
    };
    let (net, _, came) = fed(Mode::Schedule { windows: vec![hour(2)], high: 64 << 10 }).await;
    assert_eq!(came(&net), 0, "it is not time yet");
    net.stop_and_audit().await;
    let (net, _, came) = fed(Mode::Schedule { windows: vec![hour(0)], high: 64 << 10 }).await;
    net.until("it is time", |net| came(net) >= 64 << 10).await;
    net.stop_and_audit().await;
}

/// By hand, from the end that does not send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_orders_comes_and_no_more() {
    let plan = Plan::chain(2, CipherPolicy::OtpOnly, Scheme::FirstKey);
    let net = Net::start(Plan { mode: Mode::Manual, ..plan }).await;
    let ready = |net: &Net| {
        net.kms[2].pool("a").link_up()
            && net.kms[0].pool("b").own_bytes() > 256 << 10
            && net.kms[1].pool("c").own_bytes() > 256 << 10
    };
    net.until("the links are stocked", ready).await;
    assert!(net.kms[2].links.order(&ends::cluster("a"), 100_000));
    assert!(!net.kms[2].links.order(&ends::cluster("b"), 100_000), "not fed by relay");
    let stored = |net: &Net| net.kms[2].pool("a").view().stored_bits / 8;
    net.until("it came", |net| stored(net) >= 100_000).await;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert!(stored(&net) < 102_000, "{} bytes came", stored(&net));
    // Once nobody uses them any more, what is left of the spans is given up and told.
    let agree = |net: &Net| {
        let links = [(0, "b"), (1, "a"), (1, "c"), (2, "b")];
        let views = links.map(|(at, peer)| net.kms[at].pool(peer).view());
        assert!(views.iter().all(|view| view.ends_agree != Some(false)), "{views:?}");
        views.iter().all(|view| view.ends_agree == Some(true) && view.ledger.pad >= 8 * 100_000)
    };
    net.until("both ends of each link say the same of their pad", agree).await;
    fed_as_the_table_says(&net).await;
    net.stop_and_audit().await;
}

/// What the controller says counts before what the KM was set to.
async fn fed_as_the_table_says(net: &Net) {
    let stored = |net: &Net| net.kms[0].pool("c").view().stored_bits / 8;
    let full = stored(net) + (256 << 10);
    let route = Route::new(["b", "c"].map(cluster).to_vec(), CipherPolicy::OtpOnly).unwrap();
    let tell = |version, feed| {
        let ways = Ways { routes: vec![route.clone()], feed, ..Ways::default() };
        net.kms[0].routes.put(RoutingTable { version, to: [(cluster("c"), ways)].into() });
    };
    tell(1, Some(Mode::Watermark { low: full, high: full }));
    net.until("the watermark is reached", |net| stored(net) >= full).await;
    tell(2, Some(Mode::Watermark { low: full, high: 2 * full }));
    tell(3, None);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(stored(net) < full + (256 << 10), "by hand again, as it was set");
}

/// The last cluster has no QKD: its KM link to the one before fills their pool, and that carries what
/// others relay to it. All of it is computational and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_qkd_is_filled_over_its_km_link() {
    let mut plan = Plan::chain(2, CipherPolicy::AesOnly, Scheme::FirstKey);
    plan.links = vec![(0, 1)];
    plan.relays.push((1, 2, Vec::new()));
    let net = Net::start(plan).await;
    net.until("all pools have keys at both ends", |net| {
        let ends = [(0, "b"), (1, "a"), (1, "c"), (2, "b"), (0, "c"), (2, "a")];
        ends.iter().all(|(at, peer)| net.kms[*at].pool(peer).own_bytes() > 0)
    })
    .await;
    let (a, b, c) = (sae("sae-a"), sae("sae-b"), sae("sae-c"));
    let ways = [(1, &b, vec![KmLink]), (0, &a, vec![Shared, Aes256Gcm])];
    for (at, master, expected) in ways {
        let (here, there) = (&net.kms[at].supply, &net.kms[2].supply);
        let keys = here.issue(master, std::slice::from_ref(&c), 256, 8).await.unwrap();
        let got = there.collect(&c, None, &ids_of(&keys)).await.unwrap();
        for (key, same) in keys.iter().zip(&got) {
            assert_eq!(bytes_of(key), bytes_of(same));
            for seen in [&key.provenance, &same.provenance] {
                let ciphers: Vec<HopCipher> = seen.path.iter().map(|hop| hop.cipher).collect();
                assert_eq!((ciphers, seen.grade()), (expected.clone(), Grade::Computational));
            }
        }
    }
    for (from, to, expected) in
        [(1, 2, vec![KmLink]), (0, 2, vec![Shared, OtpComputational]), (0, 1, vec![Shared])]
    {
        let qkd = Origin::Qkd(LinkId::parse("elsewhere").unwrap());
        let grade = if to == 1 { Grade::ItsRelay } else { Grade::Computational };
        assert_eq!(net.copy(from, to, qkd).await, (expected, grade));
    }
    net.stop_and_audit().await;
}
