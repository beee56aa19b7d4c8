//! Thresholds of the controller.

use serde::{Deserialize, Serialize};

/// When the controller acts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A KM that said nothing for so many milliseconds is out of service.
    pub silence_ms: u64,
    /// Error rate above which a QKD link is out of service, 0 to 1. It comes back at nine tenths.
    pub qber: f64,
    /// Stock in bits below which a pool carries no others' keys while there is another way. It
    /// counts as filled again at twice as much.
    pub low_bits: u64,
    /// Stock in bits from which on more makes a way no better.
    pub ample_bits: u64,
    /// Routes kept for each destination, 1 to 8.
    pub routes: usize,
    /// A way in use is left only for one that costs so many percent less.
    pub better_percent: u64,
    /// Events remembered.
    pub events: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            silence_ms: 5000,
            qber: 0.08,
            low_bits: 1 << 20,
            ample_bits: 64 << 20,
            routes: 4,
            better_percent: 20,
            events: 1000,
        }
    }
}

impl Settings {
    /// What contradicts itself, in words.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        let rules = [
            ((500..=600_000).contains(&self.silence_ms), "silence_ms must be 500 to 600000"),
            (self.qber > 0.0 && self.qber < 0.5, "qber must be above 0 and below 0.5"),
            (
                self.low_bits <= self.ample_bits && self.ample_bits <= 1 << 50,
                "low_bits must not be above ample_bits",
            ),
            (self.ample_bits > 0, "ample_bits must not be 0"),
            ((1..=km_core::route::MAX_ROUTES).contains(&self.routes), "routes must be 1 to 8"),
            (self.better_percent < 100, "better_percent must be below 100"),
            ((1..=100_000).contains(&self.events), "events must be 1 to 100000"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(*rule))
    }
}
