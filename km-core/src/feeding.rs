//! When a pool without a QKD link is fed by relay (clause 6.2e), as configuration and the controller
//! write it. What follows from it is decided in `relay::feed`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// When keys are relayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Mode {
    /// Only what is missing.
    OnDemand,
    /// Once fewer than `low` bytes are stored, until there are `high`.
    Watermark {
        /// Bytes.
        low: u64,
        /// Bytes.
        high: u64,
    },
    /// So many bytes a second.
    Rate(u64),
    /// As much as is used up in `horizon`, but at least `least` bytes.
    Adaptive {
        /// How far ahead.
        horizon: Duration,
        /// Bytes.
        least: u64,
    },
    /// Up to `high` bytes, at these times of day only.
    Schedule {
        /// Times of day.
        windows: Vec<Window>,
        /// Bytes.
        high: u64,
    },
    /// Only what an operator orders.
    Manual,
}

/// A time of day, UTC, in minutes after midnight; over midnight when it ends before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First minute.
    pub from: u16,
    /// First minute after it.
    pub to: u16,
}

impl Window {
    /// Reads `HH:MM-HH:MM`.
    pub fn parse(text: &str) -> Option<Self> {
        let minute = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let (from, to) = text.split_once('-')?;
        Some(Self { from: minute(from)?, to: minute(to)? })
    }

    /// Whether a minute of the day lies in it.
    pub fn holds(&self, minute: u16) -> bool {
        match self.from <= self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

/// The name of a [`Mode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// [`Mode::Watermark`].
    #[default]
    Watermark,
    /// [`Mode::OnDemand`].
    OnDemand,
    /// [`Mode::Rate`].
    Rate,
    /// [`Mode::Adaptive`].
    Adaptive,
    /// [`Mode::Schedule`].
    Schedule,
    /// [`Mode::Manual`].
    Manual,
}

/// A [`Mode`] as it is written; what another mode would need is left unread.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Written {
    /// Which.
    pub mode: Kind,
    /// Of a watermark, and the least of an adaptive mode.
    pub low_kib: u64,
    /// Of a watermark and a schedule.
    pub high_kib: u64,
    /// Of a rate.
    pub rate_bps: Option<u64>,
    /// Of an adaptive mode.
    pub horizon_s: u64,
    /// Of a schedule, as `22:00-06:30`.
    pub windows: Vec<String>,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            mode: Kind::default(),
            low_kib: 256,
            high_kib: 1024,
            rate_bps: None,
            horizon_s: 60,
            windows: Vec::new(),
        }
    }
}

/// Most windows of a schedule.
const MAX_WINDOWS: usize = 48;

impl TryFrom<Written> for Mode {
    type Error = &'static str;
    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { low_kib, high_kib, rate_bps, horizon_s, windows, .. } = written;
        if !(1..=1 << 20).contains(&high_kib) || low_kib > high_kib {
            return Err("high_kib must be 1 to 1048576, and low_kib not more than it");
        }
        let (low, high) = (low_kib << 10, high_kib << 10);
        Ok(match written.mode {
            Kind::Watermark => Self::Watermark { low, high },
            Kind::OnDemand => Self::OnDemand,
            Kind::Manual => Self::Manual,
            Kind::Rate => match rate_bps {
                Some(bits @ 8..=10_000_000_000) => Self::Rate(bits / 8),
                _ => {
                    return Err("mode = \"rate\" needs rate_bps, 8 to 10000000000 bits per second");
                }
            },
            Kind::Adaptive => match horizon_s {
                1..=86_400 => {
                    Self::Adaptive { horizon: Duration::from_secs(horizon_s), least: low }
                }
                _ => return Err("horizon_s must be 1 to 86400"),
            },
            Kind::Schedule => {
                let few = (1..=MAX_WINDOWS).contains(&windows.len());
                let windows: Option<Vec<Window>> =
                    windows.iter().map(|w| Window::parse(w)).collect();
                match windows.filter(|_| few) {
                    Some(windows) => Self::Schedule { windows, high },
                    None => {
                        return Err("mode = \"schedule\" needs windows such as [\"22:00-06:00\"]");
                    }
                }
            }
        })
    }
}

impl From<Mode> for Written {
    fn from(mode: Mode) -> Self {
        let mut written = Self::default();
        match mode {
            Mode::OnDemand => written.mode = Kind::OnDemand,
            Mode::Manual => written.mode = Kind::Manual,
            Mode::Watermark { low, high } => {
                (written.low_kib, written.high_kib) = (low >> 10, high >> 10);
            }
            Mode::Rate(bytes) => {
                (written.mode, written.rate_bps) = (Kind::Rate, Some(bytes * 8));
            }
            Mode::Adaptive { horizon, least } => {
                (written.mode, written.horizon_s) = (Kind::Adaptive, horizon.as_secs());
                written.low_kib = least >> 10;
                written.high_kib = written.high_kib.max(written.low_kib);
            }
            Mode::Schedule { windows, high } => {
                (written.mode, written.high_kib) = (Kind::Schedule, high >> 10);
                written.low_kib = written.low_kib.min(written.high_kib);
                written.windows = windows.iter().map(ToString::to_string).collect();
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_of_each_mode_is_read_back_the_same() {
        let windows = ["22:00-06:30", "12:00-12:01"].map(|w| Window::parse(w).unwrap()).to_vec();
        for mode in [
            Mode::OnDemand,
            Mode::Manual,
            Mode::Watermark { low: 64 << 10, high: 128 << 10 },
            Mode::Rate(700),
            Mode::Adaptive { horizon: Duration::from_secs(30), least: 4096 << 10 },
            Mode::Schedule { windows, high: 64 << 10 },
        ] {
            let bytes = postcard::to_allocvec(&mode).unwrap();
            assert_eq!(postcard::from_bytes::<Mode>(&bytes).unwrap(), mode);
        }
        let written = Written::default;
        for bad in [
            Written { mode: Kind::Rate, ..written() },
            Written { high_kib: 1, ..written() },
            Written { mode: Kind::Schedule, windows: vec!["22:00".into()], ..written() },
            Written { mode: Kind::Adaptive, horizon_s: 0, ..written() },
        ] {
            assert!(Mode::try_from(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
