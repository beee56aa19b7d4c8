//! A second token of another product: Kryoptic, beside the SoftHSM that key managers of tests have.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use hsm_profiles::soft::{Provisioned, SoftToken, provision};

use crate::network::{program, target_dir};

/// What it is called, in its library and in configurations.
pub const STANDBY: &str = "standby";

/// An empty token.
pub struct Standby {
    /// The library of its product.
    pub library: PathBuf,
    /// Where it is.
    pub token: Provisioned,
}

impl Standby {
    /// Makes one in a new folder.
    pub fn provision(folder: &Path) -> Self {
        std::fs::create_dir(folder).expect("a directory");
        let built = target_dir().join("tools/kryoptic/release/libkryoptic_pkcs11.so");
        let library = built.canonicalize().expect("Kryoptic is built: run `make test`");
        let mut init = Command::new(program());
        init.arg("demo-token").arg("--library").arg(&library);
        let token = provision(SoftToken::Kryoptic, folder, STANDBY, init).expect("a token");
        Self { library, token }
    }

    /// It as a `member` of `[hsm]`, in TOML.
    pub fn member(&self) -> String {
        format!(
            "{{ name = {STANDBY:?}, profile = \"kryoptic\", library = {:?}, token = {{ label = \
             {STANDBY:?} }}, pin = {{ file = {:?} }}, env = {{ KRYOPTIC_CONF = {:?} }} }}",
            self.library, self.token.pin_file, self.token.conf
        )
    }

    /// `qkm hsm kek …` for it, without any key manager: exit code and words.
    pub fn kek(&self, arguments: &[&str]) -> (i32, String) {
        let mut qkm = Command::new(program());
        qkm.args(["hsm", "kek"]).args(arguments);
        qkm.args(["--token", STANDBY, "--profile", "kryoptic", "--pin-file"]);
        qkm.arg(&self.token.pin_file).arg("--library").arg(&self.library);
        let output = qkm.env("KRYOPTIC_CONF", &self.token.conf).output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }
}
