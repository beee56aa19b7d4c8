//! An older copy of the store, put back behind the key manager's back, is refused; restored, it gives
//! no key out a second time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::Path};

use kmip::{Answer, client, enums::CryptographicAlgorithm, op::get};
use qkm_tests::{
    clients::material,
    network::{End::North, End::South, Network, Options},
};
use serde_json::Value;

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn said(network: &Network, command: &[&str]) -> (i32, String) {
    let output = network.qkm(North, command);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

async fn keys_flow(network: &Network) {
    for (from, master, to, slave) in
        [(North, "sae-n1", South, "sae-s1"), (South, "sae-s1", North, "sae-n1")]
    {
        let keys = network.etsi(from, master).enc(slave, 4).await.unwrap().keys();
        let ids: Vec<&str> = keys.iter().map(|(id, _)| id.as_str()).collect();
        let got = network.etsi(to, slave).dec(master, &ids).await.unwrap();
        assert_eq!((got.status, got.keys()), (200, keys));
    }
}

async fn restart(network: &mut Network) {
    network.start_km(North);
    network.ready(North).await;
    network
        .until("the link is up and the pool has keys of both ends", || async {
            network.metric(North, "qkm_link_up").await == 1.0
                && network.metric(North, "qkm_pool_own_bytes").await > 1e4
                && network.metric(South, "qkm_pool_own_bytes").await > 1e4
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_store_is_refused_and_a_restored_one_gives_no_key_out_again() {
    let mut network = Network::start(Options::default()).await;
    network.stocked(North, 2000).await;
    network.stocked(South, 2000).await;
    let app = network.kmip_client(North, "sae-n1");
    let made = app.ask(client::create(CryptographicAlgorithm::Aes, 256, 12, [])).await.unwrap();
    let Answer::Create(made) = made else { panic!("{made:?}") };
    let read = || get::Request { id: Some(made.id.as_str().into()), ..get::Request::default() };
    let object = material(&app.ask(read()).await.unwrap()).unwrap();

    // Keys wait here to be collected when the copies are made.
    let waiting = network.etsi(South, "sae-s1").enc("sae-n1", 8).await.unwrap().keys();
    let ids: Vec<&str> = waiting.iter().map(|(id, _)| id.as_str()).collect();
    let store = network.site(North).store.clone();
    let live = store.with_file_name("live");
    copy(&store, &live);
    let (code, answer) = said(&network, &["store", "backup", "-o", "json"]);
    assert_eq!(code, 0, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let kept = Path::new(answer["file"].as_str().unwrap()).to_owned();
    let backup = store.with_file_name("backup.qkm");
    fs::rename(&kept, &backup).unwrap();

    let backups = kept.parent().unwrap();
    for number in 0..16 {
        fs::write(backups.join(number.to_string()), "").unwrap();
    }
    let (code, text) = said(&network, &["store", "backup"]);
    assert!(code == 4 && text.contains("QKM-S008") && text.contains("16"), "{code} {text}");
    fs::remove_dir_all(backups).unwrap();

    // The running key manager goes on: these are handed out now.
    let got = network.etsi(North, "sae-n1").dec("sae-s1", &ids).await.unwrap();
    assert_eq!(got.keys(), waiting);
    let (code, text) = said(&network, &["store", "restore", backup.to_str().unwrap()]);
    assert!(code == 1 && text.contains("in use by another process"), "{code} {text}");
    keys_flow(&network).await;
    assert_eq!(network.stop(North), Some(0));

    let newest = store.with_file_name("newest");
    fs::rename(&store, &newest).unwrap();
    for as_it_was in [true, false] {
        match as_it_was {
            true => fs::rename(&live, &store).unwrap(),
            false => {
                fs::remove_dir_all(&store).unwrap();
                fs::create_dir(&store).unwrap();
                fs::copy(&backup, store.join("store.qkm")).unwrap();
            }
        }
        for command in ["serve", "doctor"] {
            let (code, text) = said(&network, &[command]);
            assert!(code != 0 && text.contains("QKM-S006"), "{command}: {code} {text}");
            // The unit has systemd not try that again and again.
            assert!(command != "serve" || code == 4, "{code}");
            assert!(text.contains("older copy") && text.contains("qkm store restore"), "{text}");
        }
    }
    fs::remove_dir_all(&store).unwrap();
    // As on a machine that was set up anew.
    let (code, text) = said(&network, &["store", "restore", backup.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    fs::remove_dir_all(&store).unwrap();
    fs::rename(&newest, &store).unwrap();

    let (code, text) = said(&network, &["store", "restore", backup.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("burned") && !text.contains("burned 0 bytes"), "{text}");
    // Once more, and the first one that was replaced stays as well.
    let (code, text) = said(&network, &["store", "restore", backup.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let kept = fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().file_name());
    let kept: Vec<_> = kept
        .filter(|name| name.to_str().is_some_and(|name| name.starts_with("store.qkm.replaced-")))
        .collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    restart(&mut network).await;
    let again = network.etsi(North, "sae-n1").dec("sae-s1", &ids).await.unwrap();
    assert_ne!(again.status, 200, "keys that were collected before come a second time");
    let app = network.kmip_client(North, "sae-n1");
    let restored = material(&app.ask(read()).await.unwrap()).unwrap();
    assert_eq!(restored, object, "a managed object is as it was");
    assert_eq!(network.stop(North), Some(0));
    let (_, text) = said(&network, &["doctor"]);
    assert!(text.contains("account balances") && !text.contains("QKM-S"), "{text}");
}
