//! What is wrong with a part of the network, by the reports of its ends.

use serde::{Deserialize, Serialize};

use crate::{
    report::{Light, LinkReport, QkdReport, Report},
    settings::Settings,
};

/// What is wrong: the cases of 7.1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A KM is silent, or says that it cannot work.
    Km,
    /// A KM link is down at one of its ends, or only one end has it.
    KmLink,
    /// Error rate or noise of a QKD link above the threshold.
    HighQber,
    /// A module does not answer as it should.
    Module,
    /// A QKD link without light.
    QkdLink,
    /// A classical channel that did not work when last tried.
    Channel,
}

impl Fault {
    /// The words shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Km => "KM fault",
            Self::KmLink => "KM link fault",
            Self::HighQber => "error rate above the threshold",
            Self::Module => "module fault",
            Self::QkdLink => "QKD link without light",
            Self::Channel => "channel fault",
        }
    }
}

/// The KM that sent `report` at `heard_ms`.
pub(crate) fn km(report: &Report, heard_ms: u64, settings: &Settings, now: u64) -> Option<Fault> {
    let silent = now.saturating_sub(heard_ms) > settings.silence_ms;
    (silent || report.trouble.is_some()).then_some(Fault::Km)
}

/// A KM link, by what its ends say; `None` for an end that does not list it.
pub(crate) fn km_link(ends: [Option<&LinkReport>; 2]) -> Option<Fault> {
    let up = ends.iter().all(|end| end.is_some_and(|link| link.up));
    (!up).then_some(Fault::KmLink)
}

/// A module.
pub(crate) fn module(end: &QkdReport) -> Option<Fault> {
    (!end.module_well).then_some(Fault::Module)
}

/// A QKD link. `was_high`: it is out of service for its error rate now.
pub(crate) fn qkd_link(
    ends: [Option<&QkdReport>; 2],
    was_high: bool,
    settings: &Settings,
) -> Option<Fault> {
    let each = || ends.into_iter().flatten();
    let measured = each().filter_map(|end| end.qber).filter(|qber| qber.is_finite());
    let worst = measured
        .fold(None, |worst: Option<f64>, qber| Some(worst.map_or(qber, |worst| worst.max(qber))));
    let limit = if was_high { settings.qber * 0.9 } else { settings.qber };
    let says = |light| each().any(|end| end.light == Some(light));
    let high = match worst {
        Some(qber) => qber > limit,
        // Nobody measured it since: no reason to trust it again, unless keys are made.
        None => was_high && !says(Light::Up),
    };
    if high || says(Light::Aborted) {
        return Some(Fault::HighQber);
    }
    if each().any(|end| !end.module_well) {
        return Some(Fault::Module);
    }
    (says(Light::Down) || ends.contains(&None)).then_some(Fault::QkdLink)
}

#[cfg(test)]
mod tests {
    use km_core::ids::LinkId;

    use super::*;

    fn end(light: Light, qber: Option<f64>) -> QkdReport {
        let link = LinkId::parse("l1").unwrap();
        QkdReport { link, module_well: true, light: Some(light), rate_bps: Some(1e4), qber }
    }

    #[test]
    fn an_error_rate_counts_from_either_end_and_falls_well_below_before_it_is_forgotten() {
        let settings = Settings::default();
        let (good, bad) = (end(Light::Up, Some(0.02)), end(Light::Up, Some(0.09)));
        let judge = |a, b, was| qkd_link([Some(a), Some(b)], was, &settings);
        assert_eq!(judge(&good, &good, false), None);
        assert_eq!(judge(&good, &bad, false), Some(Fault::HighQber));
        let near = end(Light::Up, Some(0.075));
        assert_eq!(judge(&near, &good, false), None);
        assert_eq!(judge(&near, &good, true), Some(Fault::HighQber));
        let dark = end(Light::Down, None);
        assert_eq!(judge(&dark, &dark, true), Some(Fault::HighQber), "nobody measured it since");
        assert_eq!(judge(&dark, &good, false), Some(Fault::QkdLink));
    }

    #[test]
    fn a_link_that_one_end_does_not_have_is_no_link() {
        let good = end(Light::Up, None);
        let settings = Settings::default();
        assert_eq!(qkd_link([Some(&good), None], false, &settings), Some(Fault::QkdLink));
        assert_eq!(km_link([None, None]), Some(Fault::KmLink));
    }
}
