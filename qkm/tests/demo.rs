//! `qkm demo` as a person runs it.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{PATIENCE, ends_within, ports::base_port, program, signal};
use rustix::process::Signal;

/// Killed on drop; its parts follow it.
struct Demo(Child);

impl std::ops::Deref for Demo {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Demo {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A demonstration that has introduced itself, and what it said.
fn demo(arguments: &[&str]) -> (Demo, String) {
    demo_from(base_port(), arguments)
}

fn demo_from(base_port: u16, arguments: &[&str]) -> (Demo, String) {
    let child = Command::new(program())
        .arg("demo")
        .args(["--base-port", &base_port.to_string()])
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Demo(child);
    let mut said = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !said.contains("Ctrl-C stops") {
        let line = lines.next().unwrap_or_else(|| panic!("ended after:\n{said}")).unwrap();
        said = said + &line + "\n";
    }
    // Keeps the pipe open, or its last words would fail.
    std::thread::spawn(move || lines.for_each(drop));
    (child, said)
}

/// Processes whose command line names `dir`.
fn processes(dir: &Path) -> usize {
    let wanted = dir.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(wanted)).count()
}

fn await_no_processes(dir: &Path) {
    let started = Instant::now();
    while processes(dir) > 0 {
        assert!(started.elapsed() < PATIENCE, "children are left");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn it_checks_itself_and_erases_itself_on_ctrl_c() {
    let dir = tempfile::tempdir().unwrap();
    let room = dir.path().join("demo");
    let (mut child, said) = demo(&["--dir", room.to_str().unwrap()]);
    assert!(said.starts_with("DEMO - SIMULATED QKD"), "{said}");
    for line in ["ETSI 014 key ", "KMIP     key ", "curl -s --cacert", "kmip-demo.py"] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
    assert_eq!(processes(&room.join("north.toml")), 1);
    signal(&child, Signal::INT);
    assert!(ends_within(&mut child, PATIENCE).success());
    assert!(!room.exists(), "the directory is erased");
    assert_eq!(processes(&room), 0);
}

#[test]
fn busy_ports_are_skipped_and_a_kept_directory_stays() {
    let dir = tempfile::tempdir().unwrap();
    let room = dir.path().join("demo");
    let busy = base_port();
    let _busy = std::net::TcpListener::bind(("127.0.0.1", busy)).unwrap();
    let (mut child, said) = demo_from(busy, &["--keep", room.to_str().unwrap()]);
    assert!(said.contains(&format!("https://127.0.0.1:{}", busy + 1)), "{said}");
    signal(&child, Signal::TERM);
    assert!(ends_within(&mut child, PATIENCE).success());
    assert!(room.join("north/store/store.qkm").exists() && room.join("north.log").exists());
    let again = Command::new(program()).args(["demo", "--dir"]).arg(&room).output().unwrap();
    let said = common::text(&again.stderr);
    assert!(said.contains("error[QKM-D001]") && said.contains("is not empty"), "{said}");
    assert!(room.join("north.toml").exists(), "what was there is not touched");
}

#[test]
fn no_part_outlives_a_demonstration_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let room = dir.path().join("demo");
    let (mut child, _) = demo(&["--dir", room.to_str().unwrap()]);
    assert_eq!(processes(&room), 4, "demo, simulator, two key managers");
    child.kill().unwrap();
    child.wait().unwrap();
    await_no_processes(&room);
}

/// Where `scripts/setup.sh tests` unpacks the engine, or as it is installed.
fn etcd() -> std::path::PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/usr/bin/etcd");
    if unpacked.exists() { unpacked } else { "etcd".into() }
}

#[test]
fn three_key_managers_on_one_store_go_on_when_the_one_that_leads_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let room = dir.path().join("demo");
    let (program, engine) = (room.to_str().unwrap(), etcd());
    let arguments = ["--cluster", "--etcd", engine.to_str().unwrap(), "--dir", program];
    let (mut child, said) = demo(&arguments);
    for line in
        ["north-1  gave", "north-2  gave", "north-3  gave", "it is killed", "gives keys again"]
    {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    await_no_processes(&room);
}

#[test]
fn a_missing_engine_is_told_with_what_to_install() {
    let dir = tempfile::tempdir().unwrap();
    let room = dir.path().join("demo");
    let output = Command::new(program())
        .args(["demo", "--cluster", "--etcd", "/nowhere/etcd", "--dir"])
        .arg(&room)
        .output()
        .unwrap();
    let said = common::text(&output.stderr);
    assert!(said.contains("error[QKM-D001]") && said.contains("etcd-server"), "{said}");
}
