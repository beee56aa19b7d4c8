//! KMs join a cluster on etcd, each with a token of its own, rest, and are taken out: real processes, by the
//! command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod tokens;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use cluster::EtcdStore;
use hsm_profiles::Token;
use km_core::vault::Vault;
use kmip::{Answer, client, enums::CryptographicAlgorithm};
use qkm::config::Config;
use qkm_tests::{
    clients::{self, material},
    cluster::{Cluster, SOUTH, Settings},
    network::monitor_get,
    promises::ENCRYPT_DECRYPT,
};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use transport::{Profile, TlsClient, TlsFiles};

/// A KM at north by itself, with an authority for others, each of them with a token of its own.
async fn founder() -> Cluster {
    founder_of([1, 2]).await
}

/// The same, but only these have tokens of their own.
async fn founder_of<const N: usize>(apart: [usize; N]) -> Cluster {
    let mut cluster = Cluster::with(Settings { kms: 1, ..Settings::default() }).await;
    let (code, said) = by_custodian(&cluster, 0, &["ca", "make", "nodes", "--subject", "CN=nodes"]);
    assert_eq!(code, 0, "{said}");
    let certificate = said[said.find("-----BEGIN").unwrap()..].to_owned();
    let layout = cluster.layout();
    let bundle = layout.dir.join("nodes.crt");
    let known = std::fs::read_to_string(&layout.ca).unwrap();
    std::fs::write(&bundle, [known, certificate].concat()).unwrap();
    for km in apart {
        cluster.set_apart(km);
    }
    for km in 0..3 {
        cluster.edit(km, |config| {
            for table in ["node", "admin", "km_link"] {
                config[table]["ca"] = bundle.display().to_string().into();
            }
            config["node"].as_table_mut().unwrap().insert("authority".into(), "nodes".into());
            if km > 0 {
                for file in ["certificate", "key"] {
                    config["km_link"][file] = config["node"][file].clone();
                }
            }
        });
    }
    cluster.edit(SOUTH, |config| config["km_link"]["ca"] = bundle.display().to_string().into());
    for km in [0, SOUTH] {
        cluster.stop(km);
        cluster.run(km);
        cluster.ready(km).await;
    }
    cluster
}

/// Whether south talks to whoever shows this certificate over a KM link.
async fn south_talks(cluster: &Cluster, shown: &TlsFiles) -> bool {
    let tls = transport::client_config(shown, Profile::KmLink).unwrap();
    let address = cluster.site(SOUTH).km_link.to_string();
    let client = TlsClient::new(&address, None, tls).unwrap();
    let (mut stream, _) = client.connect(Duration::from_secs(5)).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_u8()).await;
    read.expect("it greets or closes").is_ok()
}

fn by_custodian(cluster: &Cluster, km: usize, command: &[&str]) -> (i32, String) {
    cluster.qkm(km, &[command, &custodian(cluster).each_ref().map(String::as_str)].concat())
}

/// Says who gives a command.
fn custodian(cluster: &Cluster) -> [String; 4] {
    let TlsFiles { certificate, key, .. } = &cluster.layout().custodians[0];
    let [certificate, key] = [certificate, key].map(|path| path.display().to_string());
    ["--certificate".into(), certificate, "--key".into(), key]
}

/// A token for the KM `joining`, from the KM `at`.
fn token(cluster: &Cluster, at: usize, joining: usize) -> PathBuf {
    let name = &cluster.site(joining).name;
    let file = cluster.layout().dir.join(format!("{name}.token"));
    let _ = std::fs::remove_file(&file);
    let out = file.display().to_string();
    let (code, said) = by_custodian(cluster, at, &["node", "join-token", name, "--out", &out]);
    assert_eq!(code, 0, "{said}");
    file
}

fn join(cluster: &Cluster, km: usize, token: &Path) -> (i32, String) {
    cluster.qkm(km, &["node", "join", token.to_str().unwrap()])
}

/// `qkm node list`, by name.
fn node(cluster: &Cluster, at: usize, km: usize) -> Value {
    let (code, said) = cluster.qkm(at, &["node", "list", "-o", "json"]);
    assert_eq!(code, 0, "{said}");
    let listed: Value = serde_json::from_str(&said).unwrap();
    let all = listed["nodes"].as_array().unwrap().clone();
    all.into_iter().find(|node| node["name"] == cluster.site(km).name.as_str()).unwrap_or_default()
}

fn epochs(cluster: &Cluster, at: usize) -> Vec<Value> {
    let (code, said) = cluster.qkm(at, &["hsm", "epoch", "list", "-o", "json"]);
    assert_eq!(code, 0, "{said}");
    serde_json::from_str::<Value>(&said).unwrap()["epochs"].as_array().unwrap().clone()
}

async fn create(cluster: &Cluster, km: usize) -> (String, String) {
    let app = cluster.kmip(km, "sae-n1");
    let create = client::create(CryptographicAlgorithm::Aes, 256, ENCRYPT_DECRYPT, []);
    let Answer::Create(made) = app.ask(create).await.unwrap() else { panic!("no object") };
    let id = made.id.as_str().to_owned();
    let bytes = get(cluster, km, &id).await;
    (id, bytes)
}

async fn get(cluster: &Cluster, km: usize, id: &str) -> String {
    material(&cluster.kmip(km, "sae-n1").ask(client::get(id)).await.unwrap()).unwrap()
}

/// What the token of a KM makes of the store as it is now. In a process of its own: a library of tokens has
/// one configuration in each.
fn opens_the_store(cluster: &Cluster, km: usize) -> bool {
    let site = cluster.site(km);
    let mut apart = Command::new(std::env::current_exe().unwrap());
    apart.args(["--ignored", "--exact", "opens_the_record_key"]).env(OPEN, &site.config);
    let done = apart.env("SOFTHSM2_CONF", &site.softhsm_conf).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(said.contains("running 1 test"), "{said}");
    assert!(done.status.success() || said.contains("does not open with the KEKs"), "{said}");
    done.status.success()
}

/// Names the configuration for the test below.
const OPEN: &str = "QKM_TEST_OPENS";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test below"]
async fn opens_the_record_key() {
    let Some(config) = std::env::var_os(OPEN) else { return };
    let config = Config::load(Path::new(&config)).unwrap();
    let token = Token::open(config.hsm.clone()).unwrap();
    let store = EtcdStore::open(&config.shared.unwrap().etcd).await.unwrap();
    let opened = Vault::new(token).record_key(&store).await;
    opened.map(drop).unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_managers_join_rest_and_are_taken_out() {
    let mut cluster = founder().await;
    let (object, bytes) = create(&cluster, 0).await;
    let waiting = cluster.etsi(SOUTH, "sae-s1").enc("sae-n1", 4).await.unwrap().keys();
    let ids: Vec<&str> = waiting.iter().map(|(id, _)| id.as_str()).collect();

    // Two at once, each of them with a token that was tampered with first.
    let invited = [1, 2].map(|km| token(&cluster, 0, km));
    for (km, invited) in [1, 2].into_iter().zip(&invited) {
        let text = std::fs::read_to_string(invited).unwrap();
        let mut changed: Value = serde_json::from_str(&text).unwrap();
        changed["server"] = "00".repeat(32).into();
        std::fs::write(invited, changed.to_string()).unwrap();
        let (code, said) = join(&cluster, km, invited);
        assert!(code != 0 && said.contains("expected sha256:0000"), "{code} {said}");
        std::fs::write(invited, &text).unwrap();
    }
    std::thread::scope(|scope| {
        let joining: Vec<_> = [1, 2]
            .into_iter()
            .zip(&invited)
            .map(|(km, invited)| {
                scope.spawn({
                    let cluster = &cluster;
                    move || join(cluster, km, invited)
                })
            })
            .collect();
        for joining in joining {
            let (code, said) = joining.join().unwrap();
            assert!(code == 0 && said.contains("joined"), "{code} {said}");
        }
    });
    for (km, invited) in [1, 2].into_iter().zip(&invited) {
        // The same token a second time, by somebody with a copy of everything.
        let kept = std::fs::read_to_string(&cluster.site(km).config).unwrap();
        cluster.edit(km, |config| {
            for file in ["certificate", "key"] {
                let other = format!("{}.2", config["node"][file].as_str().unwrap());
                config["node"][file] = other.into();
            }
        });
        let (code, said) = join(&cluster, km, invited);
        assert!(code == 4 && said.contains("QKM-J001"), "{code} {said}");
        std::fs::write(&cluster.site(km).config, kept).unwrap();
        cluster.run(km);
    }
    for km in [1, 2] {
        cluster.troubled(km, "still sealed under").await;
    }
    for km in [1, 2] {
        cluster.ready(km).await;
        assert_eq!(get(&cluster, km, &object).await, bytes, "what others made before it came");
    }
    let near = cluster.etsi(2, "sae-n1");
    assert_eq!(near.dec("sae-s1", &ids).await.unwrap().keys(), waiting);
    for made_at in [0, 1, 2] {
        let (id, bytes) = create(&cluster, made_at).await;
        for km in [0, 1, 2] {
            assert_eq!(get(&cluster, km, &id).await, bytes, "made at {made_at}, read at {km}");
        }
    }

    drained(&mut cluster).await;
    revoked(&mut cluster).await;
    half_revoked(&mut cluster).await;
}

/// The one that leads is drained: nothing is burned, another leads, and it works again afterwards.
async fn drained(cluster: &mut Cluster) {
    let leader = cluster.leader().await.unwrap();
    let other = (leader + 1) % 3;
    let name = cluster.site(leader).name.clone();
    let (code, said) = cluster.qkm(other, &["node", "drain", &name]);
    assert!(code == 4 && said.contains("custodians"), "operators do not: {code} {said}");
    let (code, said) = by_custodian(cluster, other, &["node", "drain", &name]);
    assert!(code == 0 && said.contains("it can be stopped"), "{code} {said}");
    cluster.troubled(leader, "drained").await;
    assert!(
        cluster.etsi(leader, "sae-n1").enc("sae-s1", 1).await.is_err(),
        "its fronts are closed"
    );
    cluster
        .until("another leads", async || cluster.leader().await.is_some_and(|now| now != leader))
        .await;
    let near = cluster.etsi(other, "sae-n1");
    cluster
        .until("keys flow", async || near.enc("sae-s1", 1).await.is_ok_and(|s| s.status == 200))
        .await;
    let listed = node(cluster, other, leader);
    assert!(listed["drained"] == true && listed["rests"] == true, "{listed}");
    // It stays so over a restart.
    cluster.stop(leader);
    cluster.run(leader);
    cluster.troubled(leader, "drained").await;
    // It is ready when applications can connect, not before.
    let taken = std::net::TcpListener::bind(cluster.site(leader).kmip).unwrap();
    let (code, said) = by_custodian(cluster, other, &["node", "drain", "--undo", &name]);
    assert_eq!(code, 0, "{said}");
    cluster.troubled(leader, "its fronts are closed").await;
    drop(taken);
    cluster.ready(leader).await;
}

/// The exit code of a KM that ends by itself.
async fn ended(cluster: &mut Cluster, km: usize) -> Option<i32> {
    for _ in 0..100 {
        if cluster.ended(km).is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.ended(km)
}

/// One that stands still is taken out, and finds out when it goes on.
async fn revoked(cluster: &mut Cluster) {
    let name = cluster.site(2).name.clone();
    let desk = cluster.site(cluster.leader().await.unwrap()).desk.unwrap().to_string();
    let home = cluster.layout().dir.join(&name);
    let (certificate, key) = (home.join("node.crt"), home.join("node.key"));
    let ca = cluster.layout().dir.join("nodes.crt");
    let shown = TlsFiles { certificate, key, ca };
    let answered =
        async |desk: &str| clients::http(desk, &shown).post("/", Vec::new().into()).await;
    assert_eq!(answered(&desk).await.unwrap().0, 400, "its certificate is accepted");
    assert!(south_talks(cluster, &shown).await, "and by other clusters");
    assert!(opens_the_store(cluster, 2));
    let before = epochs(cluster, 0).len();

    cluster.signal(2, "STOP");
    let (code, said) = by_custodian(cluster, 0, &["node", "revoke", &cluster.site(0).name]);
    assert!(code == 4 && said.contains("itself"), "{code} {said}");
    let (code, said) = by_custodian(cluster, 0, &["node", "revoke", &name]);
    assert!(code == 0 && said.contains("is taken out"), "{code} {said}");
    cluster.signal(2, "CONT");
    let left = epochs(cluster, 0);
    assert_eq!(left.len(), before + 1);
    for km in [0, 1] {
        let desk = cluster.site(km).desk.unwrap().to_string();
        cluster.until("its certificate is refused", async || answered(&desk).await.is_err()).await;
    }
    let told = Instant::now();
    cluster.until("other clusters hear", async || !south_talks(cluster, &shown).await).await;
    println!("another cluster refuses it after {:?} more", told.elapsed());
    assert!(told.elapsed() < Duration::from_secs(5));
    assert_eq!(ended(cluster, 2).await, Some(4), "it ends, and says that it was refused");
    let (code, said) = cluster.qkm(2, &["serve"]);
    assert!(code == 4 && said.contains("QKM-J002"), "{code} {said}");
    assert_eq!(node(cluster, 0, 2)["revoked"], true);
    assert!(!opens_the_store(cluster, 2), "its token opens the store no more");
    let (id, bytes) = create(cluster, 1).await;
    assert_eq!(get(cluster, 0, &id).await, bytes);
    let monitor = cluster.site(0).monitor;
    let (_, said) = monitor_get(monitor, "/readyz").await.unwrap();
    assert!(!said.contains(&name), "{said}");
}

/// Has the other one of two lead.
async fn give_lead(cluster: &Cluster, from: usize, to: usize) {
    let name = &cluster.site(from).name;
    let (code, said) = by_custodian(cluster, to, &["node", "drain", name]);
    assert_eq!(code, 0, "{said}");
    cluster.until("the other leads", async || cluster.leader().await == Some(to)).await;
    let (code, said) = by_custodian(cluster, to, &["node", "drain", "--undo", name]);
    assert_eq!(code, 0, "{said}");
    cluster.ready(from).await;
}

/// Who takes a KM out dies before the epoch begins that is owed then: whoever leads next has it begin. The
/// one that is taken out leads, and ends though nothing it had begun can be stored any more.
async fn half_revoked(cluster: &mut Cluster) {
    assert!(opens_the_store(cluster, 1));
    if cluster.leader().await != Some(1) {
        give_lead(cluster, 0, 1).await;
    }
    let before = epochs(cluster, 0).len();
    cluster.signal_workers(0, "STOP");
    let (name, who) = (cluster.site(1).name.clone(), custodian(cluster));
    let command = ["node", "revoke", &name];
    let command = [&command[..], &who.each_ref().map(String::as_str)].concat();
    let mut asked = cluster.begin(0, &command);
    assert_eq!(ended(cluster, 1).await, Some(4), "it hears that it is out");
    assert_eq!(asked.try_wait().unwrap(), None, "the token stands still, so no epoch began");
    cluster.kill(0);
    assert!(!asked.wait().unwrap().success());
    assert!(opens_the_store(cluster, 1), "the epoch is owed");
    cluster.run(0);
    cluster.ready(0).await;
    let paid = async || epochs(cluster, 0).len() == before + 1;
    cluster.until("the epoch begins that is owed", paid).await;
    cluster.until("its token opens nothing", async || !opens_the_store(cluster, 1)).await;
    create(cluster, 0).await;
}

/// One whose token has the KEKs, being that of the others, gets no copies of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_manager_with_the_token_of_the_others_joins_without_keys() {
    let mut cluster = founder_of([]).await;
    let dir = cluster.layout().dir.clone();
    cluster.edit(1, |config| {
        for (file, name) in [("certificate", "joined.crt"), ("key", "joined.key")] {
            for table in ["node", "km_link"] {
                config[table][file] = dir.join(name).display().to_string().into();
            }
        }
    });
    let (object, bytes) = create(&cluster, 0).await;
    let invited = token(&cluster, 0, 1);
    let command = ["node", "join", invited.to_str().unwrap(), "--has-keks"];
    let (code, said) = cluster.qkm(1, &command);
    assert!(code == 0 && said.contains("joined") && !said.contains("the KEK came"), "{said}");
    cluster.run(1);
    cluster.ready(1).await;
    assert_eq!(epochs(&cluster, 0).len(), 1, "nobody was given anything, so none begins");
    assert_eq!(get(&cluster, 1, &object).await, bytes);
    let (id, bytes) = create(&cluster, 1).await;
    assert_eq!(get(&cluster, 0, &id).await, bytes);
}

/// Whichever side dies while a KM joins: what it was invited with is used up or good still, the cluster works,
/// and another token lets it in.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_one_joins_costs_the_token_and_no_more() {
    let mut cluster = founder().await;
    let (object, bytes) = create(&cluster, 0).await;
    let home = cluster.layout().dir.join(&cluster.site(1).name);
    let (mut invited, mut refused, mut joined) = (token(&cluster, 0, 1), 0, 0);
    let delays = [200, 120, 360, 280].map(Duration::from_millis);
    for (round, delay) in delays.into_iter().enumerate() {
        let mut newcomer = cluster.begin(1, &["node", "join", invited.to_str().unwrap()]);
        tokio::time::sleep(delay).await;
        match round % 2 {
            0 => {
                cluster.kill(0);
                newcomer.wait().unwrap();
                cluster.run(0);
                cluster.ready(0).await;
            }
            _ => {
                newcomer.kill().unwrap();
                newcomer.wait().unwrap();
            }
        }
        assert_eq!(get(&cluster, 0, &object).await, bytes, "after {delay:?}");
        create(&cluster, 0).await;
        if !home.join("node.crt").exists() && !home.join("node.crt.joined").exists() {
            let _ = std::fs::remove_file(home.join("node.key"));
        }
        match join(&cluster, 1, &invited) {
            (0, _) => joined += 1,
            (4, said) if said.contains("QKM-J001") => refused += 1,
            (_, said) if said.contains("is there already") => joined += 1,
            (code, said) => panic!("after {delay:?}: {code} {said}"),
        }
        println!("{delay:?}: joined {joined}, refused {refused}");
        for file in ["node.crt", "node.key", "node.crt.joined"] {
            let _ = std::fs::remove_file(home.join(file));
        }
        invited = token(&cluster, 0, 1);
    }
    let (code, said) = join(&cluster, 1, &invited);
    assert_eq!(code, 0, "{said}");
    cluster.run(1);
    cluster.ready(1).await;
    assert_eq!(get(&cluster, 1, &object).await, bytes);
    let (id, bytes) = create(&cluster, 1).await;
    assert_eq!(get(&cluster, 0, &id).await, bytes);
}
