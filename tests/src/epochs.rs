//! `qkm hsm epoch` as custodians use it, at north.

use serde_json::Value;

use crate::network::{End::North, Network};

/// `qkm hsm epoch …` with the certificate of a custodian, or the operator's: exit code and words.
pub fn epoch(network: &Network, custodian: Option<usize>, command: &[&str]) -> (i32, String) {
    let all: Vec<&str> = ["hsm", "epoch"].into_iter().chain(command.iter().copied()).collect();
    self::custodian(network, custodian, &all)
}

/// Any command with the certificate of a custodian, or the operator's: exit code and words.
pub fn custodian(network: &Network, custodian: Option<usize>, command: &[&str]) -> (i32, String) {
    let mut all = command.to_vec();
    let shown = custodian.and_then(|at| network.layout().custodians.get(at).cloned());
    let paths = shown.map(|files| [files.certificate, files.key].map(|p| p.display().to_string()));
    if let Some([certificate, key]) = &paths {
        all.extend(["--certificate", certificate, "--key", key]);
    }
    let output = network.qkm(North, &all);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

/// The epochs as `list` gives them.
pub fn listed(network: &Network) -> Vec<Value> {
    let (code, said) = epoch(network, None, &["list", "-o", "json"]);
    assert_eq!(code, 0, "{said}");
    let listed: Value = serde_json::from_str(&said).expect("JSON");
    listed["epochs"].as_array().cloned().unwrap_or_default()
}

/// Begins an epoch and waits until the one of this number is empty.
pub async fn rotate_away(network: &Network, number: u64) {
    let (code, said) = epoch(network, Some(0), &["rotate"]);
    assert_eq!(code, 0, "{said}");
    let is_empty =
        |list: Vec<Value>| list.iter().any(|e| e["number"] == number && e["empty"] == true);
    network.until("the old epoch is empty", || async { is_empty(listed(network)) }).await;
}

/// Two custodians destroy an epoch.
pub fn destroy(network: &Network, number: u64) {
    for custodian in [0, 1] {
        let (code, said) = epoch(network, Some(custodian), &["destroy", &number.to_string()]);
        assert_eq!(code, 0, "{said}");
    }
}
