//! Tables for all KMs, and why a route changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use km_core::{
    feeding::Mode,
    ids::ClusterId,
    route::{CipherPolicy, Route, RoutingTable, Ways},
};
use serde::Serialize;

use crate::{
    component::{Component, Out, Pair, State},
    cost,
    graph::{Graph, Path},
    health::Fault,
    network::{Edge, Feed, Network},
    policy::Active,
    settings::Settings,
};

/// Most disjoint routes of a key split by exclusive or.
const MOST_DISJOINT: usize = 3;

/// Why the best route between two clusters changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// A pool on the old route has fewer keys than the threshold.
    LowKeys,
    /// A KM on it is out.
    KmFault,
    /// A KM link on it is out.
    KmLinkFault,
    /// Error rate or noise of a QKD link on it is above the threshold.
    HighQber,
    /// A module on it is out.
    ModuleFault,
    /// A QKD link on it has no light.
    QkdLinkFault,
    /// An operator took a part of it out of service.
    Suspended,
    /// A policy forbids it, or pins another.
    Policy,
    /// Another became clearly better.
    Better,
    /// There was none before.
    New,
}

impl Why {
    /// The words shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LowKeys => "low keys",
            Self::KmFault => "KM fault",
            Self::KmLinkFault => "KM link fault",
            Self::HighQber => "error rate above the threshold",
            Self::ModuleFault => "module fault",
            Self::QkdLinkFault => "QKD link without light",
            Self::Suspended => "suspended by an operator",
            Self::Policy => "policy",
            Self::Better => "a better way",
            Self::New => "first way",
        }
    }
}

/// A change of the best route between two clusters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The ends.
    pub between: [ClusterId; 2],
    /// The old way, from the first end to the second; empty when there was none.
    pub old: Vec<ClusterId>,
    /// The new one; empty when there is none now.
    pub new: Vec<ClusterId>,
    /// Why.
    pub why: Why,
}

#[derive(Default)]
pub(crate) struct Router {
    tables: BTreeMap<ClusterId, Arc<RoutingTable>>,
    /// The best way of each pair, from its lower end.
    best: BTreeMap<Pair, Path>,
    version: u64,
}

/// All ways of one pair, from its lower end.
struct Found {
    routes: Vec<Path>,
    disjoint: Vec<Path>,
    cipher: CipherPolicy,
    max_bits_per_s: Option<u64>,
    feed: Option<Mode>,
}

/// What routes are computed from.
pub(crate) struct Basis<'a> {
    pub(crate) network: &'a Network,
    pub(crate) policies: Active<'a>,
    pub(crate) settings: &'a Settings,
    pub(crate) now: u64,
}

impl Router {
    /// The table of a KM; empty before its first.
    pub(crate) fn table(&self, cluster: &ClusterId) -> Arc<RoutingTable> {
        self.tables.get(cluster).cloned().unwrap_or_default()
    }

    /// The best way of each pair, with its cost.
    pub(crate) fn best(&self) -> impl Iterator<Item = (&Pair, &Path)> {
        self.best.iter()
    }

    /// Computes all routes anew. What changed, in the order of the pairs.
    pub(crate) fn compute(&mut self, basis: &Basis<'_>) -> Vec<Event> {
        let edges = basis.network.edges();
        let price = |(pair, edge): (&Pair, &Edge)| {
            cost::of(edge, basis.policies.percent(pair), basis.settings)
        };
        let costs: BTreeMap<&Pair, u64> = edges.iter().map(|of| (of.0, price(of))).collect();
        let all = Graph::new(costs.iter().map(|(pair, cost)| (*pair, *cost)));
        let mut found = BTreeMap::new();
        for pair in basis.network.wanted() {
            let ways = match basis.policies.forbids_any(&pair) {
                false => self.search(basis, &all, &pair),
                true => {
                    let allowed = costs.iter().filter(|(link, _)| {
                        let nodes = [link.ends().0, link.ends().1];
                        let passes = |node| !basis.policies.forbids_node(&pair, node);
                        nodes.into_iter().all(passes) && !basis.policies.forbids_link(&pair, link)
                    });
                    let graph = Graph::new(allowed.map(|(pair, cost)| (*pair, *cost)));
                    self.search(basis, &graph, &pair)
                }
            };
            found.insert(pair, ways);
        }
        ration(&mut found, &edges, &basis.policies);
        let events = self.note(&found, &edges, basis);
        self.publish(&found, basis);
        events
    }

    fn search(&self, basis: &Basis<'_>, graph: &Graph, pair: &Pair) -> Found {
        let (from, to) = pair.ends();
        let mut routes = graph.shortest(from, to, basis.settings.routes);
        self.stay(&mut routes, graph, pair, basis.settings);
        if let Some((nodes, strict)) = basis.policies.pin(pair) {
            let pinned = graph.cost(&nodes).map(|cost| Path { nodes, cost });
            if strict {
                routes.clear();
            }
            if let Some(path) = pinned {
                put_first(&mut routes, path);
            }
        }
        routes.truncate(basis.settings.routes);
        let disjoint = graph.disjoint(from, to, MOST_DISJOINT);
        let (cipher, feed) = (basis.policies.cipher(pair), basis.policies.feed(pair));
        Found { routes, disjoint, cipher, max_bits_per_s: None, feed }
    }

    /// Keeps to the way in use unless another is clearly better.
    fn stay(&self, routes: &mut Vec<Path>, graph: &Graph, pair: &Pair, settings: &Settings) {
        let (Some(used), Some(cheapest)) = (self.best.get(pair), routes.first()) else { return };
        let Some(cost) = graph.cost(&used.nodes) else { return };
        let enough = u128::from(cost) * u128::from(100 - settings.better_percent);
        if u128::from(cheapest.cost) * 100 > enough {
            put_first(routes, Path { nodes: used.nodes.clone(), cost });
        }
    }

    fn note(
        &mut self,
        found: &BTreeMap<Pair, Found>,
        edges: &BTreeMap<Pair, Edge>,
        basis: &Basis<'_>,
    ) -> Vec<Event> {
        let mut best = BTreeMap::new();
        for (pair, ways) in found {
            best.extend(ways.routes.first().map(|path| (pair.clone(), path.clone())));
        }
        let pairs: BTreeSet<&Pair> = self.best.keys().chain(best.keys()).collect();
        let mut events = Vec::new();
        for pair in pairs {
            let nodes = |of: &BTreeMap<Pair, Path>| {
                of.get(pair).map(|path| path.nodes.clone()).unwrap_or_default()
            };
            let (old, new) = (nodes(&self.best), nodes(&best));
            if old != new {
                let why = why(&old, pair, edges, basis);
                let between = [pair.ends().0.clone(), pair.ends().1.clone()];
                events.push(Event { at_ms: basis.now, between, old, new, why });
            }
        }
        self.best = best;
        events
    }

    fn publish(&mut self, found: &BTreeMap<Pair, Found>, basis: &Basis<'_>) {
        let mut fresh: BTreeMap<ClusterId, BTreeMap<ClusterId, Ways>> =
            basis.network.clusters().map(|cluster| (cluster.clone(), BTreeMap::new())).collect();
        for (pair, ways) in found.iter().filter(|(_, ways)| !ways.routes.is_empty()) {
            let (a, b) = pair.ends();
            fresh.entry(a.clone()).or_default().insert(b.clone(), ways.seen_from(false));
            fresh.entry(b.clone()).or_default().insert(a.clone(), ways.seen_from(true));
        }
        let version = basis.now.max(self.version + 1);
        self.tables.retain(|cluster, _| fresh.contains_key(cluster));
        for (cluster, to) in fresh {
            if self.tables.get(&cluster).is_none_or(|table| table.to != to) {
                self.tables.insert(cluster, Arc::new(RoutingTable { version, to }));
                self.version = version;
            }
        }
    }
}

impl Found {
    fn seen_from(&self, higher: bool) -> Ways {
        let route = |path: &Path| {
            let mut nodes = path.nodes.clone();
            if higher {
                nodes.reverse();
            }
            nodes.remove(0);
            Route::new(nodes, self.cipher).ok()
        };
        Ways {
            routes: self.routes.iter().filter_map(route).collect(),
            disjoint: self.disjoint.iter().filter_map(route).collect(),
            max_bits_per_s: self.max_bits_per_s,
            feed: self.feed.clone(),
        }
    }
}

fn put_first(routes: &mut Vec<Path>, path: Path) {
    routes.retain(|other| other.nodes != path.nodes);
    routes.insert(0, path);
}

fn steps(nodes: &[ClusterId]) -> impl Iterator<Item = Pair> {
    nodes.windows(2).map(|step| Pair::new(&step[0], &step[1]))
}

/// Shares the ration of a link among those whose best way leads over it. It is no second choice
/// for the others.
fn ration(found: &mut BTreeMap<Pair, Found>, edges: &BTreeMap<Pair, Edge>, policies: &Active<'_>) {
    for (link, bits_per_s) in edges.keys().filter_map(|link| Some((link, policies.ration(link)?))) {
        let over = |path: &Path| steps(&path.nodes).any(|step| step == *link);
        let first = |ways: &Found| ways.routes.first().is_some_and(over);
        let users = found.values().filter(|ways| first(ways)).count() as u64;
        for ways in found.values_mut() {
            if first(ways) {
                // Of the two ends one brings the keys of a pool.
                let share = bits_per_s / users;
                ways.max_bits_per_s = Some(ways.max_bits_per_s.map_or(share, |s| s.min(share)));
            } else {
                ways.routes.retain(|path| !over(path));
                if ways.disjoint.iter().any(over) {
                    ways.disjoint.clear();
                }
            }
        }
    }
}

/// What is wrong with the way that was left.
fn why(old: &[ClusterId], pair: &Pair, edges: &BTreeMap<Pair, Edge>, basis: &Basis<'_>) -> Why {
    if old.is_empty() {
        return Why::New;
    }
    let network = basis.network;
    let out = |component: Component, fault: Why| match network.state(&component) {
        Some(State::InService) => None,
        Some(State::OutOfService(Out::Suspended) | State::Reserved) => Some(Why::Suspended),
        _ => Some(fault),
    };
    let nodes = old.iter().map(|node| out(Component::Km(node.clone()), Why::KmFault));
    if let Some(why) = nodes.flatten().next() {
        return why;
    }
    let links = steps(old).map(|link| out(Component::KmLink(link), Why::KmLinkFault));
    if let Some(why) = links.flatten().next() {
        return why;
    }
    let feeds = steps(old).filter_map(|link| match edges.get(&link) {
        Some(edge) if edge.feed != Feed::Draining => None,
        _ => Some(why_unfed(network, &link)),
    });
    if let Some(why) = feeds.into_iter().next() {
        return why;
    }
    if steps(old).any(|link| edges.get(&link).is_some_and(|edge| edge.low)) {
        return Why::LowKeys;
    }
    let forbidden = old.iter().any(|node| basis.policies.forbids_node(pair, node))
        || steps(old).any(|link| basis.policies.forbids_link(pair, &link))
        || basis.policies.pin(pair).is_some();
    if forbidden { Why::Policy } else { Why::Better }
}

fn why_unfed(network: &Network, link: &Pair) -> Why {
    let faults = network.feed_faults(link);
    match faults.iter().min_by_key(|fault| **fault != Fault::HighQber) {
        Some(Fault::HighQber) => Why::HighQber,
        Some(Fault::Module) => Why::ModuleFault,
        Some(_) => Why::QkdLinkFault,
        None => Why::Suspended,
    }
}
