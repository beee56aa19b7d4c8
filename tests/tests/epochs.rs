//! KEK epochs of a running key manager: its custodians rotate and destroy, backups lose their
//! worth, and what was put in the wrong place is refused with an alarm.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{ops::Bound, path::Path, process::Command, sync::Arc, time::Duration};

use hsm_profiles::{PinSource, Program, Token, TokenConfig, TokenSelector};
use km_core::{
    hsm::Hsm,
    objects::Object,
    records::Records,
    store::{Commit, SqliteStore, Store},
    vault::Vault,
};
use kmip::{Answer, client, enums::CryptographicAlgorithm, op::get};
use qkm_tests::{
    clients::{self, material},
    epochs::{epoch, listed},
    network::{End::North, End::South, Network, Options, program},
    standby::{STANDBY, Standby},
};
use serde_json::Value;

const FORGE: &str = "QKM_TEST_FORGE";

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

async fn keys_flow(network: &Network) {
    let keys = network.etsi(North, "sae-n1").enc("sae-s1", 4).await.unwrap().keys();
    let ids: Vec<&str> = keys.iter().map(|(id, _)| id.as_str()).collect();
    let got = network.etsi(South, "sae-s1").dec("sae-n1", &ids).await.unwrap();
    assert_eq!((got.status, got.keys()), (200, keys));
}

async fn restart(network: &mut Network) {
    network.start_km(North);
    network.ready(North).await;
    network
        .until("the link is up", || async {
            network.metric(North, "qkm_link_up").await == 1.0
                && network.metric(North, "qkm_pool_own_bytes").await > 1e4
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_custodians_destroy_an_epoch_and_a_backup_opens_no_more() {
    let mut network = Network::start(Options::default()).await;
    network.stocked(North, 2000).await;
    assert_eq!(network.stop(North), Some(0));
    let store = network.site(North).store.clone();
    let backup = store.with_file_name("backup");
    copy(&store, &backup);
    restart(&mut network).await;

    let (code, said) = epoch(&network, None, &["rotate"]);
    assert!(code == 4 && said.contains("QKM-A002") && said.contains("custodians"), "{said}");
    let (code, said) = epoch(&network, Some(0), &["destroy", "1"]);
    assert!(code == 4 && said.contains("QKM-E001") && said.contains("Active"), "{said}");
    let (code, said) = epoch(&network, Some(0), &["rotate"]);
    assert_eq!((code, said.trim()), (0, "epoch 2 begins"));
    network
        .until("the old epoch is empty", || async { listed(&network)[0]["empty"] == true })
        .await;
    let list = listed(&network);
    assert_eq!((&list[0]["state"], &list[1]["state"]), (&"retiring".into(), &"active".into()));
    keys_flow(&network).await;

    let (code, said) = epoch(&network, Some(0), &["destroy", "1"]);
    assert!(code == 0 && said.contains("second custodian"), "{said}");
    let (code, said) = epoch(&network, Some(0), &["destroy", "1"]);
    assert!(code == 4 && said.contains("approved this already"), "{said}");
    assert!(listed(&network)[0]["destroyed_ms"].is_null());
    let (code, said) = epoch(&network, Some(1), &["destroy", "1"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("is destroyed, approved by cn:custodian-1 and cn:custodian-2"), "{said}");
    let (_, table) = epoch(&network, None, &["list"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..2], ["1", "destroyed"], "{table}");
    let (_, log) = epoch(&network, None, &["log"]);
    let last: Vec<&str> = log.lines().last().unwrap().split_whitespace().collect();
    let told = ["cn:custodian-1", "and", "cn:custodian-2", "epoch", "destroyed", "1"];
    assert_eq!(last[last.len() - 6..], told, "{log}");
    assert_eq!(network.metric(North, "qkm_epoch_active").await, 2.0);
    let (code, said) = epoch(&network, Some(0), &["destroy", "7"]);
    assert!(code == 1 && said.contains("QKM-E002"), "{said}");
    keys_flow(&network).await;

    // Nothing opens the copy, and nothing makes it new.
    assert_eq!(network.stop(North), Some(0));
    let good = store.with_file_name("good");
    let doctor = network.qkm(North, &["doctor"]);
    let report = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(report.contains("KEK epoch 2 seals, 0 retiring"), "{report}");
    std::fs::rename(&store, &good).unwrap();
    std::fs::rename(&backup, &store).unwrap();
    let doctor = network.qkm(North, &["doctor"]);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("KEK epoch was destroyed"));
    let length = std::fs::metadata(store.join("store.qkm")).unwrap().len();
    let output = network.qkm(North, &["serve"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("QKM-S004") && said.contains("KEK epoch was destroyed"), "{said}");
    assert_eq!(std::fs::metadata(store.join("store.qkm")).unwrap().len(), length);
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(&good, &store).unwrap();
    restart(&mut network).await;
    keys_flow(&network).await;
}

/// `kill -9` while blocks and objects move from epoch to epoch, and keys flow.
#[tokio::test(flavor = "multi_thread")]
async fn killing_a_km_while_it_seals_anew_loses_nothing() {
    let mut network = Network::start(Options::default()).await;
    network.stocked(North, 100_000).await;
    let app = network.kmip_client(North, "sae-n1");
    let mut objects = Vec::new();
    for _ in 0..20 {
        let made = app.ask(client::create(CryptographicAlgorithm::Aes, 256, 12, [])).await.unwrap();
        let Answer::Create(made) = made else { panic!("{made:?}") };
        let bytes = material(&app.ask(get_of(&made.id)).await.unwrap()).unwrap();
        objects.push((made.id, bytes));
    }
    let mut midway = 0;
    for round in 0..5 {
        let handed_out = network.etsi(North, "sae-n1").enc("sae-s1", 8).await.unwrap().keys();
        let (code, said) = epoch(&network, Some(round % 2), &["rotate"]);
        assert_eq!(code, 0, "{said}");
        // A look begins within a second and takes about as long.
        tokio::time::sleep(Duration::from_millis(900 + 250 * round as u64)).await;
        let not_yet = |one: &Value| one["state"] == "retiring" && one["empty"] == false;
        midway += u32::from(listed(&network).iter().any(not_yet));
        network.kill(North);
        let ids: Vec<&str> = handed_out.iter().map(|(id, _)| id.as_str()).collect();
        let got = network.etsi(South, "sae-s1").dec("sae-n1", &ids).await.unwrap();
        assert_eq!((got.status, got.keys()), (200, handed_out));
        restart(&mut network).await;
    }
    network
        .until("all old epochs are empty", || async {
            let list = listed(&network);
            list.iter().filter(|one| one["state"] == "retiring").all(|one| one["empty"] == true)
        })
        .await;
    let old: Vec<u64> = listed(&network)
        .iter()
        .filter(|one| one["state"] == "retiring")
        .map(|one| one["number"].as_u64().unwrap())
        .collect();
    assert_eq!(old, [1, 2, 3, 4, 5]);
    assert!(midway > 0, "it was never killed before all had moved");
    for number in old {
        for custodian in [0, 1] {
            let (code, said) = epoch(&network, Some(custodian), &["destroy", &number.to_string()]);
            assert_eq!(code, 0, "{said}");
        }
    }
    let app = network.kmip_client(North, "sae-n1");
    for (uid, bytes) in &objects {
        assert_eq!(material(&app.ask(get_of(uid)).await.unwrap()).as_ref(), Some(bytes));
    }
    keys_flow(&network).await;
    assert_eq!(network.metric(North, "qkm_pool_balanced").await, 1.0);
    assert_eq!(network.metric(North, "qkm_sealed_refused_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_custodians_change_epochs_and_only_with_json() {
    let network = Network::start(Options::default()).await;
    let admin = network.site(North).admin.to_string();
    let post = |files| {
        let client = clients::http(&admin, files);
        async move { client.post("/v1/hsm/epochs", b"{}".to_vec().into()).await.unwrap().0 }
    };
    let layout = network.layout();
    assert_eq!(post(&layout.operator).await, 403);
    assert_eq!(post(layout.application("sae-n1")).await, 403);
    let custodian = clients::http(&admin, &layout.custodians[0]);
    for path in ["/v1/pools", "/v1/hsm/epochs/1", "/v1/hsm/epochs/1/destroy/now"] {
        let (status, _) = custodian.post(path, b"{}".to_vec().into()).await.unwrap();
        assert_eq!(status, 405, "{path}");
    }
    for number in ["-1", "x", "99999999999999999999"] {
        let path = format!("/v1/hsm/epochs/{number}/destroy");
        let (status, _) = custodian.post(&path, b"{}".to_vec().into()).await.unwrap();
        assert_eq!(status, 404, "{path}");
    }
    let long = vec![b' '; 2000].into();
    let (status, _) = custodian.post("/v1/hsm/epochs", long).await.unwrap();
    assert_eq!(status, 415);
    assert_eq!(listed(&network).len(), 1, "nothing of this began an epoch");
}

fn get_of(uid: &str) -> get::Request {
    get::Request { id: Some(uid.into()), ..get::Request::default() }
}

/// Whoever has the record key but not the KEK can only put sealed bytes elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_blob_in_the_wrong_object_is_refused_with_an_alarm_and_a_count() {
    let mut network = Network::start(Options::default()).await;
    let app = network.kmip_client(North, "sae-n1");
    let mut uids = Vec::new();
    for _ in 0..2 {
        let made = app.ask(client::create(CryptographicAlgorithm::Aes, 256, 12, [])).await.unwrap();
        let Answer::Create(made) = made else { panic!("{made:?}") };
        uids.push(made.id);
    }
    assert!(material(&app.ask(get_of(&uids[0])).await.unwrap()).is_some());
    assert_eq!(network.stop(North), Some(0));
    let forged = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "swaps_the_sealed_bytes_of_two_objects"])
        .env(FORGE, &network.site(North).config)
        .env("SOFTHSM2_CONF", &network.site(North).softhsm_conf)
        .output()
        .unwrap();
    assert!(forged.status.success(), "{forged:?}");
    restart(&mut network).await;
    let app = network.kmip_client(North, "sae-n1");
    for uid in &uids {
        let refused = app.ask(get_of(uid)).await;
        assert!(refused.is_err(), "{refused:?}");
    }
    assert_eq!(network.metric(North, "qkm_sealed_refused_total").await, 2.0);
    assert!(network.log("north").contains("sealed-refused"), "no alarm in the log");
    // The KM lives on.
    keys_flow(&network).await;
}

/// Not a test: the hand of the attacker, in a process with north's token.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test above"]
async fn swaps_the_sealed_bytes_of_two_objects() {
    let Some(config) = std::env::var_os(FORGE) else { return };
    let config = qkm::config::Config::load(Path::new(&config)).unwrap();
    let token = Token::open(config.hsm.clone()).unwrap();
    let store = Arc::new(SqliteStore::open(config.store_file()).unwrap());
    let key = Vault::new(token).record_key(store.as_ref()).await.unwrap();
    let records = Records::new(store.clone(), &key);
    let rows = store.range(b"object/", Bound::Unbounded, 2).await.unwrap();
    let mut objects: Vec<Object> =
        rows.iter().map(|row| records.decode(&row.key, &row.value).unwrap()).collect();
    let (first, second) = objects.split_at_mut(1);
    std::mem::swap(&mut first[0].sealed, &mut second[0].sealed);
    for (row, object) in rows.iter().zip(&objects) {
        let forged = records.encode(&row.key, object);
        store.commit(Commit::new().put(row.key.clone(), forged)).await.unwrap();
    }
}

/// A token of another product comes to hold the KEK of a running key manager, by files that anybody may
/// read and that nobody can change.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_product_comes_to_share_the_kek() {
    let network = Network::start(Options::default()).await;
    let dir = network.dir().join("standby");
    let standby = Standby::provision(&dir);
    let request = dir.join("standby.json");
    let (code, said) = standby.kek(&["request", request.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = epoch(&network, Some(0), &["rotate", "--for", request.to_str().unwrap()]);
    assert!(code == 0 && said.contains("epoch 2 begins"), "{said}");
    let fingerprint = said.split("fingerprint ").nth(1).unwrap().trim().to_owned();
    let parcel = dir.join("standby.json.kek");
    let take = |fingerprint: &str| {
        standby.kek(&["take", parcel.to_str().unwrap(), "--fingerprint", fingerprint])
    };
    let (code, said) = take(&fingerprint.replace(['0', '1'], "2"));
    assert!(code == 1 && said.contains("not what the custodian made"), "{code} {said}");
    let (code, said) = take(&fingerprint);
    assert!(code == 0 && said.contains("epoch 2"), "{said}");
    let kek = listed(&network)[1]["kek"].as_str().unwrap().to_owned();
    assert!(said.contains(&kek), "{said}");

    // The record key of the store, under the new epoch, opens in the other token.
    network
        .until("the old epoch is empty", || async { listed(&network)[0]["empty"] == true })
        .await;
    let to = network.dir().join("copy");
    copy(&network.site(North).store, &to);
    let config = TokenConfig {
        library: Some(standby.library.clone()),
        env: [("KRYOPTIC_CONF".to_owned(), standby.token.conf.display().to_string())].into(),
        create_kek: false,
        ..TokenConfig::new(
            "kryoptic",
            TokenSelector::Label(STANDBY.to_owned()),
            PinSource::File(standby.token.pin_file.clone()),
        )
    };
    let arguments = ["hsm-worker", "--lock-memory", "off"].map(Into::into).to_vec();
    let worker = Program { path: program().to_owned(), arguments };
    let opened = Token::start(config, worker).await.unwrap();
    let store = SqliteStore::open(to.join("store.qkm")).unwrap();
    assert_eq!(opened.current_kek().0, kek);
    Vault::new(opened).record_key(&store).await.unwrap();
}
