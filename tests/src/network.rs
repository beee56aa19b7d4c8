//! A whole small network of real processes: a simulated QKD link and two KMs, as `qkm demo` sets
//! them up. Enter through [`Network::start`]. Everything stops and is erased on drop.

use std::{
    collections::HashMap,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::OnceLock,
    time::{Duration, Instant},
};

use qkm::demo::{Layout, Site};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use transport::TlsFiles;

use crate::{
    clients::{self, Etsi014, Kmip, KmipHttps},
    ports::base_port,
};

const READY: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// One end of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    North,
    South,
}

/// How the network is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// `rate_override` of the simulated link, as in its TOML: `"\"max\""` or bits per second.
    pub rate: Option<String>,
    /// Most MiB a pool holds.
    pub max_stored_mib: u64,
    /// Lines put at the end of the table `[supply]` of both KMs.
    pub supply: String,
    /// Tables put before the first `[[sae]]` of both KMs.
    pub tables: String,
    /// Lines put at the end of the table `[hsm]` of a KM, by the name of its cluster.
    pub hsm: HashMap<&'static str, String>,
    /// `key_size_bits` of both modules.
    pub module_key_bits: Option<u32>,
    /// KMIP operations that the application sae-x is confined to, as a list in TOML.
    pub sae_x_operations: Option<&'static str>,
    /// Environment for both KMs.
    pub env: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rate: Some("20000000".into()),
            max_stored_mib: 16,
            supply: String::new(),
            tables: String::new(),
            hsm: HashMap::new(),
            module_key_bits: None,
            sae_x_operations: None,
            env: Vec::new(),
        }
    }
}

pub struct Network {
    layout: Layout,
    options: Options,
    sim: Option<Child>,
    kms: [Option<Child>; 2],
    _dir: TempDir,
}

/// The program under test, built from this checkout.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let release = !cfg!(debug_assertions);
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "qkm", "--bin", "qkm"]);
        if release {
            build.arg("--release");
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let built = build.current_dir(&root).status().expect("cargo runs");
        assert!(built.success(), "the program under test does not build");
        let profile = if release { "release" } else { "debug" };
        target_dir().join(profile).join("qkm").canonicalize().expect("the built program")
    })
}

/// Where cargo builds, and `scripts/setup.sh` unpacks its tools.
pub fn target_dir() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(beside, PathBuf::from)
}

impl Network {
    /// Makes the network and waits until both KMs are ready and their link is up.
    pub async fn start(options: Options) -> Self {
        let network = Self::prepare(options).launched();
        for end in [End::North, End::South] {
            network.ready(end).await;
        }
        network
            .until("the KM link is up", || async {
                network.metric(End::North, "qkm_link_up").await == 1.0
                    && network.metric(End::South, "qkm_link_up").await == 1.0
            })
            .await;
        network
    }

    /// Makes the network and runs nothing but north's KM, without a link and without keys.
    pub async fn north_alone(options: Options) -> Self {
        let mut network = Self::prepare(options);
        network.start_km(End::North);
        let kmip = network.site(End::North).kmip;
        network
            .until("the KMIP port is open", || async { TcpStream::connect(kmip).await.is_ok() })
            .await;
        network
    }

    fn prepare(options: Options) -> Self {
        let dir = tempfile::Builder::new().prefix("qkm-test-").tempdir().expect("a directory");
        let settings = qkm::demo::Options {
            base_port: base_port(),
            program: Some(program().to_owned()),
            rate: options.rate.clone(),
            max_stored_mib: options.max_stored_mib,
            dumpable: true,
            shared: None,
        };
        let home = dir.path().join("net");
        let layout = qkm::demo::provision(&home, &settings).expect("a network on disk");
        for site in layout.sites() {
            let mut text = std::fs::read_to_string(&site.config).expect("a configuration");
            if let Some(bits) = options.module_key_bits {
                text = text.replace("status_path", &format!("key_size_bits = {bits}\nstatus_path"));
            }
            if let Some(lines) = options.hsm.get(site.cluster) {
                text = text.replacen("[hsm]\n", &format!("[hsm]\n{lines}\n"), 1);
            }
            if !options.supply.is_empty() {
                text = text.replace("[[sae]]", "[[SAE]]");
                text = text.replacen(
                    "[[SAE]]",
                    &format!("[supply]\n{}\n\n[[sae]]", options.supply),
                    1,
                );
                text = text.replace("[[SAE]]", "[[sae]]");
            }
            if let Some(operations) = options.sae_x_operations {
                let id = "id = \"sae-x\"\n";
                text = text.replacen(id, &format!("{id}operations = {operations}\n"), 1);
            }
            if !options.tables.is_empty() {
                text = text.replacen("[[sae]]", &format!("{}\n[[sae]]", options.tables), 1);
            }
            std::fs::write(&site.config, text).expect("a writable configuration");
        }
        Self { layout, options, sim: None, kms: [None, None], _dir: dir }
    }

    fn launched(mut self) -> Self {
        self.start_sim();
        self.start_km(End::North);
        self.start_km(End::South);
        self
    }

    fn spawn(&self, mut command: Command, name: &str) -> Child {
        let log = self.log_path(name);
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        command.stdout(log.try_clone().expect("a handle")).stderr(log);
        command.envs(self.options.env.iter().cloned()).spawn().expect("the program starts")
    }

    pub fn log_path(&self, name: &str) -> PathBuf {
        self.layout.dir.join(format!("{name}.log"))
    }

    /// What a KM (or `sim`) has logged so far.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_path(name)).unwrap_or_default()
    }

    pub fn start_sim(&mut self) {
        self.sim = Some(self.spawn(self.layout.sim_command(), "sim"));
    }

    /// Kills the simulator; its modules forget everything.
    pub fn kill_sim(&mut self) {
        end(self.sim.take());
    }

    pub fn start_km(&mut self, at: End) {
        let command = self.layout.serve_command(self.site(at));
        self.kms[at as usize] = Some(self.spawn(command, self.site(at).cluster));
    }

    /// `kill -9`.
    pub fn kill(&mut self, at: End) {
        end(self.kms[at as usize].take());
    }

    /// Stops in order, as an operator would, and waits; the exit code.
    pub fn stop(&mut self, at: End) -> Option<i32> {
        let mut child = self.kms[at as usize].take()?;
        drop(child.stdin.take());
        child.wait().expect("a status").code()
    }

    /// Runs a command of the program with a KM's configuration and token.
    pub fn qkm(&self, at: End, command: &[&str]) -> std::process::Output {
        let site = self.site(at);
        let mut qkm = Command::new(program());
        qkm.args(command).arg("--config").arg(&site.config);
        qkm.env("SOFTHSM2_CONF", &site.softhsm_conf).output().expect("the program runs")
    }

    pub fn pid(&self, at: End) -> u32 {
        self.kms[at as usize].as_ref().expect("it runs").id()
    }

    /// The HSM worker processes of a KM.
    pub fn workers(&self, at: End) -> Vec<u32> {
        workers_of(self.pid(at))
    }

    pub fn dir(&self) -> &Path {
        &self.layout.dir
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn site(&self, at: End) -> &Site {
        match at {
            End::North => &self.layout.north,
            End::South => &self.layout.south,
        }
    }

    pub fn etsi014(&self, at: End) -> String {
        self.site(at).etsi014.to_string()
    }

    pub fn kmip(&self, at: End) -> String {
        self.site(at).kmip.to_string()
    }

    /// Certificate of an application (`sae-…`) or of a KM (`km-…`).
    pub fn tls(&self, name: &str) -> TlsFiles {
        match name {
            "km-north" => self.layout.north.tls.clone(),
            "km-south" => self.layout.south.tls.clone(),
            "sim-admin" => self.layout.sim_admin.clone(),
            "operator" => self.layout.operator.clone(),
            application => self.layout.application(application).clone(),
        }
    }

    /// An ETSI 014 client of the application `sae` at one end.
    pub fn etsi(&self, at: End, sae: &str) -> Etsi014 {
        Etsi014::new(&self.etsi014(at), &self.tls(sae))
    }

    /// A KMIP client of the application `sae` at one end.
    pub fn kmip_client(&self, at: End, sae: &str) -> Kmip {
        Kmip::new(&self.kmip(at), &self.tls(sae))
    }

    /// As [`Network::kmip_client`] over HTTPS, in the form of `kind`.
    pub fn kmip_https(&self, at: End, sae: &str, kind: &'static str) -> KmipHttps {
        KmipHttps::new(&self.site(at).kmip_https.to_string(), &self.tls(sae), kind)
    }

    /// Switches a fault of the simulated link, as JSON for its admin resource.
    pub async fn fault(&self, fault: &str) {
        let address = self.layout.modules[0].to_string();
        let client = clients::http(&address, &self.tls("sim-admin"));
        let body = wiped::Wiped::copy_of(fault.as_bytes());
        let (status, body) =
            client.post("/api/v1/sim/fault", body).await.expect("the simulator answers");
        assert!(status < 300, "fault {fault}: {status} {}", String::from_utf8_lossy(&body));
    }

    /// Cuts the simulated link, or mends it.
    pub async fn set_sim_paused(&self, paused: bool) {
        self.fault(&format!(r#"{{"fault":"cut","on":{paused}}}"#)).await;
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&self, at: End) {
        let monitor = self.site(at).monitor;
        self.until("the KM is ready", || async {
            monitor_get(monitor, "/readyz").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
    }

    /// `/metrics` as text.
    pub async fn metrics_text(&self, at: End) -> String {
        let answer = monitor_get(self.site(at).monitor, "/metrics").await;
        answer.expect("metrics are served").1
    }

    /// All samples, by name; samples that differ only in labels are added up.
    pub async fn metrics(&self, at: End) -> HashMap<String, f64> {
        let mut all = HashMap::new();
        for line in self.metrics_text(at).await.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let name = name.split('{').next().unwrap_or(name).to_owned();
            *all.entry(name).or_insert(0.0) += value.parse::<f64>().unwrap_or(f64::NAN);
        }
        all
    }

    pub async fn metric(&self, at: End, name: &str) -> f64 {
        self.metrics(at).await.get(name).copied().unwrap_or(0.0)
    }

    /// Waits until an end may hand out at least this many 256-bit keys.
    pub async fn stocked(&self, at: End, keys: u64) {
        self.until("the pool is stocked", || async {
            self.metric(at, "qkm_pool_own_bytes").await >= keys as f64 * 32.0
        })
        .await;
    }

    /// Waits for a condition; panics with the KMs' last words when it does not come.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, mut holds: impl FnMut() -> F) {
        let deadline = Instant::now() + READY;
        while !holds().await {
            if Instant::now() > deadline {
                let tail = |name| {
                    let log = self.log(name);
                    let lines: Vec<&str> = log.lines().collect();
                    lines[lines.len().saturating_sub(15)..].join("\n")
                };
                let (n, s, m) = (tail("north"), tail("south"), tail("sim"));
                panic!("{what}: not within {READY:?}\n-- north\n{n}\n-- south\n{s}\n-- sim\n{m}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        end(self.sim.take());
        self.kms.iter_mut().for_each(|km| end(km.take()));
    }
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// One GET of the monitor: plain HTTP on loopback.
pub async fn monitor_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut socket = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: km\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    let read = socket.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(5), read).await.ok()?.ok()?;
    let status = answer.get(9..12)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Some((status, body.to_owned()))
}

/// The HSM worker processes of the KM that is process `km`.
pub(crate) fn workers_of(km: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{km}/task")).expect("it runs");
    let children: String = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
        .collect();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
