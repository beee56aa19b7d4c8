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
    for name in ["qkm.service", "qkm-controller.service"] {
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
