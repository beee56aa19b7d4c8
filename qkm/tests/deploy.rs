//! The units in `deploy/`, judged by systemd itself.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{path::Path, process::Command};

use qkm::fault::Code;

/// Of 100, where a service that systemd lets do everything has 96.
const MOST_EXPOSED: &str = "15";

/// The unit as it would be installed, but with the program where it was built.
fn unit(name: &str, dir: &Path) -> std::path::PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    let text = std::fs::read_to_string(from).unwrap();
    let text = text.replace("/usr/local/bin/qkm", env!("CARGO_BIN_EXE_qkm"));
    // Any program will do for systemd to look at.
    let text = text.replace("/usr/local/bin/etcd", "/bin/true");
    let unit = dir.join(name);
    std::fs::write(&unit, text).unwrap();
    unit
}

fn analyze(arguments: &[&str], unit: &Path) -> (bool, String) {
    let done = Command::new("systemd-analyze").args(arguments).arg(unit).output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn units_are_whole_and_confined() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["qkm.service", "qkm-controller.service", "qkm-etcd.service"] {
        let unit = unit(name, dir.path());
        let (fine, said) = analyze(&["verify", "--man=no"], &unit);
        // It says of a setting it does not know that it ignores it, and is content.
        assert!(fine && !said.contains(name), "{name}: {said}");
        let judge = ["security", "--offline=yes", "--threshold", MOST_EXPOSED];
        let (fine, said) = analyze(&judge, &unit);
        assert!(fine, "{name}: {said}");
    }
}

/// Only the exit status of the key manager itself keeps systemd from starting it again.
#[test]
fn what_a_start_cannot_mend_is_not_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(unit("qkm.service", dir.path())).unwrap();
    assert!(text.contains("\nRestartPreventExitStatus=2 4\n") && !text.contains("ExecStartPre"));
    let hopeless = [Code::C002, Code::H001, Code::H003, Code::S006].map(|code| code.exit() as u8);
    assert_eq!(hopeless, [2, 2, 2, 4]);
    assert_ne!(Code::H002.exit() as u8, 2, "a token that is away comes back");
}

#[test]
fn what_the_units_call_exists() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["qkm.service", "qkm-controller.service"] {
        let text = std::fs::read_to_string(unit(name, dir.path())).unwrap();
        let calls = text.lines().filter(|line| line.starts_with("ExecStart"));
        for call in calls.clone() {
            let (_, call) = call.split_once('=').unwrap();
            let mut words = call.split(' ');
            let mut command = Command::new(words.next().unwrap());
            command.args(words.take_while(|word| !word.starts_with(['-', '/']))).arg("--help");
            assert!(command.output().unwrap().status.success(), "{call}");
        }
        assert!(calls.count() > 0);
    }
}

#[test]
fn the_configuration_of_a_cluster_is_whole() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/cluster/qkm.toml");
    let config = qkm::config::Config::load(&file).unwrap();
    let shared = config.shared.unwrap();
    assert_eq!(shared.etcd.endpoints.len(), 3);
    assert_eq!(config.peers[0].addresses.len(), 3);
}

/// A member with the settings as they are, but for places on this machine: etcd knows all of them.
#[test]
fn the_engine_knows_its_settings_and_starts_with_them() {
    use transport::pki::{DemoCa, San, Validity};
    let dir = tempfile::tempdir().unwrap();
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/cluster/etcd.env");
    let ca = DemoCa::create(&dir.path().join("pki")).unwrap();
    let files = ca.issue("member", &San::loopback(), Validity::days(2)).unwrap();
    let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (clients, peers) = (port(), port());
    let settings = std::fs::read_to_string(deploy).unwrap();
    let set = settings.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.split_once('=').unwrap();
        let value = match name {
            "ETCD_DATA_DIR" => dir.path().join("data").display().to_string(),
            "ETCD_INITIAL_CLUSTER" => format!("km1=https://localhost:{peers}"),
            _ if name.ends_with("_CERT_FILE") => files.certificate.display().to_string(),
            _ if name.ends_with("_KEY_FILE") => files.key.display().to_string(),
            _ if name.ends_with("_CA_FILE") => files.ca.display().to_string(),
            _ => value
                .replace("km1.north.example:2379", &format!("localhost:{clients}"))
                .replace("km1.north.example:2380", &format!("localhost:{peers}"))
                .replace("192.0.2.1:2379", &format!("127.0.0.1:{clients}"))
                .replace("192.0.2.1:2380", &format!("127.0.0.1:{peers}")),
        };
        (name.to_owned(), value)
    });
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/usr/bin/etcd");
    let program = if unpacked.exists() { unpacked } else { "etcd".into() };
    let log = dir.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let mut member = Command::new(program)
        .envs(set)
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .expect("etcd; run `scripts/setup.sh tests`");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let said = loop {
        let said = std::fs::read_to_string(&log).unwrap();
        let ready = said.contains("ready to serve client requests")
            || said.contains("serving client requests");
        if ready || std::time::Instant::now() > until || member.try_wait().unwrap().is_some() {
            break ready.then_some(said.clone()).ok_or(said);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    let _ = member.kill();
    let _ = member.wait();
    let said = said.unwrap_or_else(|said| panic!("it is not ready: {said}"));
    assert!(!said.contains("unrecognized environment variable"), "{said}");
}
