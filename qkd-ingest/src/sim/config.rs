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
    /// When one end is a satellite: there is light only while it passes.
    #[serde(default)]
    pub passes: Option<Passes>,
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

/// The passes of a satellite, in seconds since the simulation began.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passes {
    /// From the beginning of one to that of the next; up to a year.
    pub every_s: f64,
    /// How long each takes; less than that.
    pub for_s: f64,
    /// When the first begins.
    #[serde(default)]
    pub after_s: f64,
}

impl Passes {
    fn sound(&self) -> bool {
        let Self { every_s, for_s, after_s } = *self;
        0.0 < for_s && for_s < every_s && every_s <= 31_557_600.0 && (0.0..1e9).contains(&after_s)
    }

    /// Whether it passes `at` seconds after the beginning.
    pub(super) fn open(&self, at: f64) -> bool {
        at >= self.after_s && (at - self.after_s) % self.every_s < self.for_s
    }

    /// Seconds of light in the first `until` seconds.
    pub(super) fn lit(&self, until: f64) -> f64 {
        let passed = (until - self.after_s).max(0.0);
        (passed / self.every_s).floor() * self.for_s + (passed % self.every_s).min(self.for_s)
    }
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
            (
                self.passes.is_none_or(|passes| passes.sound()),
                "passes.for_s must be above 0 and below passes.every_s, which is up to a year",
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
