//! Two key managers with SoftHSM and a simulated link, as processes of their own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod processes;
mod readiness;

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{Network, get, text};
use qkm::demo::{Site, etsi014_pair, kmip_pair};
use serde_json::{Value, json};
use transport::{
    Profile, client_config,
    http::{ClientLimits, HttpClient},
};

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_out_equal_at_both_ends_through_both_fronts() {
    let network = Network::running().await;
    let id = etsi014_pair(&network.layout).await.unwrap().unwrap();
    assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 8);
    let id = kmip_pair(&network.layout).await.unwrap();
    let shown = network.cli(&network.layout.south, &["key", "show", &id, "-o", "json"]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["objects"][0]["owner"], "sae-s1");
    assert_eq!(shown["objects"][0]["provenance"]["grade"], "its-relay");
    assert_eq!(shown["pool_key"]["length"], 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_pools_links_and_keys_but_no_key_bytes() {
    let network = Network::running().await;
    let north = &network.layout.north;
    let id = etsi014_pair(&network.layout).await.unwrap().unwrap();

    let pools = network.cli(north, &["pool", "list", "-o", "json"]);
    assert_eq!(pools.status.code(), Some(0), "{}", text(&pools.stderr));
    let pools: Value = serde_json::from_slice(&pools.stdout).unwrap();
    assert_eq!(pools["pools"][0]["peer"], "south");
    assert_eq!(pools["pools"][0]["balanced"], true);
    let south = network.cli(&network.layout.south, &["pool", "list", "-o", "json"]);
    let south: Value = serde_json::from_slice(&south.stdout).unwrap();
    assert!(south["pools"][0]["ledger"]["delivered"].as_u64() >= Some(512), "{south}");
    let table = text(&network.cli(north, &["pool", "list"]).stdout);
    assert!(table.starts_with("PEER") && table.contains("south  up"), "{table}");

    let links = text(&network.cli(north, &["link", "list"]).stdout);
    let row: Vec<&str> = links.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row.len(), row[0], row[1], row[4]), (8, "south", "up", "0"), "{links}");
    let heads = ["PEER", "STATE", "CONNECTIONS", "AGREED", "MISMATCHED", "GIVEN UP", "IN FLIGHT"];
    let at = |head: &str| links.find(head).unwrap_or_else(|| panic!("no {head} in {links}"));
    assert!(heads.map(at).is_sorted() && links.matches("PEER").count() == 1, "{links}");

    let collected = show(&network, &network.layout.south, &id);
    assert_eq!(collected["pool_key"]["state"], "spent", "{collected}");
    let (id, bytes) = issue(&network).await;
    let waiting = show(&network, &network.layout.south, &id);
    assert_eq!(waiting["pool_key"]["state"], "waiting", "{waiting}");
    assert_eq!(waiting["pool_key"]["run"]["master"], "sae-n1");
    assert_eq!(waiting["pool_key"]["run"]["slaves"], json!(["sae-s1"]));
    assert_eq!(waiting["pool_key"]["provenance"]["grade"], "its-relay");
    let issued = show(&network, north, &id);
    assert!(["spent", "issuing"].contains(&issued["pool_key"]["state"].as_str().unwrap()));
    let (_, metrics) = get(north.monitor, "/metrics").unwrap();
    for shown in [waiting.to_string(), issued.to_string(), metrics, network.read_log("north")] {
        assert!(!shown.contains(&bytes) && !shown.is_empty());
    }

    let unknown = network.cli(north, &["key", "show", "no-such-key"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).starts_with("error[QKM-A003]"), "{unknown:?}");
}

/// As `key show -o json`.
fn show(network: &Network, site: &Site, id: &str) -> Value {
    let shown = network.cli(site, &["key", "show", id, "-o", "json"]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    serde_json::from_slice(&shown.stdout).unwrap()
}

/// Identifier and base64 of a key issued at north that nobody collected yet.
async fn issue(network: &Network) -> (String, String) {
    let tls = client_config(network.layout.application("sae-n1"), Profile::Front).unwrap();
    let address = network.layout.north.etsi014.to_string();
    let client = HttpClient::new(&address, None, tls, ClientLimits::default()).unwrap();
    let (status, body) = client.get("/api/v1/keys/sae-s1/enc_keys").await.unwrap();
    assert_eq!(status, 200);
    let keys: Value = serde_json::from_slice(&body).unwrap();
    let member = |name: &str| keys["keys"][0][name].as_str().unwrap().to_owned();
    (member("key_ID"), member("key"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_is_for_operators_only() {
    let network = Network::running().await;
    let north = &network.layout.north;
    let as_name = |files| {
        let tls = client_config(files, Profile::Front).unwrap();
        let limits = ClientLimits::default();
        HttpClient::new(&north.admin.to_string(), None, tls, limits).unwrap()
    };
    let application = as_name(network.layout.application("sae-n1"));
    let (status, body) = application.get("/v1/pools").await.unwrap();
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["code"]), (403, &Value::from("QKM-A002")));
    let operator = as_name(&network.layout.operator);
    for (path, status, code) in [
        ("/v1/keys/00000000-0000-0000-0000-000000000000", 404, "QKM-A003"),
        ("/v1/keys/%00%ff", 404, "QKM-A003"),
        ("/v2/pools", 404, "QKM-A004"),
        ("/", 404, "QKM-A004"),
    ] {
        let (found, body) = operator.get(path).await.unwrap();
        let problem: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((found, &problem["code"]), (status, &Value::from(code)), "{path}");
        assert_eq!(problem["status"], status);
    }
    let (status, _) = operator.post("/v1/pools", Default::default()).await.unwrap();
    assert_eq!(status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_satisfy_promtool() {
    let network = Network::running().await;
    let lines = [
        "qkm_ready{cluster=\"north\"} 1",
        "qkm_hsm_ready{token=\"north\"} 1",
        "qkm_link_up{peer=\"south\"} 1",
        "qkm_pool_balanced{peer=\"south\"} 1",
        "# TYPE qkm_pool_delivered_bytes_total counter",
        "qkm_qkd_module_reachable{link=\"demo-link\",peer=\"south\"} 1",
        "process_resident_memory_bytes ",
    ];
    // The link and the module may come up a moment after readiness.
    let until = Instant::now() + Duration::from_secs(10);
    let metrics = loop {
        let (status, metrics) = get(network.layout.north.monitor, "/metrics").unwrap();
        assert_eq!(status, 200);
        let Some(line) = lines.iter().find(|line| !metrics.contains(**line)) else { break metrics };
        assert!(Instant::now() < until, "{line:?} is not in\n{metrics}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = promtool.expect("promtool; `scripts/setup.sh tests` brings it");
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    let complaints = text(&said.stdout) + &text(&said.stderr);
    assert!(said.status.success() && complaints.is_empty(), "{complaints}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_what_is_wrong_and_knows_a_running_server() {
    let mut network = Network::running().await;
    let doctor = network.cli(&network.layout.north, &["doctor"]);
    let report = text(&doctor.stdout);
    assert_eq!(doctor.status.code(), Some(0), "{report}");
    assert!(report.contains("a server runs with this configuration: ready"), "{report}");
    assert!(report.contains("in use by the running server; not audited"), "{report}");
    drop(network.north.take().map(|mut child| child.kill().and_then(|()| child.wait())));

    // After kill -9: the run left open is outstanding in the account, which still balances.
    let report = text(&network.cli(&network.layout.north, &["doctor"]).stdout);
    assert!(report.contains("account balances"), "{report}");

    let config = std::fs::read_to_string(&network.layout.north.config).unwrap();
    let other = network.dir.path().join("other.toml");
    std::fs::write(&other, config.replace("label = \"north\"", "label = \"nort\"")).unwrap();
    let mut command = Command::new(common::program());
    command.arg("doctor").arg("--config").arg(&other);
    let output = command.env("SOFTHSM2_CONF", &network.layout.north.softhsm_conf).output().unwrap();
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("[failure]") && report.contains("QKM-H001"), "{report}");
    assert!(report.contains("\"north\" (serial"), "the tokens seen are listed: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kmip_commands_look_at_objects_and_print_no_key() {
    use std::os::unix::fs::PermissionsExt;
    let network = Network::running().await;
    let id = kmip_pair(&network.layout).await.unwrap();
    let site = &network.layout.north;
    let files = network.layout.application("sae-n1");
    let address = site.kmip.to_string();
    let kmip = |command: &[&str]| {
        let mut kmip = Command::new(common::program());
        kmip.arg("kmip").args(command).args(["--server", &address]);
        kmip.arg("--certificate").arg(&files.certificate).arg("--key").arg(&files.key);
        kmip.arg("--ca").arg(&files.ca).output().unwrap()
    };
    for version in ["1.0", "1.4", "2.1"] {
        let ping = kmip(&["ping", "--kmip", version]);
        let said = text(&ping.stdout);
        assert!(
            ping.status.success() && said.starts_with("qkm ") && said.contains(version),
            "{said}"
        );
    }
    let found = kmip(&["locate", "--type", "SymmetricKey", "-o", "json"]);
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(found["objects"][0]["id"], id.as_str(), "{found}");
    assert_eq!(found["objects"][0]["bits"], "256");
    let none = kmip(&["locate", "--name", "nobody"]);
    assert_eq!(text(&none.stdout).lines().count(), 1);

    let shown = text(&kmip(&["get", "--metadata", &id]).stdout);
    assert!(shown.contains("Cryptographic Usage Mask") && shown.contains("Encrypt, Decrypt"));
    assert!(kmip(&["get", &id]).status.code() == Some(2), "bytes are not printed");
    let to = network.dir.path().join("key");
    let to = to.to_str().unwrap();
    let exported = kmip(&["export", &id, "--to", to]);
    let said = text(&exported.stdout);
    assert!(exported.status.success(), "{said}{}", text(&exported.stderr));
    let key = std::fs::read(to).unwrap();
    assert_eq!(key.len(), 32);
    assert_eq!(std::fs::metadata(to).unwrap().permissions().mode() & 0o777, 0o600);
    let again = kmip(&["export", &id, "--to", to]);
    assert!(text(&again.stderr).starts_with("error[QKM-K003]"), "{again:?}");
    assert_eq!(std::fs::read(to).unwrap(), key, "left alone");
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    for said in [said, shown, found.to_string(), text(&again.stderr)] {
        assert!(!said.contains(&digits));
    }
    let refused = kmip(&["get", "--metadata", "no such object"]);
    assert!(text(&refused.stderr).starts_with("error[QKM-K002]"), "{refused:?}");
    assert_eq!(refused.status.code(), Some(4));
}
