//! Relay over 1, 2 and 4 nodes in the middle: real processes, sealed and stored. `QKM_BENCH_RELAY_MIB`
//! sets how much is relayed for each figure (default 12, at most 16).
//!
//! Keys are of 256 bits and count when both ends have them stored. On demand, each request finds an
//! empty pool and asks for the least the relay brings, 1 KiB.

use std::time::{Duration, Instant};

use qkm_tests::{
    chain::{Chain, Far, Plan, SAES},
    load::{cpu, report::Report},
};
use serde_json::Value;

/// Between one end and the other, and how many nodes are in the middle.
const WAYS: [(usize, usize, usize); 3] = [(0, 2, 1), (0, 3, 2), (0, 5, 4)];
const ON_DEMAND: (usize, usize) = (1, 3);
const REQUESTS: usize = 300;

pub(crate) async fn rows(report: &mut Report) {
    let bytes = super::number("QKM_BENCH_RELAY_MIB", 12) << 20;
    for (cipher, lines) in [
        ("otp", "cipher = \"otp-only\"\nmode = \"manual\""),
        ("aes", "cipher = \"aes-only\"\nscheme = \"random\"\nmode = \"manual\""),
    ] {
        let mut far: Vec<Far> =
            WAYS.iter().map(|(from, to, _)| Far { from: *from, to: *to, lines }).collect();
        let (from, to) = ON_DEMAND;
        let lines = match cipher {
            "otp" => "cipher = \"otp-only\"\nmode = \"on-demand\"",
            _ => "cipher = \"aes-only\"\nscheme = \"random\"\nmode = \"on-demand\"",
        };
        far.push(Far { from, to, lines });
        let plan =
            Plan { clusters: 6, far, rate: "\"max\"", max_stored_mib: 1024, ..Plan::default() };
        let chain = Chain::start(plan).await;
        stock(&chain, bytes * if cipher == "otp" { 8 } else { 1 }).await;
        for way in WAYS {
            throughput(&chain, report, cipher, way, bytes).await;
        }
        on_demand(&chain, report, cipher).await;
    }
}

fn bits(pool: &Value, name: &str) -> u64 {
    pool[name].as_u64().unwrap_or(0)
}

/// Lets the QKD links fill their pools, and stops them.
async fn stock(chain: &Chain, bytes: u64) {
    let links: Vec<usize> = (1..chain.clusters()).collect();
    loop {
        let mut least = u64::MAX;
        for at in &links {
            least = least.min(bits(&chain.pool(at - 1, *at).await, "stored_bits") / 8);
        }
        if least >= bytes {
            break;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    chain.set_sims_paused(true).await;
    quiet(chain).await;
}

fn used(chain: &Chain) -> u64 {
    (0..chain.clusters()).map(|at| cpu::used_us(chain.pid(at))).sum()
}

async fn quiet(chain: &Chain) {
    loop {
        let before = used(chain);
        tokio::time::sleep(Duration::from_millis(500)).await;
        if used(chain) - before <= 60_000 {
            return;
        }
    }
}

async fn throughput(
    chain: &Chain,
    report: &mut Report,
    cipher: &str,
    (from, to, nodes): (usize, usize, usize),
    bytes: u64,
) {
    let (before, since) = (used(chain), Instant::now());
    chain.order(from, to, bytes).await;
    let stored = async |at, far| bits(&chain.pool(at, far).await, "stored_bits") / 8;
    while stored(from, to).await < bytes || stored(to, from).await < bytes {
        assert!(since.elapsed() < Duration::from_secs(120), "the relay stands still");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (seconds, keys) = (since.elapsed().as_secs_f64(), bytes as f64 / 32.0);
    let us = (used(chain) - before) as f64 / keys / (nodes + 1) as f64;
    let name = format!("relay_{cipher}_keys_per_s.nodes{nodes}");
    report.add(&name, keys / seconds, "keys/s");
    report.add(&format!("{name}.cpu_per_link"), us, "us/key");
    report.add(&format!("{name}.per_link_and_core"), 1e6 / us, "keys/s");
    quiet(chain).await;
}

async fn on_demand(chain: &Chain, report: &mut Report, cipher: &str) {
    let (from, to) = ON_DEMAND;
    let near = chain.etsi(from);
    let path = format!("/api/v1/keys/{}/enc_keys?number=1&size=8192", SAES[to]);
    let (mut times, mut failed) = (Vec::new(), 0);
    for _ in 0..REQUESTS {
        let since = Instant::now();
        let said = near.get(&path).await.expect("the KM answers");
        match said.status {
            200 => times.push(since.elapsed().as_micros() as u64),
            _ => failed += 1,
        }
    }
    times.sort_unstable();
    assert!(times.len() > REQUESTS / 2, "{failed} of {REQUESTS} requests on demand got no key");
    let name = format!("relay_{cipher}_on_demand.hops2");
    report.add(&format!("{name}.p50"), times[times.len() / 2] as f64, "us");
    report.add(&format!("{name}.p99"), times[times.len() * 99 / 100] as f64, "us");
    report.add(&format!("{name}.failed"), f64::from(failed), "");
}
