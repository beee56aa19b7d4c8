//! What takes over between two key managers as processes (7.2): another QKD link, when the controller
//! says so or by itself, and another classical channel of the KM link.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use common::{Network, PATIENCE, await_ready, get, program, spawn};
use qkm::demo::etsi014_pair;
use serde_json::Value;
use tokio::io::copy_bidirectional;
use transport::{
    Profile, TlsFiles, client_config,
    http::{ClientLimits, HttpClient},
};

/// A cable: carries connections until it is cut.
struct Cable {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Cable {
    async fn to(far: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, cut) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let state = cut.clone();
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                if state.load(Relaxed) {
                    continue;
                }
                let state = state.clone();
                tokio::spawn(async move {
                    // Its KM may not listen yet.
                    let Ok(mut far) = tokio::net::TcpStream::connect(far).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        () = async {
                            while !state.load(Relaxed) {
                                tokio::time::sleep(Duration::from_millis(10)).await;
                            }
                        } => {}
                    }
                });
            }
        });
        Self { address, cut }
    }
}

/// Two clusters with two QKD links, two channels and a controller.
struct Standby {
    network: Network,
    cables: [Cable; 2],
    controller: SocketAddr,
    second: [SocketAddr; 2],
    others: Vec<Child>,
}

impl Drop for Standby {
    fn drop(&mut self) {
        for child in &mut self.others {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn tls(files: &TlsFiles) -> String {
    let TlsFiles { certificate, key, ca } = files;
    format!("certificate = {certificate:?}\nkey = {key:?}\nca = {ca:?}\n")
}

impl Standby {
    async fn running() -> Self {
        let network = Network::provisioned();
        let south = network.layout.south.km_link;
        let cables = [Cable::to(south).await, Cable::to(south).await];
        let (controller, second) = (free(), [free(), free()]);
        let mut standby = Self { network, cables, controller, second, others: Vec::new() };
        standby.write();
        standby.start().await;
        standby
    }

    /// Changes the files of the demonstration.
    fn write(&self) {
        let layout = &self.network.layout;
        let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
        let mut sim = read(&layout.sim);
        for (first, second) in layout.modules.iter().zip(&self.second) {
            sim = sim.replace(&first.to_string(), &second.to_string());
        }
        std::fs::write(layout.dir.join("sim-2.toml"), sim).unwrap();
        for (at, site) in layout.sites().into_iter().enumerate() {
            let mut text = read(&site.config).replace(
                "status_path = \"/api/v1/link\"",
                "status_path = \"/api/v1/link\"\nstatus_interval_ms = 250",
            );
            let from = text.find("[[qkd_link]]").unwrap();
            let until = from + text[from..].find("[[sae]]").unwrap();
            let link = text[from..until]
                .replace("demo-link", "demo-link-2")
                .replace(&layout.modules[at].to_string(), &self.second[at].to_string());
            text.insert_str(until, &link);
            let far = format!("address = \"{}\"", layout.south.km_link);
            let [one, other] = [&self.cables[0], &self.cables[1]].map(|cable| cable.address);
            let two = format!("address = [\"{one}\", \"{other}\"]");
            let text = text.replace(&far, &two);
            // The controller shows north's certificate.
            let own = tls(&site.tls);
            let text = text
                + &format!(
                    "[controller]\naddresses = [\"{}\"]\nreport_ms = 300\n\
                     identity = \"uri:urn:qkm:km:north\"\n{own}",
                    self.controller
                );
            std::fs::write(&site.config, text).unwrap();
        }
        let mut text = format!(
            "[controller]\nlisten = \"{}\"\n{}orders = {:?}\noperators = [\"cn:operator\"]\n\
             [operator]\n{}\n[thresholds]\nsilence_ms = 3000\n",
            self.controller,
            tls(&layout.north.tls),
            layout.dir.join("orders.json"),
            tls(&layout.operator),
        );
        for km in ["north", "south"] {
            text += &format!("[[km]]\ncluster = \"{km}\"\nidentity = \"uri:urn:qkm:km:{km}\"\n");
        }
        std::fs::write(layout.dir.join("controller.toml"), text).unwrap();
    }

    async fn start(&mut self) {
        let first = spawn(self.network.layout.sim_command(), &self.network.log("sim"));
        self.others = vec![self.part(&["controller", "run"], "controller.toml")];
        self.network.sim = Some(first);
        self.network.north = Some(self.network.serve(&self.network.layout.north));
        self.network.south = Some(self.network.serve(&self.network.layout.south));
        // Whichever QKD link is there first goes on serving.
        self.states(&[("qkd-link/demo-link", "in service")]).await;
        self.others.push(self.part(&["sim"], "sim-2.toml"));
        for site in self.network.layout.sites() {
            await_ready(site).await;
        }
        self.key().await;
    }

    fn part(&self, arguments: &[&str], config: &str) -> Child {
        let mut command = Command::new(program());
        let config = self.network.layout.dir.join(config);
        command.args(arguments).arg("--config").arg(config).stdin(Stdio::null());
        spawn(command, &self.network.log(arguments[0]))
    }

    /// One key equal at both ends.
    async fn key(&self) {
        let began = Instant::now();
        while etsi014_pair(&self.network.layout).await.unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE, "no keys\n{}", self.network.read_log("north"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn client(&self, files: &TlsFiles, address: SocketAddr) -> HttpClient {
        let tls = client_config(files, Profile::Front).unwrap();
        HttpClient::new(&address.to_string(), None, tls, ClientLimits::default()).unwrap()
    }

    /// Cuts the fibre of the link whose module is at `module`, or mends it.
    async fn cut(&self, module: SocketAddr, on: bool) {
        let client = self.client(&self.network.layout.sim_admin, module);
        let body = format!("{{\"fault\":\"cut\",\"on\":{on}}}").into_bytes();
        let (status, _) = client.post("/api/v1/sim/fault", body.into()).await.unwrap();
        assert!((200..300).contains(&status), "{status}");
    }

    /// Whether the controller says of each part what it should.
    async fn are(&self, expected: &[(&str, &str)]) -> bool {
        let client = self.client(&self.network.layout.operator, self.controller);
        // It may not listen yet.
        let Ok((_, body)) = client.get("/v1/components").await else { return false };
        let all: Value = serde_json::from_slice(&body).unwrap();
        let all = all["components"].as_array().unwrap();
        let holds = |(part, state): &(&str, &str)| {
            all.iter().any(|it| it["component"] == *part && it["state"] == *state)
        };
        expected.iter().all(holds)
    }

    /// Waits until it does; how long that took.
    async fn states(&self, expected: &[(&str, &str)]) -> Duration {
        let began = Instant::now();
        while !self.are(expected).await {
            assert!(began.elapsed() < PATIENCE, "not {expected:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        began.elapsed()
    }

    /// Keys that north took over a QKD link since it started.
    fn taken(&self, link: &str) -> u64 {
        let (_, metrics) = get(self.network.layout.north.monitor, "/metrics").unwrap();
        let name = format!("qkm_qkd_keys_taken_total{{link=\"{link}\"");
        let line = metrics.lines().find(|line| line.starts_with(&name));
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
    }

    async fn taken_beyond(&self, link: &str, before: u64) {
        let began = Instant::now();
        while self.taken(link) <= before {
            assert!(began.elapsed() < PATIENCE, "no keys over {link}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_qkd_link_takes_over_with_and_without_a_controller() {
    let mut net = Standby::running().await;
    net.states(&[("qkd-link/demo-link", "in service"), ("qkd-link/demo-link-2", "standby")]).await;
    assert_eq!(net.taken("demo-link-2"), 0, "the first serves alone");

    net.cut(net.network.layout.modules[0], true).await;
    let took = net
        .states(&[("qkd-link/demo-link", "out of service"), ("qkd-link/demo-link-2", "in service")])
        .await;
    println!("the standby QKD link was in service after {took:?}");
    net.taken_beyond("demo-link-2", 0).await;
    net.cut(net.network.layout.modules[0], false).await;
    net.states(&[("qkd-link/demo-link", "standby"), ("qkd-link/demo-link-2", "in service")]).await;
    net.key().await;

    // Without a controller the KM that takes the keys sees for itself.
    net.others[0].kill().unwrap();
    let before = net.taken("demo-link");
    net.cut(net.second[0], true).await;
    net.taken_beyond("demo-link", before).await;
    net.key().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_classical_channel_takes_over_when_one_is_cut() {
    let net = Standby::running().await;
    // While the other KM starts either may be tried; in service is the one that answered.
    let channels = ["channel/north~south/0", "channel/north~south/1"];
    let (mut used, mut other, began) = (0, 1, Instant::now());
    while !net.are(&[(channels[used], "in service"), ("km-link/north~south", "in service")]).await {
        assert!(began.elapsed() < PATIENCE, "no channel is in service");
        (used, other) = (other, used);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    net.cables[used].cut.store(true, Relaxed);
    let took = net
        .states(&[
            (channels[used], "out of service"),
            (channels[other], "in service"),
            ("km-link/north~south", "in service"),
        ])
        .await;
    println!("the other channel was in service after {took:?}");
    let before = net.taken("demo-link");
    net.taken_beyond("demo-link", before).await;
    net.key().await;
}
