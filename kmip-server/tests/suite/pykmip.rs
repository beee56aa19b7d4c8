//! PyKMIP against this server: its client through the life of every object, and PyKMIP's own
//! integration tests. Needs a Python environment with `pykmip==0.11.0`, named by `QKM_VENV` or at
//! `target/venv` of the workspace, and beside it the unpacked source distribution of PyKMIP;
//! `make test` sets both up.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use kmip_server::{Lenience, Limits};

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

/// Key forms and key wrapping, against OpenSSL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_and_wrappings_are_those_of_openssl() {
    let network = Network::start().await;
    let files = network.certificate("n1");
    let (host, port) = network.north.address.rsplit_once(':').unwrap();
    let mut command = Command::new(python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/forms.py"));
    command.args([host, port]).args([&files.certificate, &files.key, &files.ca]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("done"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Four tests that need a helper script nobody ships; PyKMIP's own server does not pass them either.
const HELPERLESS: &str = "kmip/tests/integration/services/test_kmip_client.py";
/// How many are left.
const OWN_TESTS: usize = 37;
/// Runs PyKMIP's own integration tests; prints one line for each.
fn own_tests(home: &Path) -> Command {
    let python = python();
    let room = python.ancestors().nth(3).unwrap().join("pykmip-0.11.0");
    assert!(room.is_dir(), "{} is missing: run `make test`", room.display());
    let mut command = Command::new(python);
    command.current_dir(room).env("HOME", home).env("PYTHONDONTWRITEBYTECODE", "1");
    command.args(["-m", "pytest", "kmip/tests/integration", "--config", "client"]);
    command.args(["-p", "no:cacheprovider", "--color=no", "--tb=short", "-rA", "-q"]);
    command.args(["--deselect", HELPERLESS]);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pykmips_own_tests_pass() {
    // Four of them derive keys from such as are not active, and one gives a name twice.
    let lenience = Lenience { shared_names: true, early_derivation: true };
    let network = Network::start_with(Limits { lenience, ..Limits::default() }).await;
    let files = network.certificate("n1");
    let (host, port) = network.north.address.rsplit_once(':').unwrap();
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".pykmip")).unwrap();
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let settings = format!(
        "[client]\nhost={host}\nport={port}\nkeyfile={key}\ncertfile={certificate}\n\
         cert_reqs=CERT_REQUIRED\nca_certs={}\n\
         do_handshake_on_connect=True\nsuppress_ragged_eofs=True\n",
        files.ca.display()
    );
    std::fs::write(home.path().join(".pykmip/pykmip.conf"), settings).unwrap();
    let mut command = own_tests(home.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let named = |outcome: &str| -> Vec<String> {
        let lines = said.lines().filter_map(|line| line.strip_prefix(outcome));
        let tests = lines.filter_map(|line| line.split(" - ").next());
        tests.filter_map(|test| test.split_once("services/")).map(|(_, t)| t.to_owned()).collect()
    };
    let (passed, mut failed) = (named("PASSED "), named("FAILED "));
    failed.extend(named("ERROR "));
    assert!(failed.is_empty(), "failed: {failed:#?}\n{said}");
    assert_eq!(passed.len(), OWN_TESTS, "{said}");
}
