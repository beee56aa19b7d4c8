//! What can go wrong on purpose. [`Fault`] is the checked form of a [`FaultRequest`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One end of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Module `a`.
    A,
    /// Module `b`.
    B,
}

impl End {
    /// The opposite end.
    pub fn other(self) -> Self {
        match self {
            End::A => End::B,
            End::B => End::A,
        }
    }
}

/// A fault, as switched by [`super::SimHandle::switch`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The fibre is cut: no new bits; what is buffered can still be fetched.
    Cut {
        /// Switch.
        on: bool,
    },
    /// Somebody intercepts and resends this share of the pulses, 0 to 1; 0 ends it.
    Eavesdrop {
        /// Share of the pulses.
        share: f64,
    },
    /// This percentage (0 to 100) of the keys this end delivers has a bit flipped; 0 ends it.
    WrongBits {
        /// Where.
        end: End,
        /// Share of the keys.
        percent: f64,
    },
    /// This end delivers a key to dec_keys only so long after it was made; 0 ends it.
    Late {
        /// Where.
        end: End,
        /// How long.
        delay: Duration,
    },
    /// This end restarts once: buffers forgotten, connections dropped.
    Restart {
        /// Where.
        end: End,
    },
    /// The last key of each enc_keys answer at this end repeats an identifier already given.
    DuplicateId {
        /// Where.
        end: End,
        /// Switch.
        on: bool,
    },
}

/// Body of `POST /api/v1/sim/fault`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRequest {
    /// Which fault.
    pub fault: FaultKind,
    /// Where; needed unless the fault concerns the fibre.
    #[serde(default)]
    pub module: Option<End>,
    /// On (the default) or off.
    #[serde(default = "yes")]
    pub on: bool,
    /// For `wrong_bits`: percentage of keys, default 100. For `eavesdrop`: of pulses, default 100.
    #[serde(default)]
    pub percent: Option<f64>,
    /// For `late`: milliseconds, at most a day, default 5000.
    #[serde(default)]
    pub delay_ms: Option<u64>,
}

/// Names of the faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // explained at `Fault`
pub enum FaultKind {
    Cut,
    Eavesdrop,
    WrongBits,
    Late,
    Restart,
    DuplicateId,
}

fn yes() -> bool {
    true
}

const DAY_MS: u64 = 86_400_000;

impl TryFrom<FaultRequest> for Fault {
    type Error = &'static str;

    fn try_from(request: FaultRequest) -> Result<Self, Self::Error> {
        let on = request.on;
        let end = request.module.ok_or("module is needed: \"a\" or \"b\"");
        let percent = request.percent.unwrap_or(100.0);
        if !(0.0..=100.0).contains(&percent) {
            return Err("percent must be from 0 to 100");
        }
        let percent = if on { percent } else { 0.0 };
        let delay = request.delay_ms.unwrap_or(5000);
        if delay > DAY_MS {
            return Err("delay_ms must be at most a day");
        }
        let delay = Duration::from_millis(if on { delay } else { 0 });
        Ok(match request.fault {
            FaultKind::Cut => Fault::Cut { on },
            FaultKind::Eavesdrop => Fault::Eavesdrop { share: percent / 100.0 },
            FaultKind::WrongBits => Fault::WrongBits { end: end?, percent },
            FaultKind::Late => Fault::Late { end: end?, delay },
            FaultKind::Restart => Fault::Restart { end: end? },
            FaultKind::DuplicateId => Fault::DuplicateId { end: end?, on },
        })
    }
}
