//! Runs a test body in a process that has its own token, of SoftHSM or Kryoptic.
//!
//! Their libraries read `SOFTHSM2_CONF` or `KRYOPTIC_CONF` once per process, so the test makes a token, then runs itself
//! again as a child with the variable set; the body runs in the child.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use cryptoki::context::Pkcs11;
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use hsm_profiles::soft::{CONF_VARIABLE, SoftToken, provision};
use hsm_profiles::{PinSource, Profile, Program, Spread, Token, TokenConfig, TokenSelector};
use km_core::{hsm::KEK_SEED_BYTES, material::ClearBytes};

const FOLDER_VARIABLE: &str = "QKM_TEST_FOLDER";
/// Tells `qkm-token-init` where the library is.
const LIBRARY_VARIABLE: &str = "QKM_TOKEN_LIBRARY";
pub const LABEL: &str = "north";

/// The child's view: its folder and its token.
pub struct Room {
    pub dir: PathBuf,
    pub product: SoftToken,
    /// Name or path, as configured.
    pub profile: String,
}

/// The worker process of these tests.
pub fn worker_program() -> Program {
    Program { path: env!("CARGO_BIN_EXE_qkm-hsm-worker").into(), arguments: Vec::new() }
}

pub fn init_command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_qkm-token-init"))
}

/// `name` is the full name of the calling test.
pub fn with_token(name: &str, body: impl FnOnce(Room)) {
    with_token_of(SoftToken::SoftHsm, name, body);
}

/// As [`with_token`], with a token of either product.
pub fn with_token_of(product: SoftToken, name: &str, body: impl FnOnce(Room)) {
    if let Some(dir) = std::env::var_os(FOLDER_VARIABLE) {
        let profile = product.profile().to_owned();
        return body(Room { dir: dir.into(), product, profile });
    }
    let dir = tempfile::tempdir().unwrap();
    let mut init = init_command();
    init.env(LIBRARY_VARIABLE, library(product));
    let made = provision(product, dir.path(), LABEL, init).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER_VARIABLE, dir.path())
        .env(product.conf_variable(), &made.conf)
        .env("CREDENTIALS_DIRECTORY", dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed") && output.status.success(), "{name}: {output:#?}");
}

/// What the wrapping of one KEK is made of.
pub fn seed() -> ClearBytes {
    let mut bytes = vec![0; KEK_SEED_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    ClearBytes::from_vec(bytes)
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Room {
    pub fn pin_file(&self) -> PathBuf {
        self.dir.join(format!("{LABEL}.pin"))
    }

    pub fn pin(&self) -> String {
        std::fs::read_to_string(self.pin_file()).unwrap().trim().to_owned()
    }

    pub fn config(&self) -> TokenConfig {
        TokenConfig {
            library: (self.product == SoftToken::Kryoptic).then(|| library(self.product)),
            profile: self.profile.clone(),
            token: TokenSelector::Label(LABEL.to_owned()),
            pin: PinSource::File(self.pin_file()),
            kek_label: "qkm-kek-".to_owned(),
            create_kek: true,
            sessions: Some(3),
            deadline_ms: 20_000,
            env: BTreeMap::new(),
            memory_mib: None,
            name: None,
            member: Vec::new(),
            spread: Spread::default(),
        }
    }

    /// The same token with a profile that seals under data keys.
    pub fn sealing_by(&self, protection: &str) -> TokenConfig {
        self.with_seal(
            protection,
            &format!("method = \"wrapped-key-gcm\"\nprotection = \"{protection}\""),
        )
    }

    /// The same token with another `[seal]`, in a profile `name` in this room.
    pub fn with_seal(&self, name: &str, seal: &str) -> TokenConfig {
        let profile = self.built_in().replace("method = \"token-gcm\"", seal);
        TokenConfig { profile: self.written(name, &profile), ..self.config() }
    }

    /// The same room with another table `[keys]`, in a profile `name`; the length of HMAC keys stays.
    pub fn with_keys(self, name: &str, keys: &str) -> Self {
        let profile = self.built_in().replace("[keys]\n", &format!("[keys]\n{keys}\n"));
        assert_ne!(profile, self.built_in());
        Self { profile: self.written(name, &profile), ..self }
    }

    pub fn built_in(&self) -> String {
        let profiles = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
        let built_in = profiles.join(format!("{}.toml", self.product.profile()));
        std::fs::read_to_string(built_in).unwrap()
    }

    pub fn written(&self, name: &str, profile: &str) -> String {
        let path = self.dir.join(format!("{name}.toml"));
        std::fs::write(&path, profile).unwrap();
        path.display().to_string()
    }

    pub fn open(&self) -> std::sync::Arc<Token> {
        Token::open(self.config()).unwrap()
    }

    /// As [`Room::open`], with the library in a worker process.
    pub async fn start(&self) -> std::sync::Arc<Token> {
        Token::start(self.config(), worker_program()).await.unwrap()
    }

    /// A copy of all tokens in a folder of its own, and the environment that finds it.
    pub fn copied(&self, name: &str) -> (PathBuf, BTreeMap<String, String>) {
        let dir = self.dir.join(name);
        let conf = self.product.write_conf(&dir).unwrap();
        for token in std::fs::read_dir(self.dir.join("softhsm")).unwrap() {
            let token = token.unwrap();
            let to = dir.join("softhsm").join(token.file_name());
            std::fs::create_dir(&to).unwrap();
            for file in std::fs::read_dir(token.path()).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
        let env = [(CONF_VARIABLE.to_owned(), conf.display().to_string())].into();
        (conf, env)
    }

    /// A token of its own in the same library.
    pub fn second_token(&self, label: &str) -> std::sync::Arc<Token> {
        let pin_file = self.dir.join(format!("{label}.pin"));
        let made = init_command().arg(label).arg(&pin_file).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        // This process looked for tokens before that one was made.
        self.other_handle().finalize().unwrap();
        let token = TokenSelector::Label(label.to_owned());
        Token::open(TokenConfig { token, pin: PinSource::File(pin_file), ..self.config() }).unwrap()
    }

    /// Where SoftHSM keeps the token: SoftHSM names folders by the serial number.
    pub fn token_folder(&self, label: &str) -> PathBuf {
        let pkcs11 = self.other_handle();
        let mut tokens = pkcs11.get_slots_with_token().unwrap().into_iter();
        let serial = tokens.find_map(|slot| {
            let info = pkcs11.get_token_info(slot).unwrap();
            (info.label() == label).then(|| info.serial_number().to_owned())
        });
        let serial = serial.unwrap();
        let entries = std::fs::read_dir(self.dir.join("softhsm")).unwrap();
        let mut folders = entries.map(|entry| entry.unwrap().path());
        let ends = |path: &PathBuf| path.to_string_lossy().replace('-', "").ends_with(&serial);
        folders.find(ends).unwrap()
    }

    /// The library as another part of this process would hold it. It is initialized already.
    pub fn other_handle(&self) -> Pkcs11 {
        Pkcs11::new(library(self.product)).unwrap()
    }

    pub fn slot(&self) -> Slot {
        let pkcs11 = self.other_handle();
        let slots = pkcs11.get_slots_with_token().unwrap();
        let is_ours = |slot: &Slot| pkcs11.get_token_info(*slot).unwrap().label() == LABEL;
        slots.into_iter().find(is_ours).unwrap()
    }

    pub fn other_session(&self) -> Session {
        self.other_handle().open_rw_session(self.slot()).unwrap()
    }
}

/// Whether the token is one with ML-KEM, ML-DSA and EdDSA: Kryoptic as `make pq` builds it.
pub fn has_post_quantum(product: SoftToken) -> bool {
    product == SoftToken::Kryoptic && std::env::var_os("QKM_PQ").is_some()
}

pub fn library(product: SoftToken) -> PathBuf {
    let profile = Profile::load(product.profile()).unwrap();
    // Where `scripts/setup.sh tests` puts what it builds: beside this test's own folder.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = if has_post_quantum(product) { "kryoptic-pq" } else { "kryoptic" };
    let built = target.join("tools").join(folder).join("release/libkryoptic_pkcs11.so");
    let here = (product == SoftToken::Kryoptic).then_some(&built);
    let found = here.into_iter().chain(&profile.libraries).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {product:?} library: run scripts/setup.sh tests")).clone()
}
