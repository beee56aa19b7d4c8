//! Everything moves from etcd into an embedded store and back, by the real program, killed at any moment:
//! one side is usable, never both, and keys are handed out once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cluster::EtcdStore;
use km_core::{
    store::{SqliteStore, Store},
    vault::RECORD_KEY,
};
use kmip::{Answer, client, enums::CryptographicAlgorithm};
use qkm::config::Config;
use qkm_tests::{
    clients::material,
    cluster::{Cluster, NORTH, SOUTH},
    network::program,
};

/// How much later it is killed each time.
const LATER: Duration = Duration::from_millis(60);

struct Move<'a> {
    cluster: &'a Cluster,
    from: PathBuf,
    to: PathBuf,
}

impl Move<'_> {
    fn command(&self) -> Command {
        let mut qkm = Command::new(program());
        qkm.args(["store", "migrate", "--to"]).arg(&self.to).arg("--config").arg(&self.from);
        qkm.env("SOFTHSM2_CONF", &self.cluster.site(0).softhsm_conf);
        qkm
    }

    /// Its exit code, what it said, and how long it took.
    fn run(&self) -> (i32, String, Duration) {
        let began = Instant::now();
        let done = self.command().output().unwrap();
        let text = [done.stdout, done.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (done.status.code().unwrap_or(-1), text, began.elapsed())
    }

    /// Puts a backup back where it came from.
    fn restore(&self, backup: &Path) -> (i32, String) {
        let mut qkm = Command::new(program());
        qkm.args(["store", "restore"]).arg(backup).arg("--config").arg(&self.from);
        let done = qkm.env("SOFTHSM2_CONF", &self.cluster.site(0).softhsm_conf).output().unwrap();
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code().unwrap_or(-1), text)
    }

    /// Begins it and kills it `moment` after it has both stores open. Whether it had ended before. Not before
    /// then: SoftHSM loses a token whose process is killed while it logs in.
    fn kill_after(&self, moment: Duration) -> bool {
        let mut child =
            self.command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut opened = 0;
        while opened < 2 {
            let line = lines.next().expect("both stores are opened");
            opened += usize::from(line.contains("\"store open"));
        }
        std::thread::sleep(moment);
        let over = child.try_wait().unwrap().is_some_and(|status| status.success());
        let _ = child.kill();
        let _ = child.wait();
        over
    }

    /// Which of the two a key manager would open: neither in the short time between the marks.
    async fn usable(&self) -> [bool; 2] {
        [self.opens(&self.from).await, self.opens(&self.to).await]
    }

    async fn opens(&self, config: &Path) -> bool {
        if is_empty(config).await {
            return false;
        }
        let mut child = serve(self.cluster, config);
        let until = Instant::now() + Duration::from_secs(20);
        let site = self.cluster.site(0);
        let ready = loop {
            if child.try_wait().unwrap().is_some() || Instant::now() > until {
                break false;
            }
            if std::net::TcpStream::connect(site.kmip).is_ok() {
                break true;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        stop(child);
        ready
    }
}

/// Whether nothing has arrived there: a key manager would begin a store of its own.
async fn is_empty(config: &Path) -> bool {
    let config = Config::load(config).unwrap();
    let store: Box<dyn Store> = match &config.shared {
        Some(shared) => Box::new(EtcdStore::open(&shared.etcd).await.unwrap()),
        None if !config.store_file().exists() => return true,
        None => Box::new(SqliteStore::open(config.store_file()).unwrap()),
    };
    for key in [RECORD_KEY, b"move/from"] {
        if store.get(key).await.unwrap().is_some() {
            return false;
        }
    }
    true
}

fn serve(cluster: &Cluster, config: &Path) -> Child {
    let mut qkm = Command::new(program());
    qkm.arg("serve").arg("--config").arg(config).arg("--with-parent").stdin(Stdio::piped());
    qkm.env("SOFTHSM2_CONF", &cluster.site(0).softhsm_conf);
    qkm.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn stop(mut child: Child) {
    drop(child.stdin.take());
    let _ = child.wait();
}

/// The configuration of the first KM with a store of its own.
fn alone(cluster: &Cluster) -> PathBuf {
    let shared = &cluster.site(0).config;
    let text = std::fs::read_to_string(shared).unwrap();
    let (head, rest) = text.split_once("[store]").unwrap();
    let (_, rest) = rest.split_once("[hsm]").unwrap();
    let folder = shared.with_file_name("alone");
    let own = shared.with_file_name("alone.toml");
    std::fs::write(&own, format!("{head}[store]\npath = {folder:?}\n\n[hsm]{rest}")).unwrap();
    own
}

/// Kills it ever later, each time looking at what is usable, until it ends.
async fn through_kills(step: &Move<'_>) {
    for number in 1.. {
        if step.kill_after(LATER * number) {
            println!("killed {} times", number - 1);
            break;
        }
        let usable = step.usable().await;
        assert_ne!(usable, [true, true], "both sides are usable after {number} kills");
        if usable == [false, true] {
            println!("killed {number} times, the last time when all was done");
            return;
        }
    }
    let (code, said, _) = step.run();
    assert!(code == 1 && said.contains("were moved to"), "{code} {said}");
    assert_eq!(step.usable().await, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_to_etcd_and_back_and_hands_nothing_out_twice() {
    let mut cluster = Cluster::start().await;
    let app = cluster.kmip(0, "sae-n1");
    let create = client::create(CryptographicAlgorithm::Aes, 256, 12, []);
    let Answer::Create(made) = app.ask(create).await.unwrap() else { panic!("no object") };
    let object = material(&app.ask(client::get(made.id.as_str())).await.unwrap()).unwrap();
    let mut issued = cluster.etsi(SOUTH, "sae-s1").enc("sae-n1", 8).await.unwrap().keys();
    let later = issued.split_off(4);

    let own = alone(&cluster);
    let shared = cluster.site(0).config.clone();
    let away = Move { cluster: &cluster, from: shared.clone(), to: own.clone() };
    let (code, said, _) = away.run();
    assert!(code == 1 && said.contains("still uses the store"), "{code} {said}");
    for km in 0..NORTH {
        cluster.stop(km);
    }
    let before = cluster.engine.snapshot("before.db");
    let away = Move { cluster: &cluster, from: shared.clone(), to: own.clone() };
    through_kills(&away).await;
    let (code, said) = cluster.qkm(1, &["serve"]);
    assert!(code == 1 && said.contains("QKM-S011") && said.contains("moved"), "{code} {said}");

    let alone = serve(&cluster, &own);
    cluster.ready(0).await;
    assert_eq!(collected(&cluster, 0, &issued).await, 200, "what waited before the move is there");
    assert_ne!(collected(&cluster, 0, &issued).await, 200, "and comes once");
    let app = cluster.kmip(0, "sae-n1");
    let moved = material(&app.ask(client::get(made.id.as_str())).await.unwrap()).unwrap();
    assert_eq!(moved, object);
    stop(alone);
    let home = Config::load(&own).unwrap().store_file();
    let backup = own.with_file_name("backup.qkm");
    std::fs::copy(&home, &backup).unwrap();

    cluster.engine.put_back(&before);
    for km in 0..NORTH {
        let (code, said) = cluster.qkm(km, &["serve"]);
        assert!(code == 4 && said.contains("QKM-S006"), "KM {km}, from before: {code} {said}");
    }
    let back = Move { cluster: &cluster, from: own, to: shared };
    let (code, said, _) = back.run();
    assert!(code != 0 && said.contains("has records already"), "the old records are there: {said}");
    cluster.engine.erase("/qkm/north/");
    through_kills(&back).await;
    for _ in 0..2 {
        let (code, said) = back.restore(&backup);
        assert!(code == 1 && said.contains("QKM-S011") && said.contains("moved"), "{code} {said}");
    }
    for km in 0..NORTH {
        cluster.run(km);
        cluster.ready(km).await;
    }
    assert_ne!(collected(&cluster, 2, &issued).await, 200, "not a second time after the way back");
    assert_eq!(collected(&cluster, 1, &later).await, 200, "what waited all the time");
    cluster
        .until("keys flow again", async || {
            let said = cluster.etsi(2, "sae-n1").enc("sae-s1", 1).await;
            said.is_ok_and(|said| said.status == 200)
        })
        .await;
    for km in [cluster.leader().await.expect("one leads"), SOUTH] {
        assert_eq!(cluster.metric(km, "qkm_pool_balanced").await, 1.0, "KM {km}");
    }
}

/// A key manager stands still while the others are stopped and the store moves: not before it counts as
/// gone. When it goes on it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_manager_that_slept_through_a_move_ends() {
    let mut cluster = Cluster::start().await;
    let app = cluster.kmip(0, "sae-n1");
    let create = || client::create(CryptographicAlgorithm::Aes, 256, 12, []);
    let Answer::Create(made) = app.ask(create()).await.unwrap() else { panic!("no object") };
    let leader = cluster.leader().await.expect("one leads");
    let asleep = (leader + 1) % NORTH;
    cluster.stop((leader + 2) % NORTH);
    cluster.signal(asleep, "STOP");
    cluster.stop(leader);

    let (own, shared) = (alone(&cluster), cluster.site(0).config.clone());
    let away = Move { cluster: &cluster, from: shared, to: own.clone() };
    let name = Config::load(&cluster.site(asleep).config).unwrap().shared.unwrap().seat.node;
    let (code, said, _) = away.run();
    let refused = said.contains(&format!("still in use by {name}"));
    assert!(code == 1 && said.contains("QKM-S011") && refused, "{code} {said}");
    cluster.until("its session ends, and the store moves", async || away.run().0 == 0).await;

    cluster.signal(asleep, "CONT");
    let until = Instant::now() + Duration::from_secs(60);
    let code = loop {
        let said = cluster.etsi(asleep, "sae-n1").enc("sae-s1", 1).await;
        assert_ne!(said.map_or(0, |said| said.status), 200, "a key of the old store");
        assert_ne!(cluster.leader().await, Some(asleep));
        match cluster.ended(asleep) {
            Some(code) => break code,
            None => assert!(Instant::now() < until, "it goes on with the old store"),
        }
    };
    assert_eq!(code, 1);
    cluster.kill(asleep);

    let alone = serve(&cluster, &own);
    cluster.ready(0).await;
    let app = cluster.kmip(0, "sae-n1");
    material(&app.ask(client::get(made.id.as_str())).await.unwrap()).unwrap();
    stop(alone);
}

async fn collected(cluster: &Cluster, km: usize, keys: &[(String, String)]) -> u16 {
    let ids: Vec<&str> = keys.iter().map(|(id, _)| id.as_str()).collect();
    let said = cluster.calm(km, "sae-n1").dec("sae-s1", &ids).await.unwrap();
    if said.status == 200 {
        assert_eq!(said.keys(), keys, "bytes differ");
    }
    said.status
}
