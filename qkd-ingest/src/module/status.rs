//! What is known about a module and its link (for metrics and the controller, 6.1.3).

use std::time::Instant;

use serde::Deserialize;

/// A module as this KM sees it now.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleStatus {
    /// Whether the last request on each connection brought a usable answer.
    pub reachable: bool,
    /// Key bits ready at the module, by its last ETSI GS QKD 014 status less what was taken since.
    pub stored_bits: Option<u64>,
    /// What its status resource said last; absent without `status_path`, or when it failed.
    pub link: Option<LinkReport>,
}

/// What a module reports about its quantum link.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkReport {
    /// Whether keys are being made.
    pub condition: LinkCondition,
    /// Secret bits per second.
    pub key_rate_bps: Option<f64>,
    /// Quantum bit error rate, 0 to 1.
    pub qber: Option<f64>,
    /// When it was read.
    pub at: Instant,
}

/// State of a quantum link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkCondition {
    /// Making keys.
    Up,
    /// No light.
    Down,
    /// Light, but no secret key comes out: error rate or loss too high.
    Aborted,
    /// The module used a word we do not know.
    Unknown,
}

#[derive(Deserialize)]
struct Resource<'a> {
    #[serde(borrow)]
    state: std::borrow::Cow<'a, str>,
    #[serde(default)]
    key_rate_bps: Option<f64>,
    #[serde(default)]
    qber: Option<f64>,
}

impl LinkReport {
    /// Reads the status resource. Members we do not know are skipped, impossible numbers dropped.
    pub(super) fn parse(json: &[u8], at: Instant) -> Result<Self, String> {
        let resource: Resource<'_> =
            serde_json::from_slice(json).map_err(|e| format!("status resource: {e}"))?;
        let condition = match resource.state.to_ascii_lowercase().as_str() {
            "up" => LinkCondition::Up,
            "down" => LinkCondition::Down,
            "aborted" => LinkCondition::Aborted,
            _ => LinkCondition::Unknown,
        };
        Ok(Self {
            condition,
            key_rate_bps: resource.key_rate_bps.filter(|rate| rate.is_finite() && *rate >= 0.0),
            qber: resource.qber.filter(|qber| (0.0..=1.0).contains(qber)),
            at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_numbers_are_dropped() {
        let read = |json: &str| LinkReport::parse(json.as_bytes(), Instant::now());
        let report = read(r#"{"state":"UP","key_rate_bps":-1,"qber":7,"vendor":{}}"#).unwrap();
        assert_eq!((report.condition, report.key_rate_bps), (LinkCondition::Up, None));
        assert_eq!(report.qber, None);
        assert_eq!(read(r#"{"state":"?"}"#).unwrap().condition, LinkCondition::Unknown);
        assert!(read("[]").is_err() && read("{}").is_err());
    }
}
