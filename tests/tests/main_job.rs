//! The main job with other people's clients, unmodified.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use qkm_tests::network::{End, Network, Options, target_dir};
use serde_json::json;

/// Python with PyKMIP and etsi-qkd-014-client; `make test` sets it up.
fn python() -> PathBuf {
    let venv =
        std::env::var_os("QKM_VENV").map_or_else(|| target_dir().join("venv"), PathBuf::from);
    let python = venv.join("bin/python3");
    assert!(python.exists(), "{} is missing: run `make test`", python.display());
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn pykmip_etsi_client_and_curl_get_equal_keys_at_both_ends() {
    let network = Network::start(Options::default()).await;
    network.stocked(End::South, 10_000).await;
    let files = |name: &str| {
        let files = network.tls(name);
        json!({ "certificate": files.certificate, "key": files.key, "ca": files.ca })
    };
    let input = json!({
        "kmip": { "north": network.kmip(End::North), "south": network.kmip(End::South) },
        "etsi014": { "north": network.etsi014(End::North), "south": network.etsi014(End::South) },
        "files": { "north": files("sae-n1"), "south": files("sae-s1") },
    });
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/main_job.py");
    let mut child =
        Command::new(python()).arg(script).stdin(Stdio::piped()).spawn().expect("python runs");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.to_string().as_bytes()).unwrap();
    drop(stdin);
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "see the Python traceback above");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_that_the_demo_prints_works() {
    let network = Network::start(Options::default()).await;
    network.stocked(End::North, 1000).await;
    network.stocked(End::South, 1000).await;
    let output = Command::new(python()).arg(&network.layout().kmip_script).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("True"), "{said}{error}");
}

/// The operator's view of the same network: pools, links, a key's whereabouts without its bytes.
#[tokio::test(flavor = "multi_thread")]
async fn operators_see_pools_links_and_keys_but_never_bytes() {
    let network = Network::start(Options::default()).await;
    network.stocked(End::North, 1000).await;
    let said = network.etsi(End::North, "sae-n1").enc("sae-s1", 1).await.unwrap();
    let (id, key) = said.keys().remove(0);
    for command in [vec!["pool", "list"], vec!["link", "list"], vec!["key", "show", &id]] {
        for format in ["table", "json"] {
            let args: Vec<&str> = command.iter().copied().chain(["-o", format]).collect();
            let output = network.qkm(End::North, &args);
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{command:?}: {output:?}");
            assert!(!text.is_empty() && !text.contains(&key), "{command:?}: {text}");
        }
    }
    let other = network.qkm(End::North, &["key", "show", "00000000-0000-8000-8000-000000000000"]);
    assert!(!other.status.success(), "an identifier nobody issued is an error");
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_accepts_the_metrics() {
    let network = Network::start(Options::default()).await;
    let text = network.metrics_text(End::North).await;
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed by `make test`");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}
