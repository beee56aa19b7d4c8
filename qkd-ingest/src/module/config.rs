//! What an operator says about one module. [`ModuleConfig::check`] runs before anything connects.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use transport::{ConnectError, IdentityRule};

use super::limits::MAX_KEY_BITS;

/// One QKD module of ours, as its vendor set it up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleConfig {
    /// `host:port` of its ETSI GS QKD 014 server.
    pub address: String,
    /// Name its certificate carries; the host of `address` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// SAE ID under which the module knows this KM.
    pub sae: String,
    /// SAE ID under which it knows the KM at the other end of the link.
    pub peer_sae: String,
    /// What its certificate must show besides an issuer we trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityRule>,
    /// Bits of each key asked for, 8 to 524,280, brought within the module's limits and down to a
    /// multiple of 8. Absent: as large as the module makes them, up to 65,536. Larger sizes must
    /// be set at both ends of the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_size_bits: Option<u32>,
    /// Time for one request, connecting included, in milliseconds, 100 to 120,000.
    #[serde(default = "ten_seconds")]
    pub request_timeout_ms: u64,
    /// Path of a JSON resource with `state`, `key_rate_bps` and `qber`, if the module has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_path: Option<String>,
    /// Milliseconds between two reads of `status_path`, 100 to 3,600,000.
    #[serde(default = "ten_seconds")]
    pub status_interval_ms: u64,
}

fn ten_seconds() -> u64 {
    10_000
}

/// Why a module cannot be used as configured. All need a person.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value is outside its range.
    #[error("QKD module {address:?}: {problem}")]
    Value {
        /// The module's address.
        address: String,
        /// Which value, and what it may be.
        problem: &'static str,
    },
    /// The address or the server name is malformed.
    #[error("QKD module: {0}")]
    Address(#[from] ConnectError),
}

impl ModuleConfig {
    /// With defaults for everything that may be absent.
    pub fn new(
        address: impl Into<String>,
        sae: impl Into<String>,
        peer_sae: impl Into<String>,
    ) -> Self {
        Self {
            address: address.into(),
            server_name: None,
            sae: sae.into(),
            peer_sae: peer_sae.into(),
            identity: None,
            key_size_bits: None,
            request_timeout_ms: ten_seconds(),
            status_path: None,
            status_interval_ms: ten_seconds(),
        }
    }

    /// Refuses values outside their ranges, by name.
    pub fn check(&self) -> Result<(), ConfigError> {
        let sae = |id: &str| {
            (1..=etsi014::MAX_SAE_ID).contains(&id.len()) && !id.chars().any(char::is_control)
        };
        let rules = [
            (sae(&self.sae), "sae must have 1 to 256 bytes and no control characters"),
            (sae(&self.peer_sae), "peer_sae must have 1 to 256 bytes and no control characters"),
            (self.sae != self.peer_sae, "sae and peer_sae must differ"),
            (
                self.key_size_bits.is_none_or(|bits| (8..=MAX_KEY_BITS).contains(&bits.into())),
                "key_size_bits must be from 8 to 524280",
            ),
            (
                (100..=120_000).contains(&self.request_timeout_ms),
                "request_timeout_ms must be from 100 to 120000",
            ),
            (
                (100..=3_600_000).contains(&self.status_interval_ms),
                "status_interval_ms must be 100 to 3600000",
            ),
            (
                self.status_path.as_ref().is_none_or(|path| path.starts_with('/')),
                "status_path must start with '/'",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, problem)) => {
                Err(ConfigError::Value { address: self.address.clone(), problem })
            }
            None => Ok(()),
        }
    }

    pub(super) fn request_time(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}
