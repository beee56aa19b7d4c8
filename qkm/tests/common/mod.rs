//! A demonstration network whose parts are processes of this test.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../testkit/ports.rs"]
pub mod ports;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use ports::base_port;
use qkm::demo::{Layout, Options, Site, etsi014_pair, provision};
use tempfile::TempDir;

pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_qkm").into()
}

pub fn qkm(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Two key managers and the simulated link; killed on drop.
pub struct Network {
    pub dir: TempDir,
    pub layout: Layout,
    pub sim: Option<Child>,
    pub north: Option<Child>,
    pub south: Option<Child>,
}

impl Network {
    /// Provisioned, nothing started.
    pub fn provisioned() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options =
            Options { base_port: base_port(), program: Some(program()), ..Options::default() };
        let layout = provision(&dir.path().join("net"), &options).unwrap();
        Self { dir, layout, sim: None, north: None, south: None }
    }

    /// Running, with first keys in the pools.
    pub async fn running() -> Self {
        let mut network = Self::provisioned();
        network.sim = Some(spawn(network.layout.sim_command(), &network.log("sim")));
        network.north = Some(network.serve(&network.layout.north));
        network.south = Some(network.serve(&network.layout.south));
        for site in network.layout.sites() {
            await_ready(site).await;
        }
        let started = Instant::now();
        while etsi014_pair(&network.layout).await.unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "no keys");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        network
    }

    pub fn serve(&self, site: &Site) -> Child {
        spawn(self.layout.serve_command(site), &self.log(site.cluster))
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    pub fn read_log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log(name)).unwrap_or_default()
    }

    /// `qkm` with the configuration of `site` at the end.
    pub fn cli(&self, site: &Site, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.args(arguments).arg("--config").arg(&site.config);
        command.env("SOFTHSM2_CONF", &site.softhsm_conf).output().unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for child in [&mut self.north, &mut self.south, &mut self.sim].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn spawn(mut command: Command, log: &Path) -> Child {
    let file = std::fs::File::options().create(true).append(true).open(log).unwrap();
    command.stdout(Stdio::null()).stderr(file).spawn().unwrap()
}

pub fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: qkm\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

pub async fn await_ready(site: &Site) {
    let started = Instant::now();
    while get(site.monitor, "/readyz").is_none_or(|(status, _)| status != 200) {
        assert!(started.elapsed() < PATIENCE, "{} is not ready", site.cluster);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

pub fn ends_within(child: &mut Child, limit: Duration) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(started.elapsed() < limit, "still runs after {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
