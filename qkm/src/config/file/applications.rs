//! Applications: what they may have, and how it is kept.

use std::num::NonZeroU32;

use km_core::{
    ids::{ClusterId, SaeId},
    provenance::Grade,
};
use serde::Deserialize;
use transport::IdentityRule;

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Supply {
    pub(crate) key_size: u32,
    pub(crate) min_key_size: u32,
    pub(crate) max_key_size: u32,
    pub(crate) max_keys_per_request: u32,
    pub(crate) key_ttl_s: u64,
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

/// Certify and Re-certify over KMIP.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KmipCa {
    /// The authority, as `qkm ca make` called it.
    pub(crate) name: String,
    /// Who may have certificates, of any name they ask for.
    pub(crate) applications: Vec<SaeId>,
    #[serde(default = "certificate_days")]
    pub(crate) days: u32,
}

fn certificate_days() -> u32 {
    365
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Objects {
    pub(crate) crypto_in_process: bool,
    pub(crate) shared_names: bool,
    pub(crate) early_derivation: bool,
}

impl Default for Objects {
    fn default() -> Self {
        Self { crypto_in_process: true, shared_names: false, early_derivation: false }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sae {
    pub(crate) id: SaeId,
    pub(crate) clusters: Vec<ClusterId>,
    pub(crate) certificate: Option<IdentityRule>,
    /// Distinguished name of the authority that must have issued it.
    pub(crate) issuer: Option<String>,
    /// What its requests must carry besides.
    pub(crate) login: Option<Login>,
    /// Whose managed objects it works with.
    pub(crate) tenant: Option<SaeId>,
    /// Where its managed objects are kept.
    #[serde(default)]
    pub(crate) storage: ObjectStorage,
    /// KMIP operations it may ask for; absent: all.
    pub(crate) operations: Option<Vec<String>>,
    pub(crate) operations_per_s: Option<NonZeroU32>,
    pub(crate) connections: Option<NonZeroU32>,
    /// Where it is told over KMIP of changes it did not make itself.
    pub(crate) notify: Option<Notify>,
}

/// How an application is told (Notify, Put).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Notify {
    /// `host:port` of a server of its own; none tells it over its connections alone.
    pub(crate) address: Option<String>,
    /// Of KMIP.
    pub(crate) version: Option<String>,
    #[serde(default)]
    pub(crate) put: Put,
}

/// Which objects an application is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Put {
    #[default]
    Nothing,
    Successors,
    All,
}

/// A user name and the slow hash of its password.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// Applications that share their managed objects, and how much these may be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tenant {
    pub(crate) id: SaeId,
    pub(crate) max_objects: Option<u64>,
    pub(crate) max_mib: Option<u64>,
}

/// How new managed objects of an application are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ObjectStorage {
    #[default]
    Sealed,
    Token,
    Either,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pair {
    pub(crate) saes: [SaeId; 2],
    /// The least their keys must claim.
    #[serde(default)]
    pub(crate) grade: Option<Grade>,
}
