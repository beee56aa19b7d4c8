//! PyKMIP's client against this server. Needs a Python environment with `pykmip==0.11.0`, named by
//! `QKM_VENV` or at `target/venv` of the workspace; `make test` sets it up.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::common::Network;

/// Versions PyKMIP speaks.
const VERSIONS: [&str; 6] = ["1.0", "1.1", "1.2", "1.3", "1.4", "2.0"];

fn python() -> PathBuf {
    let room = std::env::var_os("QKM_VENV").map(PathBuf::from);
    let room = room.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv"));
    let python = room.join("bin/python");
    assert!(python.exists(), "{} is missing: run `make test`", python.display());
    python
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pykmip_lives_through_every_object() {
    let python = python();
    let network = Network::start().await;
    let files = network.certificate("n1");
    let (host, port) = network.north.address.rsplit_once(':').unwrap();
    for version in VERSIONS {
        let mut command = Command::new(&python);
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/pykmip.py"))
            .args([host, port])
            .args([&files.certificate, &files.key, &files.ca])
            .arg(version);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let failed = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&format!("done {version}")), "{version}: {said}{failed}");
    }
}
