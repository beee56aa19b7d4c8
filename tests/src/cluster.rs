//! Three KMs at north on an etcd of three members, one KM at south: all real processes. Enter through
//! [`Cluster::start`]. Everything stops and is erased on drop. Between the KMs and the engine, and between
//! its members, are proxies that cut them off from each other, but for measurements.

mod engine;
#[path = "../../testkit/etcd.rs"]
mod etcd;

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use cluster::EtcdConfig;
use hsm_profiles::soft::SoftToken;
use qkm::demo::{Layout, Site};
use tempfile::TempDir;
use tokio::sync::watch;

pub use engine::MEMBERS;
use engine::{engine, through};
pub use etcd::Engine;

use crate::{
    clients::{Etsi014, Kmip},
    network::{monitor_get, program, target_dir, workers_of},
    ports::base_port,
    proxy::{IsCut, Proxy},
};

const PATIENCE: Duration = Duration::from_secs(90);
/// How long the applications wait for a KM before they ask another one.
const CLIENT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);
/// Enough for what the tests keep, and soon filled.
const QUOTA: u64 = 128 << 20;
/// The KM whose clock can be set.
pub const CLOCK: usize = NORTH - 1;
/// KMs at north; the one at south comes after them.
pub const NORTH: usize = 3;
/// South among the KMs.
pub const SOUTH: usize = NORTH;

/// What kind of cluster.
#[derive(Clone, Copy)]
pub struct Settings {
    /// KMs at north that are started at the beginning.
    pub kms: usize,
    /// Key rate of the simulated link; see [`qkm::demo::Options`].
    pub rate: &'static str,
    pub max_stored_mib: u64,
    /// Most bytes of the engine's database.
    pub quota: u64,
    /// North has one KM with an embedded store instead.
    pub embedded: bool,
    /// Nothing stands between KMs and engine, or before a clock: for measurements. Nothing can be cut off.
    pub direct: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let (embedded, direct) = (false, false);
        Self { kms: NORTH, rate: "4000000", max_stored_mib: 4, quota: QUOTA, embedded, direct }
    }
}

pub struct Cluster {
    pub engine: Engine,
    layout: Layout,
    /// One bit for each KM that is cut off from the engine.
    km_cuts: watch::Sender<u64>,
    /// The same for members, from each other.
    member_cuts: watch::Sender<u64>,
    _proxies: Vec<Proxy>,
    kms: [Option<Child>; NORTH + 1],
    /// The build that each KM runs when it is started.
    programs: [PathBuf; NORTH + 1],
    sim: Option<Child>,
    direct: bool,
    _dir: TempDir,
}

impl Cluster {
    /// Starts all of it and waits until every KM is ready and keys come in.
    pub async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub async fn with(settings: Settings) -> Self {
        let (km_cuts, member_cuts) = (watch::Sender::new(0), watch::Sender::new(0));
        let mut proxies = Vec::new();
        let cuts = (!settings.direct).then_some(&member_cuts);
        let mut engine = engine(cuts, &mut proxies, settings.quota).await;
        engine.run_all();
        let dir = tempfile::Builder::new().prefix("qkm-cluster-").tempdir().expect("a directory");
        let options = qkm::demo::Options {
            base_port: base_port(),
            program: Some(program().to_owned()),
            rate: Some(settings.rate.into()),
            max_stored_mib: settings.max_stored_mib,
            dumpable: false,
            shared: (!settings.embedded).then(|| EtcdConfig {
                endpoints: engine.endpoints(),
                files: engine.files.clone(),
                prefix: "/qkm/north/".into(),
                allow_unmaintained: true,
            }),
        };
        let layout = qkm::demo::provision(&dir.path().join("net"), &options).expect("a network");
        layout.sites().into_iter().chain(&layout.more).for_each(|site| expiring(&site.config));
        let several = if settings.embedded || settings.direct { 0 } else { NORTH };
        for km in 0..several {
            let mut ends = Vec::new();
            for port in engine.ports() {
                let is_cut: IsCut = Arc::new(move |_, cuts| cuts & (1 << km) != 0);
                let proxy = Proxy::to(port, km_cuts.subscribe(), is_cut).await;
                ends.push(format!("localhost:{}", proxy.port));
                proxies.push(proxy);
            }
            through(&site(&layout, km).config, &engine.endpoints(), &ends);
        }
        let mut made = Self {
            engine,
            layout,
            km_cuts,
            member_cuts,
            _proxies: proxies,
            kms: Default::default(),
            programs: std::array::from_fn(|_| program().to_owned()),
            sim: None,
            direct: settings.direct,
            _dir: dir,
        };
        let sim = made.layout.sim_command();
        made.sim = Some(made.spawn(sim, "sim"));
        made.set_clock(0);
        // The first makes the KEK.
        for km in (0..settings.kms).chain([SOUTH]) {
            made.run(km);
            made.ready(km).await;
        }
        made.until("keys come in", async || {
            (settings.embedded || made.leader().await.is_some())
                && made.metric(SOUTH, "qkm_pool_blocks").await >= 4.0
        })
        .await;
        made
    }

    fn spawn(&self, mut command: Command, name: &str) -> Child {
        let log = self.layout.dir.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        command.stdout(log.try_clone().expect("a handle")).stderr(log);
        command.spawn().expect("the program starts")
    }

    pub fn site(&self, km: usize) -> &Site {
        site(&self.layout, km)
    }

    /// Gives a KM at north that did not start yet a token of its own, and files of its own for the
    /// certificate that the other KMs see: they are not there yet.
    pub fn set_apart(&mut self, km: usize) {
        let at = km.checked_sub(1).expect("not the first");
        let name = self.layout.more[at].name.clone();
        let home = self.layout.dir.join(&name);
        std::fs::create_dir(&home).expect("a directory");
        let mut init = Command::new(program());
        init.arg("demo-token");
        let token = hsm_profiles::soft::provision(SoftToken::SoftHsm, &home, &name, init);
        let token = token.expect("a token");
        let site = &mut self.layout.more[at];
        site.softhsm_conf = token.conf;
        let text = |path: PathBuf| toml::Value::from(path.display().to_string());
        self.edit(km, |config| {
            config["hsm"]["token"]["label"] = token.label.into();
            config["hsm"]["pin"]["file"] = text(token.pin_file);
            config["node"]["certificate"] = text(home.join("node.crt"));
            config["node"]["key"] = text(home.join("node.key"));
        });
    }

    /// Changes the configuration of a KM.
    pub fn edit(&self, km: usize, change: impl FnOnce(&mut toml::Value)) {
        let file = &self.site(km).config;
        let text = std::fs::read_to_string(file).expect("a configuration");
        let mut config: toml::Value = toml::from_str(&text).expect("TOML");
        change(&mut config);
        std::fs::write(file, toml::to_string(&config).expect("TOML")).expect("a configuration");
    }

    /// The network's files.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Starts a KM, with what the cluster has in its store.
    pub fn run(&mut self, km: usize) {
        self.layout.program = self.programs[km].clone();
        let mut command = self.layout.serve_command(self.site(km));
        if km == CLOCK && !self.direct {
            command.env("LD_PRELOAD", faketime());
            command.env("FAKETIME_TIMESTAMP_FILE", self.clock()).env("FAKETIME_NO_CACHE", "1");
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        self.kms[km] = Some(self.spawn(command, &self.site(km).name));
    }

    /// The process of a KM that runs.
    pub fn pid(&self, km: usize) -> u32 {
        self.kms[km].as_ref().expect("it runs").id()
    }

    /// Has a KM run another build from its next start on.
    pub fn set_program(&mut self, km: usize, program: &Path) {
        self.programs[km] = program.to_owned();
    }

    /// The build that a KM runs.
    pub fn program(&self, km: usize) -> &Path {
        &self.programs[km]
    }

    /// Sets the clock of the KM [`CLOCK`] by seconds beside the others'.
    pub fn set_clock(&self, seconds: i64) {
        std::fs::write(self.clock(), format!("{seconds:+}")).expect("a file");
    }

    fn clock(&self) -> PathBuf {
        self.layout.dir.join("clock")
    }

    /// Cuts a KM off from the engine, or no more.
    pub fn cut_km(&self, km: usize, cut: bool) {
        self.km_cuts
            .send_modify(|cuts| *cuts = if cut { *cuts | 1 << km } else { *cuts & !(1 << km) });
    }

    /// Cuts a member of the engine off from the others, or no more. KMs still reach it.
    pub fn cut_member(&self, at: usize, cut: bool) {
        self.member_cuts
            .send_modify(|cuts| *cuts = if cut { *cuts | 1 << at } else { *cuts & !(1 << at) });
    }

    /// `kill -9`.
    pub fn kill(&mut self, km: usize) {
        end(self.kms[km].take());
    }

    /// The exit code of a KM that ended by itself.
    pub fn ended(&mut self, km: usize) -> Option<i32> {
        let status = self.kms[km].as_mut().expect("it was started").try_wait();
        status.expect("its status").map(|status| status.code().unwrap_or(-1))
    }

    /// Stops in order, as an operator would.
    pub fn stop(&mut self, km: usize) {
        if let Some(mut child) = self.kms[km].take() {
            drop(child.stdin.take());
            let _ = child.wait();
            forget_clock(child.id());
        }
    }

    /// `STOP` or `CONT`: its clock stands still for the KM.
    pub fn signal(&self, km: usize, name: &str) {
        send(name, self.pid(km));
    }

    /// The same, to the HSM worker processes of a KM.
    pub fn signal_workers(&self, km: usize, name: &str) {
        workers_of(self.pid(km)).into_iter().for_each(|pid| send(name, pid));
    }

    /// A `qkm` command with the configuration of a KM: its exit code, and what it said.
    pub fn qkm(&self, km: usize, command: &[&str]) -> (i32, String) {
        let done = self.command(km, command).output().expect("the program runs");
        let text = [done.stdout, done.stderr].concat();
        (done.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    /// The same, that goes on while the test does.
    pub fn begin(&self, km: usize, command: &[&str]) -> Child {
        let mut qkm = self.command(km, command);
        qkm.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    }

    fn command(&self, km: usize, command: &[&str]) -> Command {
        let site = self.site(km);
        let mut qkm = Command::new(program());
        qkm.args(command).arg("--config").arg(&site.config);
        qkm.env("SOFTHSM2_CONF", &site.softhsm_conf);
        qkm
    }

    /// Waits until a KM says on its own that it is not ready, and why.
    pub async fn troubled(&self, km: usize, why: &str) {
        let monitor = self.site(km).monitor;
        self.until(&format!("KM {km} tells {why:?}"), async || {
            let said = monitor_get(monitor, "/readyz").await;
            said.is_some_and(|(status, text)| status == 503 && text.contains(why))
        })
        .await;
    }

    /// Cuts the simulated link, or mends it.
    pub async fn set_sim_paused(&self, paused: bool) {
        let (address, files) = (self.layout.modules[0].to_string(), &self.layout.sim_admin);
        let body = format!(r#"{{"fault":"cut","on":{paused}}}"#).into_bytes().into();
        let said = crate::clients::http(&address, files).post("/api/v1/sim/fault", body).await;
        assert!(said.expect("the simulator answers").0 < 300);
    }

    /// The certificate of an application.
    pub fn application(&self, sae: &str) -> &transport::TlsFiles {
        self.layout.application(sae)
    }

    /// The certificate of one of the two who together may destroy a KEK epoch.
    pub fn custodian(&self, at: usize) -> &transport::TlsFiles {
        &self.layout.custodians[at]
    }

    /// An ETSI 014 client of the application `sae` at a KM.
    pub fn etsi(&self, km: usize, sae: &str) -> Etsi014 {
        let (address, files) = (self.site(km).etsi014.to_string(), self.layout.application(sae));
        Etsi014::patient_for(CLIENT, &address, files)
    }

    /// The same, one that waits as long as it takes.
    pub fn calm(&self, km: usize, sae: &str) -> Etsi014 {
        Etsi014::new(&self.site(km).etsi014.to_string(), self.layout.application(sae))
    }

    /// A KMIP client of the application `sae` at a KM.
    pub fn kmip(&self, km: usize, sae: &str) -> Kmip {
        Kmip::new(&self.site(km).kmip.to_string(), self.layout.application(sae))
    }

    /// The sum of the samples of a metric; 0 while the KM does not answer.
    pub async fn metric(&self, km: usize, name: &str) -> f64 {
        let Some((_, text)) = monitor_get(self.site(km).monitor, "/metrics").await else {
            return 0.0;
        };
        let samples = text.lines().filter_map(|line| line.rsplit_once(' '));
        let named = samples.filter(|(sample, _)| sample.split('{').next() == Some(name));
        named.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }

    /// Bytes of pool keys that were burned at an end of the link, where `km` is or leads.
    pub async fn burned(&self, km: usize) -> f64 {
        self.metric(km, "qkm_pool_burned_bytes_total").await
    }

    /// The KM at north that leads.
    pub async fn leader(&self) -> Option<usize> {
        for km in (0..NORTH).filter(|km| self.kms[*km].is_some()) {
            let asked = self.metric(km, "qkm_cluster_leads");
            if tokio::time::timeout(PAUSE * 10, asked).await == Ok(1.0) {
                return Some(km);
            }
        }
        None
    }

    pub async fn ready(&self, km: usize) {
        let monitor = self.site(km).monitor;
        self.until(&format!("KM {km} is ready"), async || {
            monitor_get(monitor, "/readyz").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
    }

    /// Waits for a condition; panics with the KMs' last words when it does not come.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds().await {
            if Instant::now() > deadline {
                for km in (0..=SOUTH).filter(|km| self.kms[*km].is_some()) {
                    let name = &self.site(km).name;
                    eprintln!("-- {name}\n{}", self.tail(name));
                }
                panic!("{what}: not within {PATIENCE:?}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn tail(&self, name: &str) -> String {
        let log = self.layout.dir.join(format!("{name}.log"));
        let log = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        end(self.sim.take());
        self.kms.iter_mut().for_each(|km| end(km.take()));
        if std::thread::panicking() {
            self.keep_logs();
        }
    }
}

impl Cluster {
    /// What the KMs said, for whoever looks into a test that failed.
    fn keep_logs(&self) {
        let kept = target_dir().join("faults/logs");
        let _ = std::fs::create_dir_all(&kept);
        for km in 0..=SOUTH {
            let log = format!("{}.log", self.site(km).name);
            let _ = std::fs::copy(self.layout.dir.join(&log), kept.join(&log));
        }
        eprintln!("the logs of the key managers are in {}", kept.display());
    }
}

fn site(layout: &Layout, km: usize) -> &Site {
    match km {
        0 => &layout.north,
        SOUTH => &layout.south,
        more => &layout.more[more - 1],
    }
}

/// What nobody can say whether it was handed out waits to be collected, and takes room, for a day. Here a few
/// hundred faults come in less than an hour, and each leaves some.
fn expiring(config: &Path) {
    let mut config = File::options().append(true).open(config).expect("a configuration");
    config.write_all(b"\n[supply]\nkey_ttl_s = 300\n").expect("a configuration");
}

/// The library that sets the clock of one process, as `scripts/setup.sh tests` unpacks it.
fn faketime() -> PathBuf {
    let libraries = target_dir().join("tools/usr/lib");
    let found = std::fs::read_dir(&libraries).into_iter().flatten().flatten();
    let found = found.map(|of| of.path().join("faketime/libfaketimeMT.so.1"));
    let found = found.into_iter().find(|path| path.exists());
    found.expect("libfaketime; run `scripts/setup.sh tests`")
}

fn send(signal: &str, pid: u32) {
    let done = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(done.expect("kill runs").success());
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
        forget_clock(child.id());
    }
}

/// Removes what libfaketime keeps in memory for a process, which it leaves there when that is killed.
fn forget_clock(pid: u32) {
    for kept in ["faketime_shm_", "sem.faketime_sem_"] {
        let _ = std::fs::remove_file(format!("/dev/shm/{kept}{pid}"));
    }
}
