//! More of the KMIP front: messages of other sizes, Locate among many objects, new connections with
//! and without resumption, and what an idle connection keeps.

use std::time::{Duration, Instant};

use qkm_tests::{
    load::{
        Framing, Target, closed_loop, cpu,
        scripts::{Connect, Kmip, create_named, discover_request, encrypt_request, locate_request},
    },
    network::{End, Network},
};

use super::{Bench, ECHO_REQUEST, ECHO_RESPONSE, number, spawn_echo};

/// Bytes that are encrypted at a time, besides 1 KiB.
const SIZES: [(&str, usize); 2] = [("64", 64), ("4k", 4096)];
/// Connections that make objects, and objects in one of their batches.
const MAKERS: usize = 16;
const BATCH: u64 = 100;
/// Names that are looked for in turn.
const LOOKED_FOR: u64 = 1000;
/// Clients that open one connection after the other.
const OPENERS: [usize; 2] = [1, 8];
/// Longer than a connection that pauses keeps its buffers.
const PAUSE: Duration = Duration::from_secs(4);

impl Bench {
    /// Encrypt of other sizes in the token.
    pub(super) async fn sizes(&mut self, network: &Network) {
        let target = Target::new(&network.kmip(End::North), &network.tls("sae-n1"), Framing::Kmip);
        let mut first = target.connect().await;
        for (name, bytes) in SIZES {
            let request = encrypt_request(&mut first, bytes, 1).await;
            let scripts = async |count| {
                let connections = target.connect_many(count).await;
                let always = |c| Kmip::always(c, request.clone());
                connections.into_iter().map(always).collect::<Vec<_>>()
            };
            self.sweep(&format!("kmip_encrypt_{name}_per_s"), network.pid(End::North), scripts)
                .await;
        }
    }

    /// Locate by name; `QKM_BENCH_OBJECTS` objects are made first (default 1 million).
    pub(super) async fn locate(&mut self, network: &Network) {
        let objects = number("QKM_BENCH_OBJECTS", 1_000_000).max(LOOKED_FOR);
        let target = Target::new(&network.kmip(End::North), &network.tls("sae-n1"), Framing::Kmip);
        let since = Instant::now();
        let mut makers = tokio::task::JoinSet::new();
        for lane in 0..MAKERS as u64 {
            let mut connection = target.connect().await;
            makers.spawn(async move {
                let lanes = MAKERS as u64;
                let (from, to) = (objects * lane / lanes, objects * (lane + 1) / lanes);
                let mut next = from;
                while next < to {
                    let until = (next + BATCH).min(to);
                    create_named(&mut connection, next..until).await;
                    next = until;
                }
            });
        }
        makers.join_all().await;
        let per_second = objects as f64 / since.elapsed().as_secs_f64();
        self.report.add("kmip_create_named_in_batches_per_s", per_second, "1/s");
        let requests: Vec<Vec<u8>> =
            (0..LOOKED_FOR).map(|at| locate_request(at * (objects / LOOKED_FOR))).collect();
        let scripts = async |count| {
            let connections = target.connect_many(count).await.into_iter().enumerate();
            connections
                .map(|(lane, connection)| {
                    let mut own = requests.clone();
                    let first = lane * own.len() / count;
                    own.rotate_left(first);
                    Kmip::each(connection, own)
                })
                .collect::<Vec<_>>()
        };
        self.report.add("kmip_objects", objects as f64, "objects");
        self.sweep("kmip_locate_name_per_s", network.pid(End::North), scripts).await;
    }

    /// New connections, and idle ones, beside those of the echo. Each new connection asks one thing.
    pub(super) async fn connections(&mut self, network: &Network) {
        let (echo, address) = spawn_echo(&network.tls("km-north"), ECHO_REQUEST, ECHO_RESPONSE);
        let files = network.tls("sae-n1");
        let (echo_pid, pid) = (echo.0.id(), network.pid(End::North));
        let echoed = Target::new(&address, &files, Framing::Fixed(ECHO_RESPONSE));
        let kmip = Target::new(&network.kmip(End::North), &files, Framing::Kmip);
        let request = vec![b'x'; ECHO_REQUEST];
        for (kind, resumes) in [("full", false), ("resumed", true)] {
            let of = |target: &Target| {
                if resumes { target.clone() } else { target.without_resumption() }
            };
            let name = format!("tls_echo_connects_per_s.{kind}");
            self.connects(&name, echo_pid, &of(&echoed), &request, None).await;
            let own = format!("kmip_connects_per_s.{kind}");
            self.connects(&own, pid, &of(&kmip), &discover_request(), Some(&name)).await;
        }
        let base = self.idle("tls_echo_idle_connection", echo_pid, &echoed, &request).await;
        let own = self.idle("kmip_idle_connection", pid, &kmip, &discover_request()).await;
        self.report.against("kmip_idle_connection.of_echo", own, "KiB", base);
    }

    async fn connects(
        &mut self,
        name: &str,
        pid: u32,
        target: &Target,
        request: &[u8],
        baseline: Option<&str>,
    ) {
        for openers in OPENERS {
            let scripts = (0..openers).map(|_| Connect::new(target.clone(), request.to_vec()));
            let (before, since) = (cpu::used_us(pid), Instant::now());
            let figures = closed_loop(scripts.collect(), self.time).await;
            let share = self.time.as_secs_f64() / since.elapsed().as_secs_f64();
            let used = (cpu::used_us(pid) - before) as f64 * share;
            if let Some(failure) = &figures.first_failure {
                println!("{name}: {} failures, the first: {failure}", figures.failures);
            }
            let row = format!("{name}@{openers}");
            let base =
                baseline.and_then(|baseline| self.report.get(&format!("{baseline}@{openers}")));
            match base {
                Some(base) => self.report.against(&row, figures.per_second(), "1/s", base),
                None => self.report.add(&row, figures.per_second(), "1/s"),
            }
            self.report.add(&format!("{row}.p50"), figures.p50() as f64, "us");
            let each = used / figures.operations.max(1) as f64;
            self.report.add(&format!("{row}.server_cpu"), each, "us/op");
        }
    }

    /// Resident memory of the server for each of `QKM_BENCH_IDLE` connections (default 2000) that
    /// asked once and then nothing more, in KiB.
    async fn idle(&mut self, name: &str, pid: u32, target: &Target, request: &[u8]) -> f64 {
        let count = number("QKM_BENCH_IDLE", 2000);
        // What the first connections make the server allocate for good is not theirs.
        self.open_and_ask(target, request, count / 10).await;
        tokio::time::sleep(PAUSE).await;
        let before = cpu::resident_mib(pid);
        let open = self.open_and_ask(target, request, count).await;
        tokio::time::sleep(PAUSE).await;
        let each = (cpu::resident_mib(pid) - before) * 1024.0 / count as f64;
        drop(open);
        self.report.add(name, each, "KiB");
        each
    }

    async fn open_and_ask(
        &self,
        target: &Target,
        request: &[u8],
        count: u64,
    ) -> Vec<qkm_tests::load::Connection> {
        let mut open = Vec::new();
        for _ in 0..count {
            let mut connection = target.connect().await;
            connection.ask(request).await.expect("the server answers");
            open.push(connection);
        }
        open
    }
}
