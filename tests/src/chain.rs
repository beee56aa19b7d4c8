//! A chain of clusters of real processes. Neighbours have simulated QKD links; others are fed by
//! relay, as the [`Far`] entries say. Routes are fixed, unless there is a controller. Enter through
//! [`Chain::start`].
//! Everything stops and is erased on drop.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hsm_profiles::soft::{self, CONF_VARIABLE, SoftToken};
use serde_json::Value;
use tempfile::TempDir;
use transport::{
    TlsFiles,
    pki::{DemoCa, San, Validity},
};
use wiped::Wiped;

use crate::{
    clients::{self, Etsi014, Kmip},
    network::{monitor_get, program},
    ports::base_port,
};

const READY: Duration = Duration::from_secs(90);
/// Names of the clusters, in the order of the chain and of the alphabet: the earlier one leads.
pub const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Their applications.
pub const SAES: [&str; 6] = ["sae-a", "sae-b", "sae-c", "sae-d", "sae-e", "sae-f"];

/// A pool fed by relay, along the chain.
#[derive(Clone, Copy, Debug)]
pub struct Far {
    pub from: usize,
    pub to: usize,
    /// The rest of its table `[[relay]]`.
    pub lines: &'static str,
}

/// How the chain is made.
#[derive(Clone, Debug)]
pub struct Plan {
    pub clusters: usize,
    pub far: Vec<Far>,
    /// `rate_override` of the links.
    pub rate: &'static str,
    /// Most MiB of a pool.
    pub max_stored_mib: u64,
    /// When the satellite passes, by link; absent: there is always light.
    pub passes: Vec<&'static str>,
    /// The policies of a controller, if there is one.
    pub controller: Option<&'static str>,
}

impl Default for Plan {
    fn default() -> Self {
        let (far, passes) = (Vec::new(), Vec::new());
        let (clusters, rate, max_stored_mib) = (3, "8000000", 2);
        Self { clusters, far, rate, max_stored_mib, passes, controller: None }
    }
}

struct Site {
    conf: PathBuf,
    pin_file: PathBuf,
    label: String,
    tls: TlsFiles,
    /// KM link, ETSI 014, monitor, admin, KMIP.
    ports: [SocketAddr; 5],
}

pub struct Chain {
    plan: Plan,
    sites: Vec<Site>,
    modules: Vec<[SocketAddr; 2]>,
    operator: TlsFiles,
    controller: (SocketAddr, TlsFiles),
    sim_admin: TlsFiles,
    applications: Vec<TlsFiles>,
    sims: Vec<Child>,
    kms: Vec<Option<Child>>,
    dir: TempDir,
}

fn quoted(path: &Path) -> String {
    toml::Value::from(path.display().to_string()).to_string()
}

fn tls(files: &TlsFiles) -> String {
    let [certificate, key, ca] = [&files.certificate, &files.key, &files.ca].map(|f| quoted(f));
    format!("certificate = {certificate}\nkey = {key}\nca = {ca}\n")
}

impl Chain {
    /// Makes the chain and waits until all KMs are ready and all links are up.
    pub async fn start(plan: Plan) -> Self {
        let mut chain = Self::provision(plan);
        for link in 0..chain.modules.len() {
            let sim = chain.spawn("sim", &format!("link-{link}"), None);
            chain.sims.push(sim);
        }
        if chain.plan.controller.is_some() {
            let controller = chain.spawn_part(&["controller", "run"], "controller", None);
            chain.sims.push(controller);
        }
        for at in 0..chain.plan.clusters {
            chain.kms.push(None);
            chain.start_km(at);
        }
        for at in 0..chain.plan.clusters {
            chain.ready(at).await;
        }
        chain
            .until("all links are up", async || {
                for at in 0..chain.plan.clusters {
                    let pools = chain.pools(at).await;
                    if pools.iter().any(|pool| pool["link_up"] != true) {
                        return false;
                    }
                }
                true
            })
            .await;
        chain
    }

    fn provision(plan: Plan) -> Self {
        let dir = tempfile::Builder::new().prefix("qkm-chain-").tempdir().expect("a directory");
        let ca = DemoCa::create(&dir.path().join("pki")).expect("a CA");
        let mut port = base_port();
        let mut listen = || {
            loop {
                port += 1;
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                if std::net::TcpListener::bind(address).is_ok() {
                    return address;
                }
            }
        };
        let server = |name: &str, uri: String| {
            let names = [San::loopback(), vec![San::Uri(uri)]].concat();
            ca.issue(name, &names, Validity::days(2)).expect("a certificate")
        };
        let client = |name: &str| {
            let names = [San::Uri(format!("urn:qkm:client:{name}"))];
            ca.issue(name, &names, Validity::days(2)).expect("a certificate")
        };
        let site = |at: usize| {
            let name = NAMES[at];
            let home = dir.path().join(name);
            std::fs::create_dir(&home).expect("a directory");
            let mut child = Command::new(program());
            child.arg("demo-token");
            let token = soft::provision(SoftToken::SoftHsm, &home, name, child).expect("a token");
            let tls = server(&format!("km-{name}"), format!("urn:qkm:km:{name}"));
            let ports = std::array::from_fn(|_| listen());
            Site { conf: token.conf, pin_file: token.pin_file, label: token.label, tls, ports }
        };
        let sites: Vec<Site> = (0..plan.clusters).map(site).collect();
        let modules: Vec<_> = (1..plan.clusters).map(|_| [listen(), listen()]).collect();
        let controller = (listen(), server("controller", "urn:qkm:controller".to_owned()));
        let chain = Self {
            controller,
            applications: SAES[..plan.clusters].iter().map(|name| client(name)).collect(),
            operator: client("operator"),
            sim_admin: client("sim-admin"),
            sims: Vec::new(),
            kms: Vec::new(),
            plan,
            sites,
            modules,
            dir,
        };
        for link in 0..chain.modules.len() {
            let files = [0, 1].map(|end| {
                let name = NAMES[link + end];
                server(&format!("module-{link}-{name}"), format!("urn:qkm:module:{name}"))
            });
            chain.write(&format!("link-{link}"), &chain.link_text(link, &files));
        }
        if let Some(policies) = chain.plan.controller {
            chain.write("controller", &chain.controller_text(policies));
        }
        (0..chain.plan.clusters).for_each(|at| chain.write(NAMES[at], &chain.site_text(at)));
        chain
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.config(name), text).expect("a writable directory");
    }

    fn config(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.toml"))
    }

    fn link_text(&self, link: usize, files: &[TlsFiles; 2]) -> String {
        let mut text = format!("admins = [\"cn:sim-admin\"]\nrate_override = {}\n", self.plan.rate);
        for (end, name) in ["a", "b"].into_iter().enumerate() {
            let cluster = NAMES[link + end];
            text += &format!(
                "\n[{name}]\nkme_id = \"module-{cluster}\"\nlisten = \"{}\"\n\
                 sae_id = \"km-{cluster}\"\nclients = [\"uri:urn:qkm:km:{cluster}\"]\n\
                 [{name}.tls]\n{}",
                self.modules[link][end],
                tls(&files[end]),
            );
        }
        let passes = self.plan.passes.get(link);
        text + &passes.map_or_else(String::new, |passes| format!("\n[passes]\n{passes}\n"))
    }

    fn controller_text(&self, policies: &str) -> String {
        let (listen, files) = &self.controller;
        let mut text = format!(
            "[controller]\nlisten = \"{listen}\"\n{}orders = {}\noperators = [\"cn:operator\"]\n\n\
             [thresholds]\nsilence_ms = 3000\nlow_bits = 65536\nample_bits = 65536\n\n",
            tls(files),
            quoted(&self.dir.path().join("orders.json")),
        );
        for name in &NAMES[..self.plan.clusters] {
            text +=
                &format!("[[km]]\ncluster = \"{name}\"\nidentity = \"uri:urn:qkm:km:{name}\"\n");
        }
        text + policies
    }

    fn site_text(&self, at: usize) -> String {
        let Site { pin_file, label, tls: own, ports, .. } = &self.sites[at];
        let here = NAMES[at];
        let store = self.dir.path().join(here).join("store");
        let mut text = format!(
            "[cluster]\nid = \"{here}\"\n\n[store]\npath = {}\n\n[hsm]\nprofile = \"softhsm2\"\n\
             token = {{ label = \"{label}\" }}\npin = {{ file = {} }}\ncreate_kek = true\n\n\
             [monitor]\nlisten = \"{}\"\n\n[debug]\ndumpable = true\n\n",
            quoted(&store),
            quoted(pin_file),
            ports[2],
        );
        for (front, port) in [("kmip", 4), ("km_link", 0), ("etsi014", 1), ("admin", 3)] {
            text += &format!("[{front}]\nlisten = \"{}\"\n{}", ports[port], tls(own));
        }
        text += &format!("operators = [\"cn:operator\"]\n\n[operator]\n{}\n", tls(&self.operator));
        let status = match self.plan.controller {
            None => "",
            Some(_) => {
                let (address, identity) = (self.controller.0, "uri:urn:qkm:controller");
                text += &format!(
                    "[controller]\naddresses = [\"{address}\"]\nidentity = \"{identity}\"\n\
                     report_ms = 300\n{}\n",
                    tls(own)
                );
                "status_path = \"/api/v1/link\"\nstatus_interval_ms = 250\n"
            }
        };
        for far in [at.checked_sub(1), Some(at + 1)].into_iter().flatten() {
            if far < self.plan.clusters {
                let link = at.min(far);
                let module = self.modules[link][usize::from(at != link)];
                text += &self.peer_text(far);
                text += &format!(
                    "[[qkd_link]]\nid = \"link-{link}\"\npeer = \"{there}\"\n[qkd_link.module]\n\
                     address = \"{module}\"\n{}identity = \"uri:urn:qkm:module:{here}\"\n\
                     sae = \"km-{here}\"\npeer_sae = \"km-{there}\"\n{status}\n",
                    tls(own),
                    there = NAMES[far],
                );
            }
        }
        for Far { from, to, lines } in self.plan.far.iter().filter(|f| [f.from, f.to].contains(&at))
        {
            let (far, mut via) = (from + to - at, NAMES[from + 1..*to].to_vec());
            if far == *from {
                via.reverse();
            }
            text += &self.peer_text(far);
            text += &format!("[[relay]]\nto = \"{}\"\nvia = {via:?}\n{lines}\n\n", NAMES[far]);
        }
        for (name, sae) in NAMES.iter().zip(SAES).take(self.plan.clusters) {
            text += &format!(
                "[[sae]]\nid = \"{sae}\"\nclusters = [\"{name}\"]\ncertificate = \"cn:{sae}\"\n\n"
            );
        }
        let saes = &SAES[..self.plan.clusters];
        for (at, one) in saes.iter().enumerate() {
            for other in &saes[at + 1..] {
                text += &format!("[[pair]]\nsaes = [\"{one}\", \"{other}\"]\n\n");
            }
        }
        text
    }

    fn peer_text(&self, far: usize) -> String {
        let there = NAMES[far];
        format!(
            "[[peer]]\ncluster = \"{there}\"\naddress = \"{}\"\n\
             identity = \"uri:urn:qkm:km:{there}\"\nmax_stored_mib = {}\n\n",
            self.sites[far].ports[0], self.plan.max_stored_mib,
        )
    }

    fn spawn(&self, part: &str, name: &str, conf: Option<&Path>) -> Child {
        self.spawn_part(&[part], name, conf)
    }

    fn spawn_part(&self, part: &[&str], name: &str, conf: Option<&Path>) -> Child {
        let log = self.dir.path().join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        let mut command = Command::new(program());
        command.args(part).args(["--with-parent", "--config"]).arg(self.config(name));
        command.envs(conf.map(|conf| (CONF_VARIABLE, conf))).stdin(Stdio::piped());
        command.stdout(log.try_clone().expect("a handle")).stderr(log);
        command.spawn().expect("the program starts")
    }

    pub fn start_km(&mut self, at: usize) {
        self.kms[at] = Some(self.spawn("serve", NAMES[at], Some(&self.sites[at].conf)));
    }

    /// `kill -9`.
    pub fn kill(&mut self, at: usize) {
        end(self.kms[at].take());
    }

    /// Stops in order, as an operator would, and waits; the exit code.
    pub fn stop(&mut self, at: usize) -> Option<i32> {
        let mut child = self.kms[at].take()?;
        drop(child.stdin.take());
        child.wait().expect("a status").code()
    }

    pub fn pid(&self, at: usize) -> u32 {
        self.kms[at].as_ref().expect("it runs").id()
    }

    pub fn clusters(&self) -> usize {
        self.plan.clusters
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a command of the program with a KM's configuration and token.
    pub fn qkm(&self, at: usize, command: &[&str]) -> std::process::Output {
        self.qkm_begun(at, command).wait_with_output().expect("the program runs")
    }

    /// The same, while it runs.
    pub fn qkm_begun(&self, at: usize, command: &[&str]) -> Child {
        let mut qkm = Command::new(program());
        qkm.args(command).arg("--config").arg(self.config(NAMES[at]));
        qkm.env(CONF_VARIABLE, &self.sites[at].conf);
        qkm.stdout(Stdio::piped()).stderr(Stdio::piped());
        qkm.spawn().expect("the program starts")
    }

    pub async fn ready(&self, at: usize) {
        let monitor = self.sites[at].ports[2];
        self.until("the KM is ready", async || {
            monitor_get(monitor, "/readyz").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
    }

    /// The application of one cluster at its KM.
    pub fn etsi(&self, at: usize) -> Etsi014 {
        Etsi014::new(&self.sites[at].ports[1].to_string(), &self.applications[at])
    }

    /// The same over KMIP.
    pub fn kmip(&self, at: usize) -> Kmip {
        Kmip::new(&self.sites[at].ports[4].to_string(), &self.applications[at])
    }

    /// What the operators' API of a KM answers; null while it does not.
    pub async fn admin(&self, at: usize, path: &str) -> Value {
        let client = clients::http(&self.sites[at].ports[3].to_string(), &self.operator);
        match client.get(path).await {
            Ok((200, body)) => serde_json::from_slice(&body).expect("JSON"),
            _ => Value::Null,
        }
    }

    /// The parts of the network, each with its state, as the controller has them.
    pub async fn components(&self) -> Vec<(String, String)> {
        let client = clients::http(&self.controller.0.to_string(), &self.operator);
        let Ok((200, body)) = client.get("/v1/components").await else { return Vec::new() };
        let said: Value = serde_json::from_slice(&body).expect("JSON");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let parts = said["components"].as_array().into_iter().flatten();
        parts.map(|part| (text(&part["component"]), text(&part["state"]))).collect()
    }

    /// The pools of a KM as operators see them.
    pub async fn pools(&self, at: usize) -> Vec<Value> {
        self.admin(at, "/v1/pools").await["pools"].as_array().cloned().unwrap_or_default()
    }

    /// The pool of `at` with `far`.
    pub async fn pool(&self, at: usize, far: usize) -> Value {
        let pools = self.pools(at).await;
        pools.into_iter().find(|pool| pool["peer"] == NAMES[far]).unwrap_or_default()
    }

    /// Orders bytes by relay.
    pub async fn order(&self, at: usize, far: usize, bytes: u64) {
        let client = clients::http(&self.sites[at].ports[3].to_string(), &self.operator);
        let path = format!("/v1/pools/{}/feed/{bytes}", NAMES[far]);
        let empty = Wiped::copy_of(b"{}");
        let (status, body) = client.post(&path, empty).await.expect("the KM answers");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    }

    /// Cuts all simulated links, or mends them.
    pub async fn set_sims_paused(&self, paused: bool) {
        for [module, _] in &self.modules {
            let client = clients::http(&module.to_string(), &self.sim_admin);
            let body = format!(r#"{{"fault":"cut","on":{paused}}}"#).into_bytes();
            let (status, _) =
                client.post("/api/v1/sim/fault", Wiped::new(body)).await.expect("it answers");
            assert!(status < 300, "{status}");
        }
    }

    /// What a KM has logged.
    pub fn log(&self, at: usize) -> String {
        let log = self.dir.path().join(format!("{}.log", NAMES[at]));
        std::fs::read_to_string(log).unwrap_or_default()
    }

    /// Waits for a condition; panics with the KMs' last words when it does not come.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + READY;
        while !holds().await {
            if Instant::now() > deadline {
                for (at, name) in NAMES[..self.plan.clusters].iter().enumerate() {
                    let log = self.log(at);
                    let lines: Vec<&str> = log.lines().collect();
                    println!("-- {name}\n{}", lines[lines.len().saturating_sub(15)..].join("\n"));
                }
                panic!("{what}: not within {READY:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.sims.drain(..).map(Some).for_each(end);
        self.kms.iter_mut().for_each(|km| end(km.take()));
    }
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}
