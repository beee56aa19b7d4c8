//! The tables of the configuration file as written, before they are checked against each other.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

use hsm_profiles::TokenConfig;
use km_core::{
    ids::{ClusterId, LinkId, SaeId},
    provenance::{CombineMethod, Grade},
    route::CipherPolicy,
};
use serde::Deserialize;
use toml::Spanned;
use transport::{IdentityRule, TlsFiles};

use crate::hardening::MemoryLock;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) cluster: Cluster,
    pub(super) store: Spanned<Store>,
    pub(super) node: Option<Spanned<Node>>,
    pub(super) hsm: TokenConfig,
    #[serde(default)]
    pub(super) random: Random,
    pub(super) epochs: Option<Spanned<Epochs>>,
    pub(super) supply: Option<Spanned<Supply>>,
    pub(super) etsi014: Option<Front>,
    pub(super) kmip: Option<Front>,
    pub(super) kmip_https: Option<Front>,
    pub(super) kmip_ca: Option<Spanned<KmipCa>>,
    pub(super) km_link: Option<Front>,
    pub(super) monitor: Option<Spanned<Monitor>>,
    pub(super) admin: Option<Spanned<Admin>>,
    pub(super) operator: Option<TlsFiles>,
    pub(super) controller: Option<Spanned<Controller>>,
    #[serde(default)]
    pub(super) objects: Objects,
    #[serde(default)]
    pub(super) memory: Memory,
    #[serde(default)]
    pub(super) debug: Debug,
    #[serde(default)]
    pub(super) peer: Vec<Spanned<Peer>>,
    #[serde(default)]
    pub(super) qkd_link: Vec<Spanned<QkdLink>>,
    #[serde(default)]
    pub(super) relay: Vec<Spanned<Relay>>,
    #[serde(default)]
    pub(super) sae: Vec<Spanned<Sae>>,
    #[serde(default)]
    pub(super) pair: Vec<Spanned<Pair>>,
    #[serde(default)]
    pub(super) tenant: Vec<Spanned<Tenant>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    pub(super) id: ClusterId,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Store {
    #[serde(default)]
    pub(super) engine: Engine,
    pub(super) path: Option<PathBuf>,
    pub(super) etcd: Option<Etcd>,
    #[serde(default = "token_objects")]
    pub(super) token_objects: u64,
}

fn token_objects() -> u64 {
    200
}

/// What keeps the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Engine {
    #[default]
    Embedded,
    Etcd,
}

/// An etcd that the site runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Etcd {
    pub(super) endpoints: Vec<String>,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: PathBuf,
    pub(super) prefix: Option<String>,
    #[serde(default)]
    pub(super) allow_unmaintained: bool,
}

/// This KM among those that share the store.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) listen: SocketAddr,
    pub(super) address: String,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: PathBuf,
    pub(super) members: IdentityRule,
    #[serde(default)]
    pub(super) authority: Option<String>,
    #[serde(default = "lease_ms")]
    pub(super) lease_ms: u64,
}

fn lease_ms() -> u64 {
    1000
}

/// How the blocks of a pool are kept.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Storage {
    #[default]
    Blocks,
    Each,
    Token,
}

/// Where the bytes of new keys come from. Sources are mixed, and none replaces another.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Random {
    pub(super) token: bool,
    pub(super) qrng: Option<Spanned<Qrng>>,
}

impl Default for Random {
    fn default() -> Self {
        Self { token: true, qrng: None }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Qrng {
    pub(super) path: PathBuf,
    pub(super) min_entropy: f64,
    #[serde(default = "qrng_deadline_ms")]
    pub(super) deadline_ms: u64,
}

fn qrng_deadline_ms() -> u64 {
    2000
}

/// When a new KEK epoch begins, and what its end needs.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Epochs {
    pub(super) max_age_days: u32,
    pub(super) max_seals: u64,
    pub(super) reseal_per_s: u32,
    pub(super) approval_window_s: u64,
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

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Supply {
    pub(super) key_size: u32,
    pub(super) min_key_size: u32,
    pub(super) max_key_size: u32,
    pub(super) max_keys_per_request: u32,
    pub(super) key_ttl_s: u64,
}

impl Default for Supply {
    fn default() -> Self {
        let limits = km_core::supply::SupplyLimits::default();
        Self {
            key_size: limits.key_size,
            min_key_size: limits.min_key_size,
            max_key_size: limits.max_key_size,
            max_keys_per_request: limits.max_keys,
            key_ttl_s: 86_400,
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

/// Certify and Re-certify over KMIP.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KmipCa {
    /// The authority, as `qkm ca make` called it.
    pub(super) name: String,
    /// Who may have certificates, of any name they ask for.
    pub(super) applications: Vec<SaeId>,
    #[serde(default = "certificate_days")]
    pub(super) days: u32,
}

fn certificate_days() -> u32 {
    365
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
pub(super) struct Admin {
    pub(super) listen: SocketAddr,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: PathBuf,
    pub(super) operators: Vec<IdentityRule>,
    #[serde(default)]
    pub(super) custodians: Vec<IdentityRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Controller {
    pub(super) addresses: Vec<String>,
    pub(super) identity: IdentityRule,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: PathBuf,
    #[serde(default = "report_ms")]
    pub(super) report_ms: u64,
}

fn report_ms() -> u64 {
    1000
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Objects {
    pub(super) crypto_in_process: bool,
    pub(super) shared_names: bool,
    pub(super) early_derivation: bool,
}

impl Default for Objects {
    fn default() -> Self {
        Self { crypto_in_process: true, shared_names: false, early_derivation: false }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Memory {
    pub(super) lock: MemoryLock,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Debug {
    pub(super) dumpable: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    pub(super) cluster: ClusterId,
    #[serde(default)]
    pub(super) address: Addresses,
    pub(super) identity: IdentityRule,
    #[serde(default = "max_stored_mib")]
    pub(super) max_stored_mib: u64,
    #[serde(default)]
    pub(super) storage: Storage,
    #[serde(default)]
    pub(super) combine: Combining,
    #[serde(default = "combine_method")]
    pub(super) combine_method: CombineMethod,
    #[serde(default)]
    pub(super) kem: Kem,
}

/// `host:port`, or one for each KM of the cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Addresses {
    One(String),
    Many(Vec<String>),
}

impl Default for Addresses {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Addresses {
    pub(super) fn list(&self) -> Vec<String> {
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
pub(super) enum Combining {
    #[default]
    Off,
    Optional,
    Required,
}

/// With which ML-KEM.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) enum Kem {
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
pub(super) struct QkdLink {
    pub(super) id: LinkId,
    pub(super) peer: ClusterId,
    pub(super) module: Module,
}

/// How the pool with a cluster without a QKD link to us is fed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Relay {
    pub(super) to: ClusterId,
    /// The clusters between; absent: as the controller says.
    pub(super) via: Option<Vec<ClusterId>>,
    #[serde(default)]
    pub(super) cipher: CipherPolicy,
    #[serde(default)]
    pub(super) scheme: Scheme,
    #[serde(default)]
    pub(super) mode: km_core::feeding::Kind,
    #[serde(default = "low_kib")]
    pub(super) low_kib: u64,
    #[serde(default = "high_kib")]
    pub(super) high_kib: u64,
    pub(super) rate_bps: Option<u64>,
    #[serde(default = "horizon_s")]
    pub(super) horizon_s: u64,
    #[serde(default)]
    pub(super) windows: Vec<String>,
    #[serde(default = "ways")]
    pub(super) ways: usize,
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
pub(super) enum Scheme {
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sae {
    pub(super) id: SaeId,
    pub(super) clusters: Vec<ClusterId>,
    pub(super) certificate: Option<IdentityRule>,
    /// Distinguished name of the authority that must have issued it.
    pub(super) issuer: Option<String>,
    /// What its requests must carry besides.
    pub(super) login: Option<Login>,
    /// Whose managed objects it works with.
    pub(super) tenant: Option<SaeId>,
    /// Where its managed objects are kept.
    #[serde(default)]
    pub(super) storage: ObjectStorage,
    /// KMIP operations it may ask for; absent: all.
    pub(super) operations: Option<Vec<String>>,
    pub(super) operations_per_s: Option<NonZeroU32>,
    pub(super) connections: Option<NonZeroU32>,
    /// Where it is told over KMIP of changes it did not make itself.
    pub(super) notify: Option<Notify>,
}

/// How an application is told (Notify, Put).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Notify {
    /// `host:port` of a server of its own; none tells it over its connections alone.
    pub(super) address: Option<String>,
    /// Of KMIP.
    pub(super) version: Option<String>,
    #[serde(default)]
    pub(super) put: Put,
}

/// Which objects an application is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Put {
    #[default]
    Nothing,
    Successors,
    All,
}

/// A user name and the slow hash of its password.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    pub(super) username: String,
    pub(super) password: String,
}

/// Applications that share their managed objects, and how much these may be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tenant {
    pub(super) id: SaeId,
    pub(super) max_objects: Option<u64>,
    pub(super) max_mib: Option<u64>,
}

/// How new managed objects of an application are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ObjectStorage {
    #[default]
    Sealed,
    Token,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pair {
    pub(super) saes: [SaeId; 2],
    /// The least their keys must claim.
    #[serde(default)]
    pub(super) grade: Option<Grade>,
}
