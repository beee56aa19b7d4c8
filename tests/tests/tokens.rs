//! A running key manager with two tokens that hold the same KEKs: the folders of two SoftHSMs, the
//! second a copy of the first, as an HSM cluster keeps its members alike.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../testkit/p11_shim.rs"]
#[allow(dead_code, reason = "this suite does not ask what was called")]
mod p11_shim;

use std::path::{Path, PathBuf};

use kmip::{Answer, DateTime, SecretBytes, attribute::Attribute, client, enums, op};
use qkm_tests::{
    clients::{Kmip, material},
    epochs::{self, listed},
    network::{End::North, Network, Options, monitor_get},
    standby::Standby,
};

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
const ENCRYPT_DECRYPT: i32 = 0xC;

/// A key manager with a standby, and where the two tokens are.
struct Pair {
    network: Network,
    first: PathBuf,
    second: PathBuf,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

impl Pair {
    async fn start() -> Self {
        Self::start_with(2000, |conf| format!("env = {{ SOFTHSM2_CONF = {conf:?} }}")).await
    }

    /// What the configuration says of the standby, whose SoftHSM has that configuration file.
    async fn start_with(deadline_ms: u32, said: impl FnOnce(&Path) -> String) -> Self {
        let options = Options {
            hsm: [("north", format!("deadline_ms = {deadline_ms}\n#member"))].into(),
            ..Options::default()
        };
        let mut network = Network::north_alone(options).await;
        network.ready(North).await;
        // It has made the KEK that both must hold.
        assert_eq!(network.stop(North), Some(0));
        let site = network.site(North);
        let first = site.softhsm_conf.with_file_name("softhsm");
        let second = site.softhsm_conf.with_file_name("standby");
        copy(&first, &second);
        let conf = second.with_extension("conf");
        let text = std::fs::read_to_string(&site.softhsm_conf).unwrap();
        let (one, other) = (first.to_str().unwrap(), second.to_str().unwrap());
        assert!(text.contains(one), "{text}");
        std::fs::write(&conf, text.replace(one, other)).unwrap();
        let member = format!("member = [{{ name = \"standby\", {} }}]", said(&conf));
        let text = std::fs::read_to_string(&site.config).unwrap();
        std::fs::write(&site.config, text.replace("#member", &member)).unwrap();
        network.start_km(North);
        let pair = Self { network, first, second };
        pair.network.ready(North).await;
        pair.both_ready().await;
        pair
    }

    fn app(&self) -> Kmip {
        self.network.kmip_client(North, "sae-n1")
    }

    async fn both_ready(&self) {
        self.network
            .until("both tokens are used", || async {
                self.network.metric(North, "qkm_hsm_ready").await == 2.0
            })
            .await;
    }

    async fn readyz(&self) -> (u16, String) {
        monitor_get(self.network.site(North).monitor, "/readyz").await.unwrap()
    }

    /// `qkm_hsm_ready` of one token.
    async fn is_ready(&self, token: &str) -> bool {
        let line = format!("qkm_hsm_ready{{token=\"{token}\"}} 1");
        let text = self.network.metrics_text(North).await;
        text.lines().any(|found| found.starts_with(&line))
    }
}

async fn made(app: &Kmip, extractable: bool) -> String {
    let more =
        [Attribute::Extractable(extractable), Attribute::ActivationDate(DateTime(1_000_000))];
    let create = client::create(enums::CryptographicAlgorithm::Aes, 256, ENCRYPT_DECRYPT, more);
    let answer = app.ask(create).await.unwrap();
    let Answer::Create(made) = answer else { panic!("{answer:?}") };
    made.id
}

async fn encrypted(app: &Kmip, id: &str) -> Vec<u8> {
    let parameters = kmip::attribute::CryptographicParameters {
        block_cipher_mode: Some(enums::BlockCipherMode::Ecb),
        ..Default::default()
    };
    let data = Some(SecretBytes::copy_from(b"one block or two"));
    let (id, parameters) = (Some(id.into()), Some(parameters));
    let request = op::encrypt::Request { id, parameters, data, ..Default::default() };
    let answer = app.ask(request).await.unwrap();
    let Answer::Encrypt(done) = answer else { panic!("{answer:?}") };
    done.data.unwrap()
}

fn objects(token: &Path) -> usize {
    let folders = std::fs::read_dir(token).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let is_object = |path: &Path| path.extension().is_some_and(|end| end == "object");
    files.filter(|file| is_object(&file.as_ref().unwrap().path())).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_dies_service_goes_on_and_it_is_used_again_without_a_restart() {
    let pair = Pair::start().await;
    let (app, km) = (pair.app(), pair.network.pid(North));
    let (open, inside) = (made(&app, true).await, made(&app, false).await);
    let bytes = material(&app.ask(client::get(&open)).await.unwrap()).unwrap();
    let ciphertext = encrypted(&app, &inside).await;
    let away = pair.first.with_file_name("away");
    std::fs::rename(&pair.first, &away).unwrap();
    pair.network
        .until("the first token is out of use", || async { !pair.is_ready("north").await })
        .await;
    let (status, said) = pair.readyz().await;
    assert_eq!(status, 200, "{said}");
    assert!(said.starts_with("ready\n") && said.contains("warning: HSM token north: "), "{said}");
    assert_eq!(pair.network.metric(North, "qkm_ready").await, 1.0);
    assert!(pair.is_ready("standby").await);
    assert_eq!(material(&app.ask(client::get(&open)).await.unwrap()), Some(bytes));
    assert_eq!(encrypted(&app, &inside).await, ciphertext);
    let meanwhile = made(&app, false).await;
    let ciphertext = encrypted(&app, &meanwhile).await;

    std::fs::rename(&away, &pair.first).unwrap();
    pair.both_ready().await;
    assert_eq!(pair.network.pid(North), km, "the same process all the time");
    assert!(!pair.readyz().await.1.contains("warning"));
    // Now the standby dies: the first one does what that one did.
    std::fs::rename(&pair.second, &away).unwrap();
    pair.network
        .until("the standby is out of use", || async { !pair.is_ready("standby").await })
        .await;
    assert_eq!(encrypted(&app, &meanwhile).await, ciphertext);
    made(&app, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_missed_restarts_is_no_reason_to_refuse_the_store() {
    let mut pair = Pair::start().await;
    let inside = made(&pair.app(), false).await;
    let ciphertext = encrypted(&pair.app(), &inside).await;
    assert_eq!(pair.network.stop(North), Some(0));
    let away = pair.first.with_file_name("away");
    std::fs::rename(&pair.first, &away).unwrap();
    for _ in 0..3 {
        pair.network.start_km(North);
        pair.network.ready(North).await;
        assert_eq!(pair.network.stop(North), Some(0));
    }
    // The first one is asked first, and has not seen the generations of those restarts.
    std::fs::rename(&away, &pair.first).unwrap();
    pair.network.start_km(North);
    pair.network.ready(North).await;
    pair.both_ready().await;
    assert_eq!(encrypted(&pair.app(), &inside).await, ciphertext);
    assert_eq!(pair.network.stop(North), Some(0));
    // It has been told meanwhile, and suffices alone.
    std::fs::rename(&pair.second, &away).unwrap();
    pair.network.start_km(North);
    pair.network.ready(North).await;
    assert_eq!(encrypted(&pair.app(), &inside).await, ciphertext);
}

/// Told to one of two tokens, the restore would be stopped half-way.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_with_a_token_away_changes_nothing() {
    let mut pair = Pair::start().await;
    let inside = made(&pair.app(), false).await;
    let ciphertext = encrypted(&pair.app(), &inside).await;
    let made = pair.network.qkm(North, &["store", "backup", "-o", "json"]);
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let backup = made["file"].as_str().unwrap().to_owned();
    assert_eq!(pair.network.stop(North), Some(0));
    let away = pair.second.with_file_name("away");
    std::fs::rename(&pair.second, &away).unwrap();
    let refused = pair.network.qkm(North, &["store", "restore", &backup]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("standby"), "{said}");
    assert!(said.contains("told to every token"), "{said}");
    std::fs::rename(&away, &pair.second).unwrap();
    pair.network.start_km(North);
    pair.network.ready(North).await;
    pair.both_ready().await;
    assert_eq!(encrypted(&pair.app(), &inside).await, ciphertext);
    assert_eq!(pair.network.stop(North), Some(0));
    let done = pair.network.qkm(North, &["store", "restore", &backup]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    pair.network.start_km(North);
    pair.network.ready(North).await;
    assert_eq!(encrypted(&pair.app(), &inside).await, ciphertext);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_is_destroyed_in_every_token_and_not_while_one_is_away() {
    let pair = Pair::start().await;
    let app = pair.app();
    let inside = made(&app, false).await;
    let ciphertext = encrypted(&app, &inside).await;
    let (code, said) = epochs::epoch(&pair.network, Some(0), &["rotate"]);
    assert_eq!(code, 0, "{said}");
    pair.both_ready().await;
    pair.network
        .until("the old epoch is empty", || async { listed(&pair.network)[0]["empty"] == true })
        .await;
    let before = [&pair.first, &pair.second].map(|token| objects(token));
    let away = pair.second.with_file_name("away");
    std::fs::rename(&pair.second, &away).unwrap();
    pair.network
        .until("the standby is out of use", || async { !pair.is_ready("standby").await })
        .await;
    let (code, said) = epochs::epoch(&pair.network, Some(0), &["destroy", "1"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = epochs::epoch(&pair.network, Some(1), &["destroy", "1"]);
    assert!(code != 0 && said.contains("standby"), "{said}");
    assert_eq!(objects(&pair.first), before[0], "the first token holds it still");
    std::fs::rename(&away, &pair.second).unwrap();
    pair.both_ready().await;
    let (code, said) = epochs::epoch(&pair.network, Some(1), &["destroy", "1"]);
    assert_eq!(code, 0, "{said}");
    // The KEK that sealed and the one that wrapped.
    let after = [&pair.first, &pair.second].map(|token| objects(token));
    assert_eq!(after, before.map(|count| count - 2));
    assert_eq!(encrypted(&app, &inside).await, ciphertext);
}

/// What a token does not take when an epoch begins can be wrapped by nobody any more: it waits in the store, and
/// a key manager that died meanwhile gives it to the token all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_kek_that_a_token_did_not_take_outlives_the_death_of_the_key_manager() {
    let orders = tempfile::tempdir().unwrap();
    let shim = p11_shim::Shim::new(orders.path().join("orders"));
    // Time for the standby to make the pair that it takes KEKs by.
    let mut pair = Pair::start_with(30_000, |conf| {
        let mut env = shim.env(SOFTHSM.as_ref());
        env.insert("SOFTHSM2_CONF".to_owned(), conf.display().to_string());
        let env: Vec<String> =
            env.iter().map(|(name, text)| format!("{name} = {text:?}")).collect();
        format!("library = {:?}, env = {{ {} }}", p11_shim::library(), env.join(", "))
    })
    .await;
    // CKR_FUNCTION_FAILED.
    shim.order(&["C_UnwrapKey 1 answer 0x6".to_owned()]);
    let (code, said) = epochs::epoch(&pair.network, Some(0), &["rotate"]);
    assert!(code == 0 && said.contains("epoch 2 begins"), "{said}");
    pair.network
        .until("the standby is out of use", || async { !pair.is_ready("standby").await })
        .await;
    let told = pair.network.log("north");
    assert!(told.contains("it did not take the new KEK"), "{told}");
    let inside = made(&pair.app(), false).await;
    let ciphertext = encrypted(&pair.app(), &inside).await;
    pair.network.kill(North);
    shim.lift();
    pair.network.start_km(North);
    pair.network.ready(North).await;
    pair.both_ready().await;
    let away = pair.first.with_file_name("away");
    std::fs::rename(&pair.first, &away).unwrap();
    pair.network
        .until("the first token is out of use", || async { !pair.is_ready("north").await })
        .await;
    assert_eq!(encrypted(&pair.app(), &inside).await, ciphertext);
    assert_eq!(listed(&pair.network).len(), 2, "no epoch had to begin for it");
}

/// A standby of another product: it comes to hold a KEK by hand, and those of later epochs by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_another_vendor_takes_the_keks_of_new_epochs() {
    let options = Options { hsm: [("north", "#member".to_owned())].into(), ..Options::default() };
    let mut network = Network::north_alone(options).await;
    network.ready(North).await;
    let dir = network.dir().join("standby");
    let standby = Standby::provision(&dir);
    let (request, parcel) = (dir.join("standby.json"), dir.join("standby.json.kek"));
    let apart = |arguments: &[&str]| {
        let (code, said) = standby.kek(arguments);
        assert_eq!(code, 0, "{said}");
    };
    apart(&["request", request.to_str().unwrap()]);
    let rotate = ["rotate", "--for", request.to_str().unwrap()];
    let (code, said) = epochs::epoch(&network, Some(0), &rotate);
    assert_eq!(code, 0, "{said}");
    let fingerprint = said.split("fingerprint ").nth(1).unwrap().trim();
    apart(&["take", parcel.to_str().unwrap(), "--fingerprint", fingerprint]);
    assert_eq!(network.stop(North), Some(0));

    let site = network.site(North);
    let member = format!("member = [{}]", standby.member());
    let text = std::fs::read_to_string(&site.config).unwrap();
    std::fs::write(&site.config, text.replace("#member", &member)).unwrap();
    network.start_km(North);
    network.ready(North).await;
    let both = || async { network.metric(North, "qkm_hsm_ready").await == 2.0 };
    network.until("both tokens are used", both).await;
    let app = network.kmip_client(North, "sae-n1");
    let (code, said) = epochs::epoch(&network, Some(0), &["rotate"]);
    assert!(code == 0 && said.contains("epoch 3 begins"), "{said}");
    network.until("both tokens are used", both).await;
    let (open, inside) = (made(&app, true).await, made(&app, false).await);
    let bytes = material(&app.ask(client::get(&open)).await.unwrap()).unwrap();
    let ciphertext = encrypted(&app, &inside).await;
    let first = network.site(North).softhsm_conf.with_file_name("softhsm");
    std::fs::rename(&first, first.with_file_name("away")).unwrap();
    network
        .until("the first token is out of use", || async {
            network.metric(North, "qkm_hsm_ready").await == 1.0
        })
        .await;
    assert_eq!(material(&app.ask(client::get(&open)).await.unwrap()), Some(bytes));
    assert_eq!(encrypted(&app, &inside).await, ciphertext);
    made(&app, true).await;
}

/// New keys come into it by its HSM's own means only: whoever begins epochs by age is told before one does.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_takes_no_kek_is_named_by_doctor_and_at_the_start() {
    let options = Options { hsm: [("north", "#member".to_owned())].into(), ..Options::default() };
    let mut network = Network::north_alone(options).await;
    network.ready(North).await;
    assert_eq!(network.stop(North), Some(0));
    let site = network.site(North);
    let built_in = include_str!("../../hsm-profiles/profiles/softhsm2.toml");
    let profile = network.dir().join("officer.toml");
    let officer = built_in.replace("[keys]\n", "[keys]\ntrusted = \"officer\"\n");
    std::fs::write(&profile, officer).unwrap();
    let member = format!("member = [{{ name = \"cloned\", profile = {profile:?} }}]");
    let text = std::fs::read_to_string(&site.config).unwrap().replace("#member", &member);
    std::fs::write(&site.config, text).unwrap();
    let told = "HSM token cloned takes no KEK of another";
    let doctor = network.qkm(North, &["doctor"]).stdout;
    let said = String::from_utf8_lossy(&doctor);
    assert!(said.contains(told) && said.contains("max_age_days = 0"), "{said}");
    network.start_km(North);
    network.ready(North).await;
    assert!(network.log("north").contains(told), "{}", network.log("north"));
}
