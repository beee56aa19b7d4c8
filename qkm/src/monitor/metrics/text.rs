//! The text form. Prometheus' own (0.0.4) names a counter with its `_total` in the comments too,
//! the OpenMetrics form that the library writes does not; that is all the difference used here.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode_registry},
    metrics::{TypedMetric, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{Labels, Metric, Samples, gather};
use crate::serve::Inside;

/// All metrics now.
pub(in crate::monitor) fn render(inside: &Inside) -> String {
    classic(gather::all(inside))
}

/// Metrics as Prometheus reads them.
pub(crate) fn classic(metrics: Vec<Metric>) -> String {
    let counters: Vec<&'static str> = metrics
        .iter()
        .filter(|metric| matches!(metric.samples, Samples::Counter(_)))
        .map(|metric| metric.name)
        .collect();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(metrics)));
    let mut open = String::new();
    // Writing to a String fails only if a metric cannot be encoded; then it is left out.
    if encode_registry(&mut open, &registry).is_err() {
        tracing::error!("a metric could not be written");
    }
    let lines = open.lines().map(|line| {
        let name = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        let name = name.and_then(|rest| rest.split(' ').next());
        match name.filter(|name| counters.contains(name)) {
            Some(name) => line.replacen(name, &format!("{name}_total"), 1) + "\n",
            None => line.to_owned() + "\n",
        }
    });
    lines.collect()
}

#[derive(Debug)]
struct Snapshot(Vec<Metric>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for Metric { name, help, samples } in &self.0 {
            match samples {
                Samples::Counter(samples) => {
                    let one = |value: &u64| ConstCounter::new(*value);
                    each(&mut encoder, name, help, samples, one)?;
                }
                Samples::Gauge(samples) => {
                    let one = |value: &f64| ConstGauge::new(*value);
                    each(&mut encoder, name, help, samples, one)?;
                }
            }
        }
        Ok(())
    }
}

/// Writes one metric. A sample without labels is not a family of one: that would show as `{}`.
fn each<T, M: EncodeMetric + TypedMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: &[(Labels, T)],
    metric: impl Fn(&T) -> M,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, M::TYPE)?;
    for (labels, value) in samples {
        match labels.is_empty() {
            true => return metric(value).encode(family),
            false => metric(value).encode(family.encode_family(labels)?)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_alike_in_comments_and_samples() {
        let text = classic(vec![
            Metric::counter("qkm_a", "Some a", vec![(vec![("peer", "so\"uth".into())], 3)]),
            Metric::gauge("qkm_b_bytes", "Some b", vec![(Vec::new(), 1.5)]),
        ]);
        assert_eq!(
            text,
            "# HELP qkm_a_total Some a\n# TYPE qkm_a_total counter\n\
             qkm_a_total{peer=\"so\\\"uth\"} 3\n\
             # HELP qkm_b_bytes Some b\n# TYPE qkm_b_bytes gauge\nqkm_b_bytes 1.5\n"
        );
    }
}
