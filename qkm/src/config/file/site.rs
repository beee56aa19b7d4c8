//! This KM: its store, its place among others, its doors, and its host.

use std::{net::SocketAddr, path::PathBuf};

use km_core::ids::ClusterId;
use serde::Deserialize;
use toml::Spanned;
use transport::{IdentityRule, TlsFiles};

use crate::hardening::MemoryLock;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    #[serde(default)]
    pub(crate) engine: Engine,
    pub(crate) path: Option<PathBuf>,
    pub(crate) etcd: Option<Etcd>,
    #[serde(default = "token_objects")]
    pub(crate) token_objects: u64,
}

fn token_objects() -> u64 {
    200
}

/// What keeps the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    #[default]
    Embedded,
    Etcd,
}

/// An etcd that the site runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Etcd {
    pub(crate) endpoints: Vec<String>,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
    pub(crate) prefix: Option<String>,
    #[serde(default)]
    pub(crate) allow_unmaintained: bool,
}

/// This KM among those that share the store.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) listen: SocketAddr,
    pub(crate) address: String,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
    pub(crate) members: IdentityRule,
    #[serde(default)]
    pub(crate) authority: Option<String>,
    #[serde(default = "lease_ms")]
    pub(crate) lease_ms: u64,
}

fn lease_ms() -> u64 {
    1000
}

/// Where the bytes of new keys come from. Sources are mixed, and none replaces another.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Random {
    pub(crate) token: bool,
    pub(crate) qrng: Option<Spanned<Qrng>>,
}

impl Default for Random {
    fn default() -> Self {
        Self { token: true, qrng: None }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Qrng {
    pub(crate) path: PathBuf,
    pub(crate) min_entropy: f64,
    #[serde(default = "qrng_deadline_ms")]
    pub(crate) deadline_ms: u64,
}

fn qrng_deadline_ms() -> u64 {
    2000
}

/// When a new KEK epoch begins, and what its end needs.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Epochs {
    pub(crate) max_age_days: u32,
    pub(crate) max_seals: u64,
    pub(crate) reseal_per_s: u32,
    pub(crate) approval_window_s: u64,
}

impl Default for Epochs {
    fn default() -> Self {
        let policy = km_core::epoch::EpochPolicy::default();
        Self {
            max_age_days: policy.max_age.map_or(0, |age| (age.as_secs() / 86_400) as u32),
            max_seals: policy.max_seals,
            reseal_per_s: policy.reseal_per_s,
            approval_window_s: policy.approval_window.as_secs(),
        }
    }
}

/// An address to listen on with mutual TLS, and the files for it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Front {
    /// Address and port.
    pub listen: SocketAddr,
    /// Own certificate (PEM), intermediates after it.
    pub certificate: PathBuf,
    /// Its private key, mode 0600.
    pub key: PathBuf,
    /// The authorities whose certificates are let in.
    pub ca: PathBuf,
    /// Connections open at once.
    #[serde(default = "connections")]
    pub connections: usize,
}

fn connections() -> usize {
    4096
}

impl Front {
    /// The files.
    pub fn tls(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            ca: self.ca.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Monitor {
    listen: SocketAddr,
    #[serde(default)]
    allow_remote: bool,
}

impl Monitor {
    /// Where it listens, or what is wrong with that and what to do.
    pub(crate) fn checked(self) -> Result<SocketAddr, (String, &'static str)> {
        let listen = self.listen;
        match listen.ip().is_loopback() || self.allow_remote {
            true => Ok(listen),
            false => Err((
                format!("[monitor] is plain HTTP and would be open to others at {listen}"),
                "listen on 127.0.0.1, or set allow_remote = true behind a firewall",
            )),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Admin {
    pub(crate) listen: SocketAddr,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
    pub(crate) operators: Vec<IdentityRule>,
    #[serde(default)]
    pub(crate) custodians: Vec<IdentityRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Controller {
    pub(crate) addresses: Vec<String>,
    pub(crate) identity: IdentityRule,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
    #[serde(default = "report_ms")]
    pub(crate) report_ms: u64,
}

fn report_ms() -> u64 {
    1000
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Memory {
    pub(crate) lock: MemoryLock,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Debug {
    pub(crate) dumpable: bool,
}
