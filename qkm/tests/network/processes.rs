//! How a key manager starts, protects itself and its HSM worker, and ends.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::{self, Network, await_ready, ends_within, get, signal, text};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_in_order_and_burns_nothing_on_doubt() {
    let mut network = Network::running().await;
    let mut north = network.north.take().unwrap();
    let before = pools(&network);
    signal(&north, Signal::TERM);
    assert!(ends_within(&mut north, Duration::from_secs(20)).success());
    let log = network.read_log("north");
    assert!(log.contains("key manager stopped") && !log.contains("still in use"), "{log}");

    let doctor = network.cli(&network.layout.north, &["doctor"]);
    let report = text(&doctor.stdout);
    assert_eq!(doctor.status.code(), Some(0), "{report}");
    for line in ["HSM seals and opens", "account balances", "is free"] {
        assert!(report.contains(line), "{line:?} is not in\n{report}");
    }

    network.north = Some(network.serve(&network.layout.north));
    await_ready(&network.layout.north).await;
    let log = network.read_log("north");
    assert!(!log.contains("burning a run left open"), "{log}");
    let after = pools(&network);
    assert!(after["ledger"]["delivered"].as_u64() >= before["ledger"]["delivered"].as_u64());
    assert_eq!(after["balanced"], true);
}

fn pools(network: &Network) -> Value {
    let listed = network.cli(&network.layout.north, &["pool", "list", "-o", "json"]);
    let mut listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    listed["pools"][0].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_says_why() {
    let network = Network::provisioned();
    let north = &network.layout.north;
    let taken = std::net::TcpListener::bind(north.etsi014).unwrap();
    let output = network.layout.serve_command(north).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("error[QKM-L001]: [etsi014] cannot listen on"), "{said}");
    drop(taken);

    // South's token does not open north's store.
    let config = std::fs::read_to_string(&north.config).unwrap();
    let pin = network.layout.south.pin_file.display().to_string();
    let stolen = config
        .replace("label = \"north\"", "label = \"south\"")
        .replace(&north.pin_file.display().to_string(), &pin);
    std::fs::write(&north.config, stolen).unwrap();
    let mut command = network.layout.serve_command(north);
    command.env("SOFTHSM2_CONF", &network.layout.south.softhsm_conf);
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[QKM-S004]"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn children_stop_when_their_parent_goes_and_protect_themselves() {
    let mut network = Network::running().await;
    let mut south = network.south.take().unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", south.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    drop(south.stdin.take());
    assert!(ends_within(&mut south, Duration::from_secs(20)).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hsm_worker_protects_itself_and_ends_with_its_key_manager() {
    let mut network = Network::running().await;
    let mut north = network.north.take().unwrap();
    let worker = PathBuf::from(format!("/proc/{}", worker_of(north.id())));
    let read = |name: &str| text(&std::fs::read(worker.join(name)).unwrap());
    let limits = read("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    let arguments = read("cmdline");
    assert!(arguments.contains("hsm-worker") && !arguments.contains("north"), "{arguments}");
    for entry in std::fs::read_dir(worker.join("fd")).unwrap() {
        // The listing may name what is closed by now.
        let Ok(open) = std::fs::read_link(entry.unwrap().path()) else { continue };
        let open = open.display().to_string();
        assert!(!open.contains("store.qkm"), "the worker holds {open}");
        assert!(!open.contains("/tls/"), "the worker holds {open}");
    }
    // One socket to read and one to write. No listener, no connection of the KM.
    let sockets = || {
        let entries = std::fs::read_dir(worker.join("fd")).unwrap();
        let open = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let names = open.map(|path| path.display().to_string());
        names.filter(|name| name.starts_with("socket:")).collect::<std::collections::BTreeSet<_>>()
    };
    // The runtime that keeps stop signals out has a pair of its own.
    assert!(sockets().len() <= 4, "{:?}", sockets());
    // A service manager tells the whole group to stop: the worker is needed until the KM is done.
    let pid = rustix::process::Pid::from_raw(worker_of(north.id())).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(worker.exists(), "a signal to stop ended the worker");
    north.kill().unwrap();
    north.wait().unwrap();
    let killed = std::time::Instant::now();
    while worker.exists() {
        assert!(killed.elapsed() < Duration::from_secs(10), "the worker outlives its KM");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The HSM worker process of a key manager.
fn worker_of(km: u32) -> i32 {
    let tasks = std::fs::read_dir(format!("/proc/{km}/task")).unwrap();
    let children: String = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
        .collect();
    children.trim().parse().unwrap()
}

/// `command` as it runs where only 8 MiB may be locked.
fn with_little_to_lock(command: &Command) -> Command {
    let mut limited = Command::new("prlimit");
    limited.arg("--memlock=8388608:8388608");
    if rustix::process::geteuid().is_root() {
        limited.args(["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]);
    }
    limited.arg(command.get_program()).args(command.get_args()).stdin(Stdio::piped());
    for (name, value) in command.get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    limited
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_lock_its_memory_warns_or_does_not_start() {
    let mut network = Network::provisioned();
    let north = &network.layout.north;
    let serve = with_little_to_lock(&network.layout.serve_command(north));
    network.north = Some(common::spawn(serve, &network.log("north")));
    await_ready(north).await;
    assert!(network.read_log("north").contains("memory-not-locked"));
    let (_, metrics) = get(north.monitor, "/metrics").unwrap();
    assert!(metrics.contains("qkm_memory_locked_bytes 0"), "{metrics}");
    drop(network.north.take().map(|mut child| child.kill().and_then(|()| child.wait())));

    let mut config = std::fs::read_to_string(&north.config).unwrap();
    config += "\n[memory]\nlock = \"require\"\n";
    std::fs::write(&north.config, config).unwrap();
    let output = with_little_to_lock(&network.layout.serve_command(north)).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[QKM-P002]: this process may lock only 8192 KiB"), "{said}");
    let mut doctor = Command::new(common::program());
    doctor.args(["doctor", "--config"]).arg(&north.config);
    doctor.env("SOFTHSM2_CONF", &north.softhsm_conf);
    let report = text(&with_little_to_lock(&doctor).output().unwrap().stdout);
    assert!(report.contains("[failure]  memory is not locked"), "{report}");
    assert!(report.contains("core dumps: none") && report.contains("debuggers: only root's"));
}
