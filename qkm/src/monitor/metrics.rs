//! What Prometheus sees. Enter through [`render`]. Names and units are those `promtool check
//! metrics` accepts: base units (bytes, seconds), counters end in `_total`.

mod gather;
mod text;

pub(crate) use text::classic;
pub(super) use text::render;

/// One metric with all its samples at this moment.
#[derive(Debug)]
pub(crate) struct Metric {
    /// Without `_total`.
    name: &'static str,
    help: &'static str,
    samples: Samples,
}

pub(crate) type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
pub(crate) enum Samples {
    Counter(Vec<(Labels, u64)>),
    Gauge(Vec<(Labels, f64)>),
}

impl Metric {
    pub(crate) fn counter(
        name: &'static str,
        help: &'static str,
        samples: Vec<(Labels, u64)>,
    ) -> Self {
        Self { name, help, samples: Samples::Counter(samples) }
    }

    pub(crate) fn gauge(
        name: &'static str,
        help: &'static str,
        samples: Vec<(Labels, f64)>,
    ) -> Self {
        Self { name, help, samples: Samples::Gauge(samples) }
    }
}
