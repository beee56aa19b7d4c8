//! One site with an embedded store, then with one, two and three KMs on an etcd of three members: what is
//! taken in, and what applications get that ask all of its KMs. All of it shares the cores of one
//! machine, so more KMs cannot be faster here; what one costs is seen.

use std::time::{Duration, Instant};

use qkm_tests::{
    cluster::{Cluster, NORTH, SOUTH, Settings},
    load::{
        Framing, Script, Target, closed_loop,
        report::Report,
        scripts::{Kmip, Pair, create_one},
    },
};

const CONNECTIONS: usize = 32;
const POOL_MIB: u64 = 512;

pub(super) async fn rows(report: &mut Report, time: Duration) {
    let settings = Settings {
        rate: "\"max\"",
        max_stored_mib: POOL_MIB,
        quota: 4 << 30,
        direct: true,
        ..Settings::default()
    };
    site(report, time, "embedded", Settings { kms: 1, embedded: true, ..settings }).await;
    for kms in 1..=NORTH {
        site(report, time, &format!("etcd_km{kms}"), Settings { kms, ..settings }).await;
    }
}

async fn site(report: &mut Report, time: Duration, name: &str, settings: Settings) {
    let cluster = Cluster::with(settings).await;
    let mut put = |what: &str, value: f64, unit: &str| {
        let row = format!("cluster_{what}.{name}");
        match report.get(&format!("cluster_{what}.embedded")) {
            Some(embedded) => report.against(&row, value, unit, embedded),
            None => report.add(&row, value, unit),
        }
    };
    put("ingest_keys_per_s", ingest(&cluster, settings.kms, time).await, "keys/s");
    cluster.set_sim_paused(true).await;
    let kms: Vec<usize> = (0..settings.kms).collect();
    let at = |km: usize, sae: &str| {
        let site = cluster.site(km);
        Target::new(&site.etsi014.to_string(), cluster.application(sae), Framing::Http)
    };
    let mut pairs = Vec::new();
    for number in 0..CONNECTIONS {
        let master = at(kms[number % kms.len()], "sae-n1").connect().await;
        let slave = at(SOUTH, "sae-s1").connect().await;
        pairs.push(Pair::new(master, slave, ("sae-n1", "sae-s1"), 1));
    }
    put("pairs_per_s", measured(pairs, time).await, "1/s");
    let mut targets = Vec::new();
    for km in &kms {
        let address = cluster.site(*km).kmip.to_string();
        targets.push(Target::new(&address, cluster.application("sae-n1"), Framing::Kmip));
    }
    let uid = create_one(&mut targets[0].connect().await).await;
    let (mut gets, mut creates) = (Vec::new(), Vec::new());
    for number in 0..CONNECTIONS {
        let target = &targets[number % targets.len()];
        gets.push(Kmip::get(target.connect().await, &[&uid]));
        creates.push(Kmip::create(target.connect().await));
    }
    put("kmip_get_per_s", measured(gets, time).await, "1/s");
    put("kmip_create_per_s", measured(creates, time).await, "1/s");
}

/// Keys of 256 bits taken in each second, durable when they are counted.
async fn ingest(cluster: &Cluster, kms: usize, time: Duration) -> f64 {
    let taken = async || {
        let mut bytes = 0.0;
        for km in 0..kms {
            bytes += cluster.metric(km, "qkm_pool_absorbed_bytes_total").await;
        }
        bytes / 32.0
    };
    let (before, since) = (taken().await, Instant::now());
    tokio::time::sleep(time).await;
    (taken().await - before) / since.elapsed().as_secs_f64()
}

async fn measured<S: Script>(scripts: Vec<S>, time: Duration) -> f64 {
    let figures = closed_loop(scripts, time).await;
    if let Some(failure) = &figures.first_failure {
        println!("{} failures, the first: {failure}", figures.failures);
    }
    figures.per_second()
}
