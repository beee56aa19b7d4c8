//! The tables of the configuration file as written, before they are checked against each other.

mod applications;
mod network;
mod site;

use hsm_profiles::TokenConfig;
use serde::Deserialize;
use toml::Spanned;
use transport::TlsFiles;

pub(super) use applications::{
    KmipCa, Login, Notify, ObjectStorage, Objects, Pair, Put, Sae, Supply, Tenant,
};
pub use network::Module;
pub(super) use network::{Combining, Kem, Peer, QkdLink, Relay, Scheme, Storage};
pub use site::Front;
pub(crate) use site::Monitor;
pub(super) use site::{
    Admin, Cluster, Controller, Debug, Engine, Epochs, Memory, Node, Qrng, Random, Store,
};

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
