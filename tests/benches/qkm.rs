//! `make bench`: what one machine does, measured against a bare TLS echo in the same run.
//!
//! Processes are real: a simulator, two KMs on SoftHSM, the echo, and this load generator, all on
//! the same cores. Every figure of a server comes with the CPU it used for one operation, which is
//! the steadiest on a noisy machine; that of the HSM worker alone (`seal`) with that of its callers too. What
//! is measured and what it is measured against take turns. Results also go to
//! `target/bench/results.json`.
//!
//! `QKM_BENCH_SECONDS` sets the time of each measurement (default 4);
//! `QKM_BENCH_ONLY` names parts (`etsi014`, `kmip`, `usage`, `seal`, `connections`, `locate`, `ingest`,
//! `relay`, `cluster`, `cluster_apart`, `simulation`), with commas between them, to leave the others out;
//! `QKM_BENCH_KEYS` the keys stored for the memory figure (default 10 million);
//! `QKM_BENCH_OBJECTS` the objects among which names are looked for (default 1 million);
//! `QKM_BENCH_IDLE` the idle connections (default 2000).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a benchmark")]

#[path = "parts/kmip.rs"]
mod kmip;
#[path = "parts/relay.rs"]
mod relay;
#[path = "parts/seal.rs"]
mod seal;
#[path = "parts/usage.rs"]
mod usage;

#[path = "rows/cluster.rs"]
mod cluster;
#[path = "rows/simulation.rs"]
mod simulation;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use qkm_tests::{
    load::{
        Figures, Framing, Script, Target, closed_loop, cpu, direct, echo, paced,
        report::Report,
        scripts::{Echo, Enc, Kmip, Pair, create_one, get_request},
    },
    network::{End, Network, Options, target_dir},
};
use transport::TlsFiles;

const CONNECTIONS: [usize; 3] = [1, 8, 64];
/// A measurement and what it is measured against take turns, so that both see the same machine.
const TURNS: u32 = 4;
/// About the sizes of an `enc_keys` exchange for one key.
const ECHO_REQUEST: usize = 96;
const ECHO_RESPONSE: usize = 320;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// What can be measured by itself.
const PARTS: [&str; 11] = [
    "etsi014",
    "kmip",
    "usage",
    "seal",
    "connections",
    "locate",
    "ingest",
    "relay",
    "cluster",
    "cluster_apart",
    "simulation",
];
/// Longest wait for the simulator to fill a pool, and for a KM to be done with what it took in.
const FILLING: Duration = Duration::from_secs(1800);
const QUIET: Duration = Duration::from_secs(120);

/// The parts to be measured: all, or those `QKM_BENCH_ONLY` names.
fn parts() -> Vec<&'static str> {
    let Ok(only) = std::env::var("QKM_BENCH_ONLY") else { return PARTS.to_vec() };
    let known = |name: &str| PARTS.into_iter().find(|part| *part == name.trim());
    let known =
        |name| known(name).unwrap_or_else(|| panic!("no part {name:?}; there are {PARTS:?}"));
    only.split(',').map(known).collect()
}

fn main() {
    // These are processes of their own, without a runtime.
    if direct::role() || seal::role() {
        return;
    }
    measure();
}

#[tokio::main]
async fn measure() {
    if let Some((files, request, response)) = echo_role() {
        return echo::run(files, request, response).await;
    }
    let parts = parts();
    let wanted = |part: &str| parts.contains(&part);
    let time = Duration::from_secs(number("QKM_BENCH_SECONDS", 4));
    let stored_keys = number("QKM_BENCH_KEYS", 10_000_000);
    let options =
        Options { rate: Some("\"max\"".into()), max_stored_mib: 1024, ..Options::default() };
    let network = Network::start(options).await;
    // Nothing is taken in while something else is measured.
    network.set_sim_paused(true).await;
    let echo = Ceiling::start(&network);
    let mut bench = Bench { report: Report::default(), time, echo };

    bench.report.add("fsync_median", cpu::fsync_median_us(network.dir(), 300) as f64, "us");
    bench.ceiling().await;
    bench.fill(&network, 400_000).await;
    if wanted("etsi014") {
        bench.etsi014(&network).await;
    }
    if wanted("kmip") {
        bench.kmip(&network).await;
    }
    if wanted("usage") {
        bench.usage(&network).await;
        bench.sizes(&network).await;
    }
    if wanted("seal") {
        seal::rows(&mut bench.report, network.site(End::North), time).await;
    }
    if wanted("connections") {
        bench.connections(&network).await;
    }
    if wanted("locate") {
        bench.locate(&network).await;
    }
    if wanted("ingest") {
        bench.fill(&network, stored_keys).await;
        let resident = cpu::resident_mib(network.pid(End::North));
        bench.report.add("km_resident", resident, "MiB");
        bench.etsi014_flat(&network).await;
    }
    drop(network);
    if wanted("relay") {
        relay::rows(&mut bench.report).await;
    }
    if wanted("cluster") {
        cluster::rows(&mut bench.report, time).await;
    }
    if wanted("cluster_apart") {
        cluster::rows_apart(&mut bench.report, time).await;
    }
    if wanted("simulation") {
        tokio::task::block_in_place(|| simulation::mesh(&mut bench.report));
    }
    bench.report.write(&target_dir().join("bench/results.json"));
}

/// `--echo CERTIFICATE KEY CA REQUEST RESPONSE`: this process is the echo server, for messages of so many
/// bytes.
fn echo_role() -> Option<(TlsFiles, usize, usize)> {
    let mut args = std::env::args().skip_while(|arg| arg != "--echo").skip(1);
    let (certificate, key, ca) = (args.next()?.into(), args.next()?.into(), args.next()?.into());
    let mut bytes = || args.next()?.parse().ok();
    Some((TlsFiles { certificate, key, ca }, bytes()?, bytes()?))
}

struct Bench {
    report: Report,
    time: Duration,
    echo: Ceiling,
}

/// The bare TLS echo.
struct Ceiling {
    server: Server,
    target: Target,
}

impl Ceiling {
    fn start(network: &Network) -> Self {
        let (server, address) = spawn_echo(&network.tls("km-north"), ECHO_REQUEST, ECHO_RESPONSE);
        let framing = Framing::Fixed(ECHO_RESPONSE);
        Self { server, target: Target::new(&address, &network.tls("sae-n1"), framing) }
    }

    async fn scripts(&self, connections: usize) -> Vec<Echo> {
        let open = self.target.connect_many(connections).await;
        open.into_iter().map(|c| Echo::new(c, ECHO_REQUEST)).collect()
    }
}

impl Bench {
    /// Runs scripts made for each number of connections, in turn with the echo; reports rates, latencies
    /// and CPU.
    async fn sweep<S, F>(&mut self, name: &str, pid: u32, mut scripts: F)
    where
        S: Script,
        F: AsyncFnMut(usize) -> Vec<S>,
    {
        let time = self.time / TURNS;
        for connections in CONNECTIONS {
            let (mut figures, mut used, mut echoed) = (Figures::default(), 0.0, 0.0);
            for _ in 0..TURNS {
                let echo = closed_loop(self.echo.scripts(connections).await, time).await;
                echoed += echo.per_second() / f64::from(TURNS);
                let (turn, turn_used) = loaded(scripts(connections).await, pid, time).await;
                figures.add(turn);
                used += turn_used;
            }
            self.rows(name, connections, &figures, used, Some(echoed));
        }
    }

    fn rows(
        &mut self,
        name: &str,
        connections: usize,
        figures: &Figures,
        used_us: f64,
        ceiling: Option<f64>,
    ) {
        if let Some(failure) = &figures.first_failure {
            println!("{name}: {} failures, the first: {failure}", figures.failures);
        }
        let name = format!("{name}@{connections}");
        match ceiling {
            Some(ceiling) => self.report.against(&name, figures.per_second(), "1/s", ceiling),
            None => self.report.add(&name, figures.per_second(), "1/s"),
        }
        self.report.add(&format!("{name}.p50"), figures.p50() as f64, "us");
        self.report.add(&format!("{name}.p99"), figures.p99() as f64, "us");
        let each = used_us / figures.operations.max(1) as f64;
        self.report.add(&format!("{name}.server_cpu"), each, "us/op");
    }

    /// Latency at half of what the peak was, at 64 connections.
    async fn half_load<S: Script>(&mut self, name: &str, scripts: Vec<S>) {
        let peak = self.report.get(&format!("{name}@64")).expect("measured before");
        let figures = paced(scripts, peak / 2.0, self.time).await;
        let name = format!("{name}.half_load_p50");
        let echo = self.report.get("tls_echo_per_s.half_load_p50");
        let fsync = self.report.get("fsync_median").unwrap_or(0.0);
        match echo {
            Some(echo) => {
                self.report.against(&name, figures.p50() as f64, "us", echo.max(fsync));
            }
            None => self.report.add(&name, figures.p50() as f64, "us"),
        }
    }

    /// The echo alone.
    async fn ceiling(&mut self) {
        let pid = self.echo.server.0.id();
        for connections in CONNECTIONS {
            let scripts = self.echo.scripts(connections).await;
            let (figures, used) = loaded(scripts, pid, self.time).await;
            self.rows("tls_echo_per_s", connections, &figures, used, None);
        }
        let half = self.echo.scripts(64).await;
        self.half_load("tls_echo_per_s", half).await;
    }

    /// Lets the simulator fill the pool, and says how fast it was stored.
    async fn fill(&mut self, network: &Network, keys: u64) {
        let want = keys as f64 * 32.0;
        let stored = || async { network.metric(End::North, "qkm_pool_stored_bytes").await };
        let first = stored().await;
        network.set_sim_paused(false).await;
        let (since, before) = (Instant::now(), cpu::used_us(network.pid(End::North)));
        let mut now = first;
        while now < want {
            assert!(since.elapsed() < FILLING, "the pool has {now} of {want} bytes only");
            tokio::time::sleep(Duration::from_millis(200)).await;
            now = stored().await;
        }
        let elapsed = since.elapsed().as_secs_f64();
        let used = (cpu::used_us(network.pid(End::North)) - before) as f64;
        network.set_sim_paused(true).await;
        self.quiet(network).await;
        let new_keys = (now - first) / 32.0;
        if keys >= 1_000_000 {
            self.report.add("ingest_keys_per_s", new_keys / elapsed, "keys/s");
            self.report.add("ingest_keys_per_s.server_cpu", used / new_keys, "us/key");
            self.report.add("stored_keys", now / 32.0, "keys");
        }
    }

    /// Waits until both KMs are done with what they took in.
    async fn quiet(&self, network: &Network) {
        let used = || cpu::used_us(network.pid(End::North)) + cpu::used_us(network.pid(End::South));
        let since = Instant::now();
        loop {
            assert!(since.elapsed() < QUIET, "the KMs are never done with what they took in");
            let before = used();
            tokio::time::sleep(Duration::from_millis(500)).await;
            if used() - before <= 20_000 {
                return;
            }
        }
    }

    async fn etsi014(&mut self, network: &Network) {
        let north =
            Target::new(&network.etsi014(End::North), &network.tls("sae-n1"), Framing::Http);
        let south =
            Target::new(&network.etsi014(End::South), &network.tls("sae-s1"), Framing::Http);
        let pid = network.pid(End::North);
        let enc = async |count| {
            let connections = north.connect_many(count).await;
            connections.into_iter().map(|c| Enc::new(c, "sae-s1", 1)).collect::<Vec<_>>()
        };
        self.sweep("etsi014_enc_per_s", pid, enc).await;
        let half = enc(64).await;
        self.half_load("etsi014_enc_per_s", half).await;
        let status = b"GET /api/v1/keys/sae-s1/status HTTP/1.1\r\nHost: km\r\n\r\n";
        self.first_answer("etsi014_enc_per_s", &north, status).await;
        for keys in [1, 128] {
            let pairs = async |count| {
                let masters = north.connect_many(count).await.into_iter();
                let slaves = south.connect_many(count).await;
                let both = masters.zip(slaves);
                both.map(|(m, s)| Pair::new(m, s, ("sae-n1", "sae-s1"), keys)).collect()
            };
            let name = format!("etsi014_pairs_per_s.n{keys}");
            self.sweep(&name, pid, pairs).await;
            let half = pairs(64).await;
            self.half_load(&name, half).await;
        }
    }

    /// The same request again with many keys stored: the rate must not depend on it.
    async fn etsi014_flat(&mut self, network: &Network) {
        let north =
            Target::new(&network.etsi014(End::North), &network.tls("sae-n1"), Framing::Http);
        let connections = north.connect_many(64).await;
        let scripts = connections.into_iter().map(|c| Enc::new(c, "sae-s1", 1)).collect();
        let figures = closed_loop(scripts, self.time).await;
        let name = "etsi014_enc_per_s.many_stored@64";
        match self.report.get("etsi014_enc_per_s@64") {
            Some(before) => self.report.against(name, figures.per_second(), "1/s", before),
            None => self.report.add(name, figures.per_second(), "1/s"),
        }
    }

    /// A first answer on a new connection, without the time its handshake took: a stall of 40 ms
    /// would be Nagle's algorithm waiting for a delayed ACK.
    async fn first_answer(&mut self, name: &str, target: &Target, request: &[u8]) {
        let mut times = Vec::new();
        for _ in 0..50 {
            let mut connection = target.connect().await;
            let since = Instant::now();
            connection.ask(request).await.expect("the server answers");
            times.push(since.elapsed().as_micros() as u64);
        }
        times.sort_unstable();
        self.report.add(&format!("{name}.first_answer_p50"), times[25] as f64, "us");
        self.report.add(&format!("{name}.first_answer_max"), times[49] as f64, "us");
    }

    async fn kmip(&mut self, network: &Network) {
        let target = Target::new(&network.kmip(End::North), &network.tls("sae-n1"), Framing::Kmip);
        let pid = network.pid(End::North);
        let uid = create_one(&mut target.connect().await).await;
        let get = async |count| {
            let connections = target.connect_many(count).await;
            connections.into_iter().map(|c| Kmip::get(c, &[&uid])).collect::<Vec<_>>()
        };
        self.sweep("kmip_get_per_s", pid, get).await;
        // As many objects as no two connections ask for at the same moment.
        let mut connection = target.connect().await;
        let mut uids = Vec::new();
        for _ in 0..1000 {
            uids.push(create_one(&mut connection).await);
        }
        let get_any = async |count| {
            let connections = target.connect_many(count).await.into_iter().enumerate();
            let others = |lane: usize| uids.iter().skip(lane).step_by(count).collect::<Vec<_>>();
            connections.map(|(lane, c)| Kmip::get(c, &others(lane))).collect::<Vec<_>>()
        };
        self.sweep("kmip_get_distinct_per_s", pid, get_any).await;
        let half = get(64).await;
        self.half_load("kmip_get_per_s", half).await;
        self.first_answer("kmip_get_per_s", &target, &get_request(&uid)).await;
        let create = async |count| {
            let connections = target.connect_many(count).await;
            connections.into_iter().map(Kmip::create).collect::<Vec<_>>()
        };
        self.sweep("kmip_create_per_s", pid, create).await;
        let half = create(64).await;
        self.half_load("kmip_create_per_s", half).await;
    }
}

/// Scripts as fast as they get answers, and the CPU that `pid` used for what is counted, in microseconds.
async fn loaded<S: Script>(scripts: Vec<S>, pid: u32, time: Duration) -> (Figures, f64) {
    let (before, since) = (cpu::used_us(pid), Instant::now());
    let figures = closed_loop(scripts, time).await;
    let share = time.as_secs_f64() / since.elapsed().as_secs_f64();
    (figures, (cpu::used_us(pid) - before) as f64 * share)
}

/// Killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn_echo(files: &TlsFiles, request: usize, response: usize) -> (Server, String) {
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .arg("--echo")
        .args([&files.certificate, &files.key, &files.ca])
        .args([request.to_string(), response.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the echo starts");
    let mut address = String::new();
    let out = child.stdout.take().expect("piped");
    BufReader::new(out).read_line(&mut address).expect("an address");
    (Server(child), address.trim().to_owned())
}
