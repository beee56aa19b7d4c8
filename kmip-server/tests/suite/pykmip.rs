//! PyKMIP's client against this server. Needs a Python environment with `pykmip==0.11.0`, named by
//! `QKM_VENV` or at `target/venv` of the workspace; without one the test says so and ends.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::common::Network;

/// Versions PyKMIP speaks.
const VERSIONS: [&str; 6] = ["1.0", "1.1", "1.2", "1.3", "1.4", "2.0"];

fn python() -> Option<PathBuf> {
    let room = std::env::var_os("QKM_VENV").map(PathBuf::from);
    let room = room.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv"));
    Some(room.join("bin/python")).filter(|python| python.exists())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pykmip_lives_through_every_object() {
    let Some(python) = python() else {
        println!("skipped: no Python with PyKMIP; set QKM_VENV or make target/venv");
        return;
    };
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
