//! The PKCS#11 library that fails on command (`tests/p11-shim`), built and told what to do. Not a
//! crate: tests of several crates include it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

/// Builds the library from this checkout.
pub(crate) fn library() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "-p", "qkm-p11-shim"])
        .current_dir(&root)
        .status()
        .unwrap();
    assert!(built.success(), "the shim does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    target.join("debug/libqkm_p11_shim.so").canonicalize().unwrap()
}

/// The orders for one token's library.
pub(crate) struct Shim {
    control: PathBuf,
}

impl Shim {
    pub(crate) fn new(control: PathBuf) -> Self {
        Self { control }
    }

    /// What the process that loads the library needs in its environment.
    pub(crate) fn env(&self, real: &Path) -> BTreeMap<String, String> {
        let entry = |name: &str, path: &Path| (name.to_owned(), path.display().to_string());
        [entry("QKM_SHIM_LIBRARY", real), entry("QKM_SHIM_CONTROL", &self.control)].into()
    }

    /// From now on these lines hold; see `tests/p11-shim/src/control.rs`.
    pub(crate) fn order(&self, lines: &[String]) {
        // In one step: the library reads the file at any time.
        let next = self.control.with_extension("next");
        std::fs::write(&next, lines.join("\n")).unwrap();
        std::fs::rename(next, &self.control).unwrap();
    }

    /// All calls go through again.
    pub(crate) fn lift(&self) {
        std::fs::remove_file(&self.control).unwrap();
    }

    /// Every function that was ever called.
    pub(crate) fn called(&self) -> BTreeSet<String> {
        let mut path = self.control.clone().into_os_string();
        path.push(".called");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}
