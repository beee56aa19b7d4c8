//! Other clusters: links, QKD modules and relays to them.

use std::path::PathBuf;

use km_core::{
    ids::{ClusterId, LinkId},
    provenance::CombineMethod,
    route::CipherPolicy,
};
use serde::Deserialize;
use transport::{IdentityRule, TlsFiles};

/// How the blocks of a pool are kept.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Storage {
    #[default]
    Blocks,
    Each,
    Token,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peer {
    pub(crate) cluster: ClusterId,
    #[serde(default)]
    pub(crate) address: Addresses,
    pub(crate) identity: IdentityRule,
    #[serde(default = "max_stored_mib")]
    pub(crate) max_stored_mib: u64,
    #[serde(default)]
    pub(crate) storage: Storage,
    #[serde(default)]
    pub(crate) combine: Combining,
    #[serde(default = "combine_method")]
    pub(crate) combine_method: CombineMethod,
    #[serde(default)]
    pub(crate) kem: Kem,
}

/// `host:port`, or one for each KM of the cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Addresses {
    One(String),
    Many(Vec<String>),
}

impl Default for Addresses {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Addresses {
    pub(crate) fn list(&self) -> Vec<String> {
        match self {
            Self::One(address) => vec![address.clone()],
            Self::Many(addresses) => addresses.clone(),
        }
    }
}

fn combine_method() -> CombineMethod {
    CombineMethod::Xor
}

/// Whether keys are combined with ML-KEM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Combining {
    #[default]
    Off,
    Optional,
    Required,
}

/// With which ML-KEM.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) enum Kem {
    #[default]
    #[serde(rename = "ml-kem-768")]
    MlKem768,
    #[serde(rename = "ml-kem-1024")]
    MlKem1024,
}

fn max_stored_mib() -> u64 {
    512
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QkdLink {
    pub(crate) id: LinkId,
    pub(crate) peer: ClusterId,
    pub(crate) module: Module,
}

/// How the pool with a cluster without a QKD link to us is fed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Relay {
    pub(crate) to: ClusterId,
    /// The clusters between; absent: as the controller says.
    pub(crate) via: Option<Vec<ClusterId>>,
    #[serde(default)]
    pub(crate) cipher: CipherPolicy,
    #[serde(default)]
    pub(crate) scheme: Scheme,
    #[serde(default)]
    pub(crate) mode: km_core::feeding::Kind,
    #[serde(default = "low_kib")]
    pub(crate) low_kib: u64,
    #[serde(default = "high_kib")]
    pub(crate) high_kib: u64,
    pub(crate) rate_bps: Option<u64>,
    #[serde(default = "horizon_s")]
    pub(crate) horizon_s: u64,
    #[serde(default)]
    pub(crate) windows: Vec<String>,
    #[serde(default = "ways")]
    pub(crate) ways: usize,
}

fn ways() -> usize {
    1
}

fn low_kib() -> u64 {
    256
}

fn high_kib() -> u64 {
    1024
}

fn horizon_s() -> u64 {
    60
}

/// Where relayed bits are born.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scheme {
    #[default]
    FirstKey,
    Random,
    Supplied,
}

/// Our QKD module of a link, reached by ETSI GS QKD 014.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// `host:port`.
    pub address: String,
    /// Our certificate towards the module.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority of the module's certificate.
    pub ca: PathBuf,
    /// Name the module's certificate carries; absent: the host of `address`.
    pub server_name: Option<String>,
    /// What the certificate must carry beside that.
    pub identity: Option<IdentityRule>,
    /// Our SAE ID at the module.
    pub sae: String,
    /// SAE ID of the KM at the other end of the link.
    pub peer_sae: String,
    /// Size of the keys asked for, in bits; absent: as large as the module makes them.
    pub key_size_bits: Option<u32>,
    /// Path of a JSON resource with the link's state, rate and QBER, if the module has one.
    pub status_path: Option<String>,
    /// How often it is read, in milliseconds.
    #[serde(default = "status_interval_ms")]
    pub status_interval_ms: u64,
}

fn status_interval_ms() -> u64 {
    10_000
}

impl Module {
    /// The files.
    pub fn tls(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            ca: self.ca.clone(),
        }
    }
}
