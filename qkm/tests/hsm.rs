//! `qkm hsm list`, `test`, `login` and `profile` on tokens of both software products.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "../../testkit/p11_shim.rs"]
#[allow(dead_code, unreachable_pub)]
mod p11_shim;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{program, qkm, text};
use hsm_profiles::soft::{Provisioned, SoftToken, provision};
use serde_json::Value;
use tempfile::TempDir;

struct Room {
    product: SoftToken,
    made: Provisioned,
    library: PathBuf,
    _dir: TempDir,
}

impl Room {
    fn new(product: SoftToken) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let library = library(product);
        let mut child = Command::new(program());
        child.arg("demo-token").arg("--library").arg(&library);
        let made = provision(product, dir.path(), "north", child).unwrap();
        Self { product, made, library, _dir: dir }
    }

    /// `qkm hsm` with `arguments` and the token's library.
    fn hsm(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.arg("hsm").args(arguments).arg("--library").arg(&self.library);
        command.env(self.product.conf_variable(), &self.made.conf).output().unwrap()
    }

    fn hsm_with_pin(&self, arguments: &[&str], pin_file: &Path) -> Output {
        let pin = pin_file.to_str().unwrap();
        self.hsm(&[arguments, &["--token", "north", "--pin-file", pin]].concat())
    }
}

fn library(product: SoftToken) -> PathBuf {
    let profile = hsm_profiles::Profile::load(product.profile()).unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let built = target.join("tools/kryoptic/release/libkryoptic_pkcs11.so");
    let here = (product == SoftToken::Kryoptic).then_some(built);
    let found = here.into_iter().chain(profile.libraries).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {product:?} library: run scripts/setup.sh tests"))
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn passes(product: SoftToken) {
    let room = Room::new(product);
    let pin = &room.made.pin_file;
    let output = room.hsm_with_pin(&["test", "--seconds", "0.02", "-o", "json"], pin);
    let found = json(&output);
    assert_eq!(found["profile"], product.profile());
    let checks = found["checks"].as_array().unwrap();
    assert!(checks.len() >= 9 && checks.iter().all(|c| c["fault"].is_null()), "{checks:#?}");
    let custody = |function: &str| {
        let abilities = found["abilities"].as_array().unwrap();
        let begins = |a: &&Value| a["function"].as_str().unwrap().starts_with(function);
        abilities.iter().find(begins).unwrap()["custody"].clone()
    };
    assert_eq!(custody("seal and open a block"), "in-token");
    assert_eq!(custody("import"), "host-transient");
    assert_eq!(custody("key encapsulation"), Value::Null);
    assert!(
        found["speeds"].as_array().unwrap().iter().all(|s| s["per_second"].as_f64() > Some(1.))
    );
    let shown = room.hsm_with_pin(&["test", "--seconds", "0"], pin);
    let said = text(&shown.stdout);
    assert!(shown.status.success(), "{shown:?}");
    for wanted in ["fits", "tested: Version", "CHECK", "in token", "host, transient"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert!(!said.contains("PER SECOND") && !said.contains("FAILED"), "{said}");
    let pin = std::fs::read_to_string(pin).unwrap();
    assert!(!said.contains(pin.trim()) && !text(&output.stdout).contains(pin.trim()));
}

#[test]
fn softhsm_passes_the_test() {
    passes(SoftToken::SoftHsm);
}

#[test]
fn kryoptic_passes_the_test() {
    passes(SoftToken::Kryoptic);
}

#[test]
fn a_profile_that_does_not_fit_ends_in_failure() {
    let room = Room::new(SoftToken::SoftHsm);
    let (_, text_of) = hsm_profiles::BUILT_IN.iter().find(|(name, _)| *name == "softhsm2").unwrap();
    let strict = room.made.pin_file.with_extension("toml");
    std::fs::write(&strict, text_of.replace(", \"CKR_GENERAL_ERROR\"]", "]")).unwrap();
    let arguments = ["test", "--seconds", "0", "--profile", strict.to_str().unwrap()];
    let output = room.hsm_with_pin(&arguments, &room.made.pin_file);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.contains("profile softhsm2 DOES NOT FIT") && said.contains("FAILED: "), "{said}");
}

#[test]
fn tokens_are_listed_and_logged_in_to_once() {
    let room = Room::new(SoftToken::SoftHsm);
    let tokens = json(&room.hsm(&["list", "-o", "json"]));
    assert_eq!((&tokens[0]["label"], &tokens[0]["profile"]), (&"north".into(), &"softhsm2".into()));
    let said = text(&room.hsm(&["list"]).stdout);
    assert!(said.starts_with("LABEL") && said.contains("north"), "{said}");

    let wrong = room.made.pin_file.with_extension("wrong");
    std::fs::copy(&room.made.pin_file, &wrong).unwrap();
    std::fs::write(&wrong, "0000").unwrap();
    let refused = room.hsm_with_pin(&["login"], &wrong);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = text(&refused.stderr);
    assert!(said.contains("QKM-H001") && said.contains("does not try a second time"), "{said}");
    assert_eq!(json(&room.hsm(&["list", "-o", "json"]))[0]["pin"], "wrong ones were tried");

    let found = room.hsm_with_pin(&["login"], &room.made.pin_file);
    let said = text(&found.stdout);
    assert!(found.status.success() && said.contains("the PIN is right"), "{found:?}");
    assert!(said.contains("profile softhsm2; no KEK of this key manager"), "{said}");
}

/// As a key manager is configured: profile, token and the library's own environment from the file.
#[test]
fn a_configuration_says_which_token() {
    let network = common::Network::provisioned();
    let site = &network.layout.north;
    let config = site.config.to_str().unwrap();
    let variable = SoftToken::SoftHsm.conf_variable();
    let text_of = std::fs::read_to_string(config).unwrap();
    let env = format!("[hsm]\nenv = {{ {variable} = {:?} }}\n", site.softhsm_conf);
    std::fs::write(config, text_of.replace("[hsm]\n", &env)).unwrap();
    let output = qkm(&["hsm", "login", "--config", config, "-o", "json"]);
    assert_eq!(json(&output)["token"]["label"], site.token.as_str());
}

/// Each with its own environment, library and PIN, and none takes another along.
#[test]
fn every_token_of_a_configuration_is_tried_in_a_process_of_its_own() {
    let network = common::Network::provisioned();
    let (site, other) = (&network.layout.north, &network.layout.south);
    let config = site.config.to_str().unwrap();
    let variable = SoftToken::SoftHsm.conf_variable();
    let crash = p11_shim::Shim::new(network.layout.dir.join("orders"));
    crash.order(&["C_Login 1 abort".to_owned()]);
    let softhsm = library(SoftToken::SoftHsm);
    let mut crash_env = crash.env(&softhsm);
    crash_env.insert(variable.to_owned(), site.softhsm_conf.display().to_string());
    let table = |env: &std::collections::BTreeMap<String, String>| {
        env.iter().map(|(k, v)| format!("{k} = {v:?}")).collect::<Vec<_>>().join(", ")
    };
    let members = format!(
        "[hsm]\nenv = {{ {variable} = {:?} }}\nmember = [\
         {{ name = \"crashes\", library = {:?}, env = {{ {} }} }},\
         {{ name = \"far\", token = {{ label = {:?} }}, pin = {{ file = {:?} }}, \
         env = {{ {variable} = {:?} }} }}]\n",
        site.softhsm_conf,
        p11_shim::library(),
        table(&crash_env),
        other.token,
        other.pin_file,
        other.softhsm_conf,
    );
    let text_of = std::fs::read_to_string(config).unwrap();
    std::fs::write(config, text_of.replace("[hsm]\n", &members)).unwrap();
    let output = qkm(&["hsm", "login", "--config", config, "-o", "json"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("token crashes took its process along: signal: 6"), "{said}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let labels: Vec<&Value> =
        found.as_array().unwrap().iter().map(|one| &one["token"]["label"]).collect();
    assert_eq!(labels, [site.token.as_str(), other.token.as_str()]);
    let one = ["hsm", "test", "--seconds", "0", "--member", "far", "--config", config];
    let output = qkm(&one);
    let said = text(&output.stdout);
    assert!(
        output.status.success() && said.contains(&format!("token {:?}", other.token)),
        "{said}"
    );
    let none = qkm(&["hsm", "login", "--member", "near", "--config", config]);
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none.stderr).contains("crashes, far"), "{none:?}");
}

#[test]
fn profiles_say_what_was_tested() {
    let listed = text(&qkm(&["hsm", "profile"]).stdout);
    for name in ["softhsm2", "kryoptic", "utimaco", "luna", "nshield", "cloudhsm", "yubihsm2"] {
        assert!(listed.contains(name), "{name}: {listed}");
    }
    assert!(listed.contains("Not tested here"), "{listed}");
    let printed = qkm(&["hsm", "profile", "cloudhsm"]);
    assert!(text(&printed.stdout).contains("iv = \"writeback\""), "{printed:?}");
    let unknown = qkm(&["hsm", "profile", "lunar"]);
    assert!(text(&unknown.stderr).contains("smartcard-hsm"), "{unknown:?}");
}
