//! An etcd of several members on loopback, with mutual TLS. Not a crate: tests of several crates
//! include it. Enter through [`Engine::start`]; all of it ends and is erased on drop.
#![allow(dead_code, unreachable_pub, reason = "no test uses all of it, and a library takes it in")]

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use transport::{
    TlsFiles,
    pki::{DemoCa, San, Validity},
};

const READY: Duration = Duration::from_secs(60);

struct Member {
    client: u16,
    peer: u16,
    /// Where the others reach it.
    advertised: u16,
    child: Option<Child>,
}

pub struct Engine {
    dir: TempDir,
    ca: DemoCa,
    /// Certificate of a key manager towards it.
    pub files: TlsFiles,
    members: Vec<Member>,
    /// Most bytes of its database.
    quota: Option<u64>,
    /// Process of each member.
    pub pids: Arc<Mutex<Vec<u32>>>,
}

/// `name` of Debian's packages, as `scripts/setup.sh tests` unpacks them.
fn program(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let unpacked = target.join("tools/usr/bin").join(name);
    if unpacked.exists() { unpacked } else { name.into() }
}

fn url(port: u16) -> String {
    format!("https://localhost:{port}")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Engine {
    /// Starts it and waits until it has a leader.
    pub fn start(members: usize) -> Self {
        let ports: Vec<u16> = (0..members).map(|_| free_port()).collect();
        let mut engine = Self::plan(ports.into_iter().map(|port| (port, port)).collect(), None);
        engine.run_all();
        engine
    }

    /// Not started yet. `peers`: of each member where it listens for the others, and where these reach it.
    pub fn plan(peers: Vec<(u16, u16)>, quota: Option<u64>) -> Self {
        // What is tested is what the members tell each other, not the disk.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("qkm-etcd-").tempdir_in(parent).unwrap();
        let ca = DemoCa::create(&dir.path().join("pki")).unwrap();
        let issue = |name: &str| ca.issue(name, &San::loopback(), Validity::days(2)).unwrap();
        issue("etcd");
        let files = issue("km");
        let member = |(peer, advertised)| {
            let client = free_port();
            Member { client, peer, advertised, child: None }
        };
        let members: Vec<Member> = peers.into_iter().map(member).collect();
        let pids = Arc::new(Mutex::new(vec![0; members.len()]));
        Self { dir, ca, files, members, quota, pids }
    }

    pub fn run_all(&mut self) {
        for member in 0..self.members.len() {
            self.run(member);
        }
        self.ready();
    }

    /// Where each member listens for clients.
    pub fn ports(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.client).collect()
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("localhost:{}", member.client)).collect()
    }

    /// Another certificate of the same authority.
    pub fn issue(&self, name: &str) -> TlsFiles {
        self.ca.issue(name, &San::loopback(), Validity::days(2)).unwrap()
    }

    /// Starts a member, with what it had on disk.
    pub fn run(&mut self, at: usize) {
        let pki = self.dir.path().join("pki");
        let file = |name: &str| pki.join(name).display().to_string();
        let log = std::fs::File::create(self.dir.path().join(format!("m{at}.log"))).unwrap();
        let member = &self.members[at];
        let mut command = Command::new(program("etcd"));
        command
            .args(["--name", &format!("m{at}"), "--initial-cluster-token", "test"])
            .arg("--data-dir")
            .arg(self.dir.path().join(format!("m{at}")))
            .args(["--listen-client-urls", &format!("https://127.0.0.1:{}", member.client)])
            .args(["--advertise-client-urls", &url(member.client)])
            .args(["--listen-peer-urls", &format!("https://127.0.0.1:{}", member.peer)])
            .args(["--initial-advertise-peer-urls", &url(member.advertised)])
            .args(["--initial-cluster", &self.initial()])
            .args(["--client-cert-auth", "--peer-client-cert-auth"])
            .args(["--cert-file", &file("etcd.crt"), "--key-file", &file("etcd.key")])
            .args(["--peer-cert-file", &file("etcd.crt"), "--peer-key-file", &file("etcd.key")])
            .args(["--trusted-ca-file", &file("ca.crt")])
            .args(["--peer-trusted-ca-file", &file("ca.crt")])
            .args(["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1m"])
            // As in deploy/cluster/etcd.env, and as maintained releases do by themselves.
            .args(["--heartbeat-interval", "50", "--election-timeout", "500", "--pre-vote"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if let Some(bytes) = self.quota {
            command.args(["--quota-backend-bytes", &bytes.to_string()]);
        }
        let child = command.spawn().expect("etcd starts; run `scripts/setup.sh tests`");
        self.pids.lock().unwrap()[at] = child.id();
        self.members[at].child = Some(child);
    }

    /// Waits until it commits.
    pub fn ready(&self) {
        let until = Instant::now() + READY;
        while !self.etcdctl(&self.files, &["put", "/test/ready", "1"]).0 {
            let log = std::fs::read_to_string(self.dir.path().join("m0.log")).unwrap_or_default();
            let tail = log.len().saturating_sub(2000);
            assert!(Instant::now() < until, "etcd is not ready: {}", &log[tail..]);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.members[at].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The disk of a member takes nothing more: each write fails, as on one that is full.
    pub fn stop_writes(&self, at: usize) {
        let pid = self.members[at].child.as_ref().expect("it runs").id().to_string();
        let limited = Command::new("prlimit").args(["--pid", &pid, "--fsize=1"]).status();
        assert!(limited.expect("prlimit runs").success());
    }

    /// Whether a member ended by itself.
    pub fn ended(&mut self, at: usize) -> bool {
        let child = self.members[at].child.as_mut().expect("it was started");
        child.try_wait().expect("its status").is_some()
    }

    /// A copy of all that is in it, as etcd makes backups.
    pub fn snapshot(&self, name: &str) -> PathBuf {
        let file = self.dir.path().join(name);
        let endpoint = self.endpoint(0);
        let path = file.display().to_string();
        let (done, said) = self.etcdctl_at(&endpoint, &self.files, &["snapshot", "save", &path]);
        assert!(done, "{said}");
        file
    }

    /// Writes until it takes no more.
    pub fn fill(&self) {
        let junk = self.dir.path().join("junk");
        std::fs::write(&junk, vec![b'x'; 1_400_000]).unwrap();
        for number in 0..1000 {
            let key = format!("/junk/{number}");
            let value = std::fs::File::open(&junk).unwrap();
            let mut put = self.control(&self.endpoint(number % self.members.len()), &self.files);
            let done = put.args(["put", &key]).stdin(value).output().expect("etcdctl runs");
            if String::from_utf8_lossy(&done.stderr).contains("space exceeded") {
                return;
            }
        }
        panic!("it is never full");
    }

    /// As an operator who got the alarm of a full engine.
    pub fn make_room(&self) {
        self.erase("/junk/");
        self.compact();
        self.defragment();
        let (done, said) = self.etcdctl(&self.files, &["alarm", "disarm"]);
        assert!(done, "{said}");
    }

    /// Forgets what keys were before, as the engine does by itself every so often.
    pub fn compact(&self) {
        let (_, said) = self.etcdctl(&self.files, &["get", "/junk/", "-w", "json"]);
        let revision =
            said.split("\"revision\":").nth(1).and_then(|rest| rest.split([',', '}']).next());
        // Physically: a member that is defragmented before it has compacted stays as large as it was.
        let revision = revision.expect("a revision");
        let (done, said) = self.etcdctl(&self.files, &["compact", "--physical", revision]);
        assert!(done || said.contains("compacted"), "{said}");
    }

    /// Gives back what compactions left.
    pub fn defragment(&self) {
        for at in 0..self.members.len() {
            let (done, said) = self.etcdctl_at(
                &self.endpoint(at),
                &self.files,
                &["defrag", "--command-timeout", "20s"],
            );
            assert!(done, "{said}");
        }
    }

    /// Removes all keys under `prefix`.
    pub fn erase(&self, prefix: &str) {
        let (done, said) = self.etcdctl(&self.files, &["del", "--prefix", prefix]);
        assert!(done, "{said}");
    }

    /// Stops all members and starts them with that copy, as etcd's guide to disaster recovery says.
    pub fn put_back(&mut self, copy: &Path) {
        for at in 0..self.members.len() {
            self.kill(at);
        }
        for at in 0..self.members.len() {
            let data = self.dir.path().join(format!("m{at}"));
            std::fs::remove_dir_all(&data).unwrap();
            let done = Command::new(program("etcdctl"))
                .env("ETCDCTL_API", "3")
                .args(["snapshot", "restore"])
                .arg(copy)
                .args(["--name", &format!("m{at}"), "--initial-cluster", &self.initial()])
                .args(["--initial-cluster-token", "test", "--data-dir"])
                .arg(data)
                .args(["--initial-advertise-peer-urls", &url(self.members[at].advertised)])
                .output()
                .expect("etcdctl runs");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        self.run_all();
    }

    fn initial(&self) -> String {
        let member = |(n, m): (usize, &Member)| format!("m{n}={}", url(m.advertised));
        self.members.iter().enumerate().map(member).collect::<Vec<_>>().join(",")
    }

    /// Stops a member's clock, or lets it go on: `STOP`, `CONT`.
    pub fn signal(&self, at: usize, name: &str) {
        let pid = self.members[at].child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// The member that leads.
    pub fn leader(&self) -> Option<usize> {
        (0..self.members.len()).find(|at| {
            let status = &["endpoint", "status"];
            let (_, text) = self.etcdctl_at(&self.endpoint(*at), &self.files, status);
            // "endpoint, id, version, size, is leader, …"
            text.split(", ").nth(4) == Some("true")
        })
    }

    /// Whether each member tells what all of them agree on: one that came back a moment ago may not yet.
    pub fn is_whole(&self) -> bool {
        let health = ["endpoint", "health", "--command-timeout", "500ms"];
        let answers = |at| self.etcdctl_at(&self.endpoint(at), &self.files, &health).0;
        (0..self.members.len()).all(answers)
    }

    /// etcd's own client with a certificate; whether it succeeded, and what it said.
    pub fn etcdctl(&self, files: &TlsFiles, arguments: &[&str]) -> (bool, String) {
        let all: Vec<_> = self.endpoints().iter().map(|e| format!("https://{e}")).collect();
        self.etcdctl_at(&all.join(","), files, arguments)
    }

    fn etcdctl_at(&self, at: &str, files: &TlsFiles, arguments: &[&str]) -> (bool, String) {
        let done = self.control(at, files).args(arguments).output().expect("etcdctl runs");
        let text = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn control(&self, at: &str, files: &TlsFiles) -> Command {
        let mut command = Command::new(program("etcdctl"));
        command.env("ETCDCTL_API", "3").args(["--endpoints", at, "--command-timeout", "5s"]);
        command.arg("--cert").arg(&files.certificate).arg("--key").arg(&files.key);
        command.arg("--cacert").arg(&files.ca);
        command
    }

    fn endpoint(&self, at: usize) -> String {
        format!("https://localhost:{}", self.members[at].client)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for at in 0..self.members.len() {
            self.kill(at);
        }
    }
}
