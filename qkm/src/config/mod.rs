//! The configuration of a key manager: one TOML file, checked once. Enter through [`Config::load`].
//!
//! - `file`: the tables as written. - `check`: what must fit together, giving [`Config`].
//! - `tenancy`: applications, whose objects they share and what they may do.
//! - `locate`: where in the file a mistake is. - [`EXAMPLE`]: a complete file with comments.
//!
//! Nothing downstream of [`Config`] checks again.

mod check;
mod file;
mod locate;
mod relay;
mod tenancy;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hsm_profiles::{Program, TokenConfig};
use km_core::{
    epoch::EpochPolicy,
    ids::{ClusterId, LinkId, SaeId},
    objects::Quota,
    payload::Storage,
    random::QrngConfig,
    registry::Registry,
    supply::SupplyLimits,
};
use kmip_server::policy::Policies;
use transport::{Directory, IdentityRule, TlsFiles};

use crate::{
    fault::{Code, Failure},
    hardening::MemoryLock,
};
pub(crate) use file::Monitor;
pub use file::{Front, Module};

/// A complete configuration with comments, as `qkm config example` prints it.
pub const EXAMPLE: &str = include_str!("example.toml");

/// No configuration is longer than this, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// This cluster.
    pub cluster: ClusterId,
    /// Directory of the store.
    pub store: PathBuf,
    /// What it shares with other KMs instead of that.
    pub shared: Option<Shared>,
    /// Most objects kept inside the token.
    pub token_objects: u64,
    /// The token.
    pub hsm: TokenConfig,
    /// Where random numbers come from.
    pub random: RandomSources,
    /// What runs the HSM worker processes. Not part of the file.
    pub worker: Program,
    /// When a new KEK epoch begins, and what its end needs.
    pub epochs: EpochPolicy,
    /// Bounds on what applications may ask for.
    pub limits: SupplyLimits,
    /// How long an assigned key waits to be collected.
    pub key_ttl: Duration,
    /// The ETSI GS QKD 014 front.
    pub etsi014: Option<Front>,
    /// The KMIP front.
    pub kmip: Option<Front>,
    /// The KMIP front over HTTPS, for messages in TTLV, JSON and XML.
    pub kmip_https: Option<Front>,
    /// Who may have certificates over KMIP, and from which authority.
    pub kmip_ca: Option<KmipCa>,
    /// Our side of all KM links; present when there are peers.
    pub km_link: Option<Front>,
    /// Plain HTTP for metrics and health.
    pub monitor: Option<SocketAddr>,
    /// The admin API.
    pub admin: Option<Admin>,
    /// The certificate of the `qkm` command line at the admin API.
    pub operator: Option<TlsFiles>,
    /// The controllers it reports to.
    pub controller: Option<Controller>,
    /// Whether this process uses keys where the token cannot.
    pub crypto_in_process: bool,
    /// What KMIP clients may do beyond the specification.
    pub lenience: kmip_server::Lenience,
    /// Whether memory is locked.
    pub memory_lock: MemoryLock,
    /// Leaves the process open to debuggers of the same user.
    pub dumpable: bool,
    /// The clusters we share pools with.
    pub peers: Vec<Peer>,
    /// The applications of the network.
    pub registry: Registry,
    /// The applications registered at this cluster.
    pub applications: Vec<Application>,
    /// Tenants whose managed objects are kept inside the token.
    pub kept_in_token: BTreeSet<SaeId>,
    /// Of which each new object may be kept inside the token or not, as KMIP clients ask.
    pub kept_as_asked: BTreeSet<SaeId>,
    /// What each application may do over KMIP.
    pub policies: Policies,
    /// How many managed objects tenants may have.
    pub quotas: BTreeMap<SaeId, Quota>,
}

/// Certify and Re-certify over KMIP.
#[derive(Clone, Debug)]
pub struct KmipCa {
    /// The authority.
    pub name: String,
    /// Who may have certificates.
    pub applications: BTreeSet<SaeId>,
    /// How long a certificate is valid, at most.
    pub days: u32,
}

/// An application registered at this cluster.
#[derive(Clone, Debug)]
pub struct Application {
    /// Its name.
    pub sae: SaeId,
    /// What its certificate carries.
    pub certificate: IdentityRule,
    /// Distinguished name of its certificate's issuer, where only one is taken.
    pub issuer: Option<String>,
    /// User name that its requests carry besides, if they must.
    pub login: Option<String>,
}

/// Sources of random numbers, all of which are mixed; at least one.
#[derive(Debug)]
pub struct RandomSources {
    /// The token's generator.
    pub token: bool,
    /// A quantum random number generator.
    pub qrng: Option<QrngConfig>,
}

/// The admin API.
#[derive(Debug)]
pub struct Admin {
    /// Where, and with which certificate.
    pub front: Front,
    /// Whom it lets in, to read.
    pub operators: Vec<IdentityRule>,
    /// Who may also change KEK epochs; two of them together may destroy one.
    pub custodians: Vec<IdentityRule>,
}

/// The QKDN controllers of this KM.
#[derive(Clone, Debug)]
pub struct Controller {
    /// `host:port` of each; the first that answers is followed.
    pub addresses: Vec<String>,
    /// What their certificates must carry.
    pub identity: IdentityRule,
    /// Our certificate towards them.
    pub files: TlsFiles,
    /// How often this KM reports when nothing happens.
    pub report: Duration,
}

impl Controller {
    /// The files.
    pub fn tls(&self) -> TlsFiles {
        self.files.clone()
    }
}

/// A store that several KMs share, and this KM among them.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The store.
    pub etcd: ::cluster::EtcdConfig,
    /// This KM, as the others know it.
    pub seat: ::cluster::lead::Seat,
    /// Where it answers them.
    pub desk: Front,
    /// What their certificates carry.
    pub members: IdentityRule,
    /// The authority in the HSM that makes certificates for KMs that join.
    pub authority: Option<String>,
    /// How long one that says nothing keeps the lead.
    pub lease: Duration,
}

/// Another cluster.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name.
    pub cluster: ClusterId,
    /// `host:port` of each classical channel of its KM link, and of each of its KMs, first choice first;
    /// needed at the end that dials.
    pub addresses: Vec<String>,
    /// What its KM's certificate must carry.
    pub identity: IdentityRule,
    /// Most bytes its pool holds.
    pub max_stored: u64,
    /// How its blocks are kept.
    pub storage: Storage,
    /// Our ends of the QKD links to it, first choice first; one serves at a time.
    pub qkd: Vec<QkdLink>,
    /// How relay feeds its pool, where no QKD link does.
    pub relay: Option<::relay::RelayConfig>,
    /// How its blocks are combined with ML-KEM, if they are.
    pub combine: Option<::relay::combine::Combine>,
}

/// Our end of a QKD link.
#[derive(Clone, Debug)]
pub struct QkdLink {
    /// The link.
    pub id: LinkId,
    /// Our module.
    pub module: Module,
}

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = read(path)?;
        Self::parse(&text, &path.display())
    }

    /// Checks `text`; errors call it `origin`.
    pub fn parse(text: &str, origin: &dyn fmt::Display) -> Result<Self, Failure> {
        let file: file::File = parse_toml(text, origin)?;
        check::check(file).map_err(|mistake| mistake.locate(text, origin))
    }

    /// Certificates of applications, as the KMIP fronts look them up.
    pub fn directory(&self) -> Directory<SaeId> {
        directory(self.applications.iter())
    }

    /// The same of those whose certificate alone says who they are: fronts that cannot carry a
    /// login let nobody else in.
    pub fn directory_without_logins(&self) -> Directory<SaeId> {
        directory(self.applications.iter().filter(|application| application.login.is_none()))
    }

    /// Who counts the generations of the store in the token: the cluster, or its KM where several share
    /// the store.
    pub fn keeper_of_generations(&self) -> String {
        match &self.shared {
            Some(shared) => format!("{}.{}", self.cluster, shared.seat.node),
            None => self.cluster.to_string(),
        }
    }

    /// The file of the embedded store; for people, where the records are when several KMs share them.
    pub fn store_file(&self) -> PathBuf {
        match &self.shared {
            Some(shared) => format!("etcd:{}", shared.etcd.prefix).into(),
            None => self.store.join("store.qkm"),
        }
    }
}

fn directory<'a>(applications: impl Iterator<Item = &'a Application>) -> Directory<SaeId> {
    let mut directory = Directory::default();
    for Application { sae, certificate, issuer, .. } in applications {
        match issuer {
            Some(issuer) => {
                directory.add_issued_by(issuer.clone(), certificate.clone(), sae.clone());
            }
            None => directory.add(certificate.clone(), sae.clone()),
        }
    }
    directory
}

/// Reads a configuration file of bounded length.
pub fn read(path: &Path) -> Result<String, Failure> {
    let fail = |what: String| {
        Failure::new(
            Code::C001,
            format!("cannot read the configuration {}: {what}", path.display()),
        )
        .help("check the path after --config; `qkm config example` prints a complete file")
    };
    let length = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
    if length > MAX_BYTES {
        return Err(fail(format!("{length} bytes is too long for a configuration")));
    }
    std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))
}

/// Parses TOML; a mistake is shown with its line and column.
pub fn parse_toml<T: serde::de::DeserializeOwned>(
    text: &str,
    origin: &dyn fmt::Display,
) -> Result<T, Failure> {
    toml::from_str(text).map_err(|error| {
        let failure = Failure::new(Code::C002, error.message().trim())
            .help("correct that line; `qkm config example` shows every entry");
        match error.span() {
            Some(span) => failure.at(locate::place(text, span.start, origin)),
            None => failure,
        }
    })
}
