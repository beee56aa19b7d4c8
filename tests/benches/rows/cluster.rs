//! One site with an embedded store, then with one, two and three KMs on an etcd of three members: what is
//! taken in, and what applications get that ask all of its KMs.
//!
//! All of it shares the processors of one machine, so more KMs cannot be faster here, and what the engine
//! uses the KMs lack. So it is measured a second time (`_apart`) with half of the processors for the engine
//! alone and the other half for the rest, also where the store is embedded: as if the engine had machines
//! of its own. What one operation costs the KMs is beside each rate, the engine apart.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use qkm_tests::{
    cluster::{Cluster, NORTH, SOUTH, Settings},
    load::{
        Framing, Script, Target, closed_loop, cpu,
        report::Report,
        scripts::{Kmip, Pair, create_one},
    },
};

/// Of applications with each KM, as elsewhere in this benchmark: more KMs are for more of them.
const CONNECTIONS: usize = 64;
const POOL_MIB: u64 = 512;

pub(super) async fn rows(report: &mut Report, time: Duration) {
    sites(report, time, None).await;
}

pub(super) async fn rows_apart(report: &mut Report, time: Duration) {
    if let Some(halves) = Halves::begin() {
        sites(report, time, Some(&halves)).await;
    }
}

async fn sites(report: &mut Report, time: Duration, halves: Option<&Halves>) {
    let settings = Settings {
        rate: "\"max\"",
        max_stored_mib: POOL_MIB,
        quota: 4 << 30,
        direct: true,
        ..Settings::default()
    };
    site(report, time, halves, Settings { kms: 1, embedded: true, ..settings }).await;
    for kms in 1..=NORTH {
        site(report, time, halves, Settings { kms, ..settings }).await;
    }
}

/// The processors, in two halves. This process, and what it starts, has the first until this is dropped.
struct Halves {
    all: usize,
}

impl Halves {
    fn begin() -> Option<Self> {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        (all > 1).then(|| {
            pin(std::process::id(), 0..all / 2);
            Self { all }
        })
    }

    /// Has a process run on the second half.
    fn second(&self, pid: u32) {
        pin(pid, self.all / 2..self.all);
    }
}

impl Drop for Halves {
    fn drop(&mut self) {
        pin(std::process::id(), 0..self.all);
    }
}

fn pin(pid: u32, processors: std::ops::Range<usize>) {
    let list = format!("{}-{}", processors.start, processors.end - 1);
    let done = Command::new("taskset").args(["-a", "-c", "-p", &list, &pid.to_string()]).output();
    let done = done.expect("taskset of util-linux");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

async fn site(report: &mut Report, time: Duration, halves: Option<&Halves>, settings: Settings) {
    let apart = if halves.is_some() { "_apart" } else { "" };
    let name = match settings.embedded {
        true => format!("embedded{apart}"),
        false => format!("etcd_km{}{apart}", settings.kms),
    };
    let cluster = Cluster::with(settings).await;
    if let Some(halves) = halves {
        let pids = cluster.engine.pids.lock().expect("no panic").clone();
        pids.into_iter().for_each(|pid| halves.second(pid));
    }
    let kms: Vec<usize> = (0..settings.kms).collect();
    let pids: Vec<u32> = kms.iter().map(|km| cluster.pid(*km)).collect();
    let used = || pids.iter().map(|pid| cpu::used_us(*pid)).sum::<u64>() as f64;
    let mut put = |what: &str, value: f64, unit: &str| {
        let row = |name: &str| format!("cluster_{what}.{name}");
        match report.get(&row(&format!("embedded{apart}"))) {
            Some(embedded) => report.against(&row(&name), value, unit, embedded),
            None => report.add(&row(&name), value, unit),
        }
    };
    let (taken, km_us) = ingest(&cluster, settings.kms, time, used).await;
    put("ingest_keys_per_s", taken, "keys/s");
    put("ingest_km_cpu", km_us, "us/key");
    cluster.set_sim_paused(true).await;
    let at = |km: usize, sae: &str| {
        let site = cluster.site(km);
        Target::new(&site.etsi014.to_string(), cluster.application(sae), Framing::Http)
    };
    let connections = CONNECTIONS * kms.len();
    let mut pairs = Vec::new();
    for number in 0..connections {
        let master = at(kms[number % kms.len()], "sae-n1").connect().await;
        let slave = at(SOUTH, "sae-s1").connect().await;
        pairs.push(Pair::new(master, slave, ("sae-n1", "sae-s1"), 1));
    }
    let mut targets = Vec::new();
    for km in &kms {
        let address = cluster.site(*km).kmip.to_string();
        targets.push(Target::new(&address, cluster.application("sae-n1"), Framing::Kmip));
    }
    let (mut gets, mut creates) = (Vec::new(), Vec::new());
    for number in 0..connections {
        let target = &targets[number % targets.len()];
        let mut connection = target.connect().await;
        let own = create_one(&mut connection).await;
        gets.push(Kmip::get(connection, &[&own]));
        creates.push(Kmip::create(target.connect().await));
    }
    for (what, (rate, km_us)) in [
        ("pairs", measured(pairs, time, used).await),
        ("kmip_get", measured(gets, time, used).await),
        ("kmip_create", measured(creates, time, used).await),
    ] {
        put(&format!("{what}_per_s"), rate, "1/s");
        put(&format!("{what}_km_cpu"), km_us, "us/op");
    }
}

/// Keys of 256 bits taken in each second, durable when they are counted, and what one cost the KMs.
async fn ingest(
    cluster: &Cluster,
    kms: usize,
    time: Duration,
    used_us: impl Fn() -> f64,
) -> (f64, f64) {
    let taken = async || {
        let mut bytes = 0.0;
        for km in 0..kms {
            bytes += cluster.metric(km, "qkm_pool_absorbed_bytes_total").await;
        }
        bytes / 32.0
    };
    let (before, used, since) = (taken().await, used_us(), Instant::now());
    tokio::time::sleep(time).await;
    let (taken, used) = (taken().await - before, used_us() - used);
    (taken / since.elapsed().as_secs_f64(), used / taken)
}

/// Operations in each second, and what one cost the KMs.
async fn measured<S: Script>(
    scripts: Vec<S>,
    time: Duration,
    used_us: impl Fn() -> f64,
) -> (f64, f64) {
    let (before, since) = (used_us(), Instant::now());
    let figures = closed_loop(scripts, time).await;
    let share = time.as_secs_f64() / since.elapsed().as_secs_f64();
    let used = (used_us() - before) * share;
    if let Some(failure) = &figures.first_failure {
        println!("{} failures, the first: {failure}", figures.failures);
    }
    (figures.per_second(), used / figures.operations.max(1) as f64)
}
