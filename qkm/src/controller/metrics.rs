//! What Prometheus sees of a controller, and whether it is ready. All of it is said of the network as the
//! KMs reported it.

use std::collections::BTreeMap;

use control::{Controller, component::Component};

use super::room::Room;
use crate::monitor::{
    Watched,
    metrics::{Labels, Metric, classic},
};

impl Watched for Room {
    fn ready(&self) -> Result<Vec<String>, Vec<String>> {
        let reasons = self.reasons();
        if reasons.is_empty() { Ok(Vec::new()) } else { Err(reasons) }
    }

    fn metrics(&self) -> String {
        let ready = f64::from(u8::from(self.reasons().is_empty()));
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        let mut metrics = vec![
            Metric::gauge("qkm_build_info", "Version of this qkm.", vec![(version, 1.0)]),
            Metric::gauge(
                "qkm_controller_ready",
                "1 when KMs get directions and orders of operators are on disk.",
                vec![(Vec::new(), ready)],
            ),
            Metric::counter(
                "qkm_controller_route_changes",
                "Times the best way between two clusters changed, by the reason.",
                self.changes().into_iter().map(|(why, n)| (vec![("why", why.into())], n)).collect(),
            ),
        ];
        metrics.extend(self.look(network));
        classic(metrics)
    }
}

fn network(controller: &Controller) -> Vec<Metric> {
    let mut parts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for part in controller.components() {
        *parts.entry((kind(&part.component), part.state)).or_default() += 1;
    }
    let parts = parts.into_iter().map(|((kind, state), count)| {
        (vec![("kind", kind.to_owned()), ("state", state.to_owned())], count as f64)
    });
    let (wanted, routed) = controller.pairs();
    let pairs = [("yes", routed), ("no", wanted.saturating_sub(routed))];
    let pairs = pairs.map(|(way, count)| (vec![("way", way.to_owned())], count as f64));
    let followed = controller.clusters().map(|cluster| {
        let same = controller.directions(cluster).table.version == controller.table_at(cluster);
        (vec![("cluster", cluster.to_string())], f64::from(u8::from(same)))
    });
    let edges = controller.edges();
    let of = |read: fn(&control::EdgeView) -> u64| -> Vec<(Labels, f64)> {
        let link = |edge: &control::EdgeView| format!("{}~{}", edge.ends[0], edge.ends[1]);
        edges.iter().map(|edge| (vec![("link", link(edge))], read(edge) as f64)).collect()
    };
    vec![
        Metric::gauge(
            "qkm_controller_components",
            "Parts of the network, by kind and state.",
            parts.collect(),
        ),
        Metric::gauge(
            "qkm_controller_pairs",
            "Pairs of clusters that want keys, with and without a way between them.",
            pairs.to_vec(),
        ),
        Metric::gauge(
            "qkm_controller_table_followed",
            "1 when a KM goes by the newest routes it was given.",
            followed.collect(),
        ),
        Metric::gauge(
            "qkm_controller_link_stock_bytes",
            "Key bytes at the end of a KM link that has fewer.",
            of(|edge| edge.stock_bits / 8),
        ),
        Metric::gauge(
            "qkm_controller_link_low",
            "1 when that is below the threshold.",
            of(|edge| u64::from(edge.low)),
        ),
        Metric::gauge(
            "qkm_controller_link_rate_bits_per_second",
            "Secret bits that come in over its QKD links.",
            of(|edge| edge.rate_bps),
        ),
        Metric::gauge(
            "qkm_controller_link_used_bits_per_second",
            "Bits of it that are used up.",
            of(|edge| edge.drain_bps),
        ),
    ]
}

fn kind(component: &Component) -> &'static str {
    match component {
        Component::Km(_) => "km",
        Component::KmLink(_) => "km-link",
        Component::Channel(..) => "channel",
        Component::QkdLink(_) => "qkd-link",
        Component::Module(..) => "module",
    }
}
