//! Configuration of a simulated link. Every table refuses unknown keys.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use transport::{IdentityRule, TlsFiles};

use super::{SimError, physics::LinkModel};

/// Two modules and the link between them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimConfig {
    /// One end.
    pub a: ModuleConfig,
    /// The other end.
    pub b: ModuleConfig,
    /// The physics; the default is 25 km of fibre.
    #[serde(default)]
    pub link: LinkModel,
    /// Replaces the rate that follows from the physics. Cut and eavesdropper still stop it.
    #[serde(default)]
    pub rate_override: Option<RateOverride>,
    /// Sizes and counts of keys.
    #[serde(default)]
    pub keys: KeyLimits,
    /// Who may switch faults; nobody when empty.
    #[serde(default)]
    pub admins: Vec<IdentityRule>,
}

/// One module, as its KM sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleConfig {
    /// The module's own name (KME ID in its answers).
    pub kme_id: String,
    /// Where it listens. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Its certificate, key, and the CA of its clients.
    pub tls: TlsFiles,
    /// SAE ID under which this end's KM is known.
    pub sae_id: String,
    /// Certificates let in as that KM.
    pub clients: Vec<IdentityRule>,
}

/// A fixed key rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RateOverride {
    /// `"max"`: keys are made on demand, as fast as the machine can.
    Max(Max),
    /// Bits per second.
    BitsPerSecond(f64),
}

/// The word `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Max {
    /// As fast as the machine can.
    Max,
}

/// Sizes in bits, counts in keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyLimits {
    /// Size of a key when none is asked for; a multiple of 8.
    pub size: u64,
    /// Smallest size; a multiple of 8, at least 8.
    pub min_size: u64,
    /// Largest size; a multiple of 8.
    pub max_size: u64,
    /// Most keys of one request, at most 65,536.
    pub max_per_request: u64,
    /// Most bits of one request, all keys together.
    pub max_request_bits: u64,
    /// What a module's buffer holds; beyond it the oldest bits are dropped.
    pub buffer_bits: u64,
}

impl Default for KeyLimits {
    fn default() -> Self {
        Self {
            size: 256,
            min_size: 64,
            max_size: 524_288,
            max_per_request: 4096,
            max_request_bits: 64 << 20,
            buffer_bits: 512 << 20,
        }
    }
}

/// Largest buffer: 2 GiB of key bits.
const MAX_BUFFER_BITS: u64 = 16 << 30;

impl SimConfig {
    /// Refuses values that contradict each other, by name.
    pub fn check(&self) -> Result<(), SimError> {
        let keys = &self.keys;
        let sizes = [keys.size, keys.min_size, keys.max_size];
        let rules = [
            (sizes.iter().all(|s| s % 8 == 0 && *s > 0), "key sizes must be multiples of 8"),
            (
                keys.min_size <= keys.size && keys.size <= keys.max_size,
                "keys.size must lie between keys.min_size and keys.max_size",
            ),
            (
                (1..=etsi014::MAX_KEYS as u64).contains(&keys.max_per_request),
                "keys.max_per_request must be from 1 to 65536",
            ),
            (
                keys.max_size <= keys.max_request_bits && keys.max_request_bits <= keys.buffer_bits,
                "keys.max_size, max_request_bits and buffer_bits must not decrease in this order",
            ),
            (keys.buffer_bits <= MAX_BUFFER_BITS, "keys.buffer_bits is above 2 GiB"),
            (self.a.sae_id != self.b.sae_id, "a.sae_id and b.sae_id must differ"),
            (
                !self.a.clients.is_empty() && !self.b.clients.is_empty(),
                "a.clients and b.clients must name the KM's certificate, or nobody gets in",
            ),
            (self.rate_is_a_rate(), "rate_override must be \"max\" or bits per second, 0 or more"),
        ];
        let broken = rules.iter().find(|(holds, _)| !holds).map(|(_, text)| *text);
        match broken.or(self.link.check().err()) {
            Some(text) => Err(SimError::Config(text)),
            None => Ok(()),
        }
    }

    fn rate_is_a_rate(&self) -> bool {
        match self.rate_override {
            Some(RateOverride::BitsPerSecond(rate)) => rate.is_finite() && rate >= 0.0,
            Some(RateOverride::Max(_)) | None => true,
        }
    }
}
