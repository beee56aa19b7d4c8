//! The edges of the network: which KM links may carry keys now, and how well each is fed.

use std::collections::BTreeMap;

use km_core::ids::ClusterId;
use serde::Serialize;

use super::Network;
use crate::{
    component::{Component, Pair, State},
    health::Fault,
};

/// How well an edge feeds the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feed {
    /// Its QKD link makes keys.
    Live,
    /// No QKD link of it works; it has what is stored.
    Draining,
    /// There is no QKD: the KM link itself brings keys, which are computational.
    WithoutQkd,
}

/// A KM link that may carry keys now, as shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EdgeView {
    /// The ends.
    pub ends: [ClusterId; 2],
    /// Whether keys flow in.
    pub feed: Feed,
    /// Bits at the end that has fewer.
    pub stock_bits: u64,
    /// Whether that is below the threshold.
    pub low: bool,
    /// Secret bits per second that come in.
    pub rate_bps: u64,
    /// Bits per second used up.
    pub drain_bps: u64,
}

/// A KM link that may carry keys now.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    pub(crate) feed: Feed,
    pub(crate) stock_bits: u64,
    pub(crate) low: bool,
    pub(crate) rate_bps: u64,
    pub(crate) drain_bps: u64,
}

impl Network {
    /// The KM links that may carry keys now.
    pub(crate) fn edges(&self) -> BTreeMap<Pair, Edge> {
        let mut edges = BTreeMap::new();
        for pair in self.pairs() {
            let (a, b) = pair.ends();
            let kms =
                self.serves(Component::Km(a.clone())) && self.serves(Component::Km(b.clone()));
            if kms
                && self.serves(Component::KmLink(pair.clone()))
                && let Some(feed) = self.feed(&pair)
            {
                let edge = self.edge(&pair, feed);
                edges.insert(pair, edge);
            }
        }
        edges
    }

    /// `None` for a pair that nothing but relay fills, for one whose QKD link may be tapped, and for
    /// one whose QKD links an operator took out, all of them.
    fn feed(&self, pair: &Pair) -> Option<Feed> {
        let links = self.qkd_of(pair);
        if links.is_empty() {
            let ends = self.link_ends(pair);
            let both = ends.iter().all(|end| end.is_some_and(|link| link.without_qkd));
            return both.then_some(Feed::WithoutQkd);
        }
        if links.iter().all(|id| self.is_withheld(pair, id)) {
            return None;
        }
        let parts: Vec<_> = links.into_iter().map(Component::QkdLink).collect();
        if parts.iter().any(|part| self.state(part) == Some(State::InService)) {
            return Some(Feed::Live);
        }
        let tapped = parts.iter().any(|part| self.fault(part) == Some(Fault::HighQber));
        (!tapped).then_some(Feed::Draining)
    }

    /// What is wrong with the QKD links of a pair.
    pub(crate) fn feed_faults(&self, pair: &Pair) -> Vec<Fault> {
        let links = self.qkd_of(pair).into_iter().map(Component::QkdLink);
        links.filter_map(|link| self.fault(&link)).collect()
    }

    fn edge(&self, pair: &Pair, feed: Feed) -> Edge {
        let (a, b) = pair.ends();
        let drain = |here: &ClusterId, there| {
            self.heard.get(here).and_then(|heard| heard.drain_bps.get(there)).copied().unwrap_or(0)
        };
        let rates = self.qkd_of(pair).into_iter().filter_map(|id| {
            let serves = self.serves(Component::QkdLink(id.clone()));
            let ends = self.qkd_ends(pair, &id).into_iter().flatten();
            let rates = ends.filter_map(|end| end.rate_bps).filter(|r| r.is_finite() && *r >= 0.0);
            let least = rates.fold(f64::INFINITY, f64::min);
            (serves && least.is_finite()).then_some(least as u64)
        });
        Edge {
            feed,
            stock_bits: self.stock(pair),
            low: self.low.contains(pair),
            rate_bps: rates.fold(0, u64::saturating_add),
            drain_bps: drain(a, b).max(drain(b, a)),
        }
    }
}
