//! Routes through the network as the controller gives them. The relay asks [`Routes`] and computes
//! none itself. A frame carries its whole route, so two KMs with different tables make no loop.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
};

use serde::{Deserialize, Serialize};

use crate::{feeding::Mode, ids::ClusterId, provenance::HopCipher};

/// Most hops of a route.
pub const MAX_HOPS: usize = 32;
/// Most routes to one destination, in each of its lists.
pub const MAX_ROUTES: usize = 8;
/// Most destinations of a table.
pub const MAX_DESTINATIONS: usize = 4096;

/// Which hop ciphers a route allows. Each hop still announces the one it used.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum CipherPolicy {
    /// One-time pad on every hop, or no key.
    OtpOnly,
    /// One-time pad where the hop's stock allows it, AES-256-GCM otherwise.
    #[default]
    OtpElseAes,
    /// AES-256-GCM on every hop, to spare the stock.
    AesOnly,
}

impl CipherPolicy {
    /// What holds where both were asked for. One-time pad only goes before all else: no key is
    /// better than one that claims less than was asked for.
    pub fn stricter(self, other: Self) -> Self {
        use CipherPolicy::{AesOnly, OtpElseAes, OtpOnly};
        match (self, other) {
            (OtpOnly, _) | (_, OtpOnly) => OtpOnly,
            (AesOnly, _) | (_, AesOnly) => AesOnly,
            (OtpElseAes, OtpElseAes) => OtpElseAes,
        }
    }
    /// Whether a path may have such a hop. [`CipherPolicy::AesOnly`] spares stock and forbids nothing
    /// better.
    pub fn allows(self, cipher: HopCipher) -> bool {
        self != Self::OtpOnly || !matches!(cipher, HopCipher::Aes256Gcm | HopCipher::KmLink)
    }
}

/// Why a route or table is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRoute {
    /// No hop, or more than [`MAX_HOPS`].
    #[error("a route has 1 to {MAX_HOPS} hops, this one has {0}")]
    Length(usize),
    /// A cluster is on it twice, or it comes back to where it starts.
    #[error("the route passes {0} twice")]
    Loop(ClusterId),
    /// It ends elsewhere.
    #[error("a route to {0} ends at another cluster")]
    Elsewhere(ClusterId),
    /// More than [`MAX_ROUTES`] routes or [`MAX_DESTINATIONS`] destinations.
    #[error("the routing table holds more than {MAX_ROUTES} routes or {MAX_DESTINATIONS} targets")]
    TooMany,
}

/// One way to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawRoute")]
pub struct Route {
    hops: Vec<ClusterId>,
    cipher: CipherPolicy,
}

#[derive(Deserialize)]
struct RawRoute {
    hops: Vec<ClusterId>,
    #[serde(default)]
    cipher: CipherPolicy,
}

impl TryFrom<RawRoute> for Route {
    type Error = BadRoute;
    fn try_from(raw: RawRoute) -> Result<Self, BadRoute> {
        Self::new(raw.hops, raw.cipher)
    }
}

impl Route {
    /// The clusters after the one it starts from, in order, the destination last.
    ///
    /// # Errors
    /// [`BadRoute::Length`] and [`BadRoute::Loop`].
    pub fn new(hops: Vec<ClusterId>, cipher: CipherPolicy) -> Result<Self, BadRoute> {
        if !(1..=MAX_HOPS).contains(&hops.len()) {
            return Err(BadRoute::Length(hops.len()));
        }
        let mut seen = BTreeSet::new();
        match hops.iter().find(|hop| !seen.insert(*hop)) {
            Some(twice) => Err(BadRoute::Loop(twice.clone())),
            None => Ok(Self { hops, cipher }),
        }
    }
    /// The clusters after the one it starts from; never empty.
    pub fn hops(&self) -> &[ClusterId] {
        &self.hops
    }
    /// The neighbour it begins with.
    pub fn next(&self) -> &ClusterId {
        &self.hops[0]
    }
    /// Where it leads.
    pub fn to(&self) -> &ClusterId {
        &self.hops[self.hops.len() - 1]
    }
    /// The trusted nodes on it; empty to a neighbour.
    pub fn middle(&self) -> &[ClusterId] {
        &self.hops[..self.hops.len() - 1]
    }
    /// Which ciphers its hops may use.
    pub fn cipher(&self) -> CipherPolicy {
        self.cipher
    }
    /// The same way under the stricter of its policy and another.
    pub fn restricted(&self, cipher: CipherPolicy) -> Self {
        Self { hops: self.hops.clone(), cipher: self.cipher.stricter(cipher) }
    }
    /// Whether the two share no trusted node.
    pub fn is_disjoint(&self, other: &Route) -> bool {
        self.middle().iter().all(|node| !other.middle().contains(node))
    }
}

/// The ways to one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ways {
    /// Best first.
    pub routes: Vec<Route>,
    /// At least two routes without a common trusted node, for keys split by exclusive or; else
    /// empty.
    #[serde(default)]
    pub disjoint: Vec<Route>,
    /// Most bits to be relayed there in a second: a ration of scarce stock. Absent: no limit.
    #[serde(default)]
    pub max_bits_per_s: Option<u64>,
    /// When a pool with that cluster is fed by relay; absent: as the KM's configuration says.
    #[serde(default)]
    pub feed: Option<Mode>,
}

/// All routes of one KM, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingTable {
    /// Grows with each table of a controller, over its restarts too; 0 before the first.
    pub version: u64,
    /// By destination. One that is missing cannot be reached now.
    pub to: BTreeMap<ClusterId, Ways>,
}

impl RoutingTable {
    /// Whether a KM of `here` can use it.
    ///
    /// # Errors
    /// The first route that leads back to `here` or ends elsewhere, or that it is too large.
    pub fn check(&self, here: &ClusterId) -> Result<(), BadRoute> {
        let most = |ways: &Ways| ways.routes.len().max(ways.disjoint.len());
        if self.to.len() > MAX_DESTINATIONS || self.to.values().any(|w| most(w) > MAX_ROUTES) {
            return Err(BadRoute::TooMany);
        }
        for (to, ways) in &self.to {
            for route in ways.routes.iter().chain(&ways.disjoint) {
                if route.hops.contains(here) {
                    return Err(BadRoute::Loop(here.clone()));
                }
                if route.to() != to {
                    return Err(BadRoute::Elsewhere(to.clone()));
                }
            }
        }
        Ok(())
    }
    /// The routes to a cluster, best first; none when it cannot be reached.
    pub fn routes(&self, to: &ClusterId) -> &[Route] {
        self.to.get(to).map_or(&[], |ways| &ways.routes)
    }
    /// The same; `fixed` only while no controller ever gave a table, as one it leaves out cannot be
    /// reached now.
    pub fn ways<'a>(
        &'a self,
        to: &ClusterId,
        fixed: Option<&'a Route>,
    ) -> impl Iterator<Item = &'a Route> {
        self.routes(to).iter().chain(fixed.filter(|_| self.version == 0))
    }
    /// Disjoint routes to a cluster: two or more, or none.
    pub fn disjoint(&self, to: &ClusterId) -> &[Route] {
        self.to.get(to).map_or(&[], |ways| &ways.disjoint)
    }
}

/// Where the relay takes its routes from: once for each batch of keys, so that a new table counts
/// from the next batch on.
pub trait Routes: Send + Sync + 'static {
    /// The table of now.
    fn table(&self) -> Arc<RoutingTable>;
}

/// A table that others put up: the controller's client, or configuration.
#[derive(Debug, Default)]
pub struct RouteBoard(RwLock<Arc<RoutingTable>>);

impl RouteBoard {
    /// With its first table.
    pub fn new(table: RoutingTable) -> Self {
        Self(RwLock::new(Arc::new(table)))
    }
    /// Replaces the table.
    pub fn put(&self, table: RoutingTable) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

impl Routes for RouteBoard {
    fn table(&self) -> Arc<RoutingTable> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ClusterId {
        ClusterId::parse(text).unwrap()
    }

    fn route(hops: &[&str]) -> Route {
        Route::new(hops.iter().map(|hop| name(hop)).collect(), CipherPolicy::OtpOnly).unwrap()
    }

    #[test]
    fn a_route_never_passes_a_cluster_twice() {
        let hops = ["a", "b", "a"].map(name).to_vec();
        assert_eq!(Route::new(hops, CipherPolicy::OtpOnly), Err(BadRoute::Loop(name("a"))));
        assert_eq!(Route::new(Vec::new(), CipherPolicy::OtpOnly), Err(BadRoute::Length(0)));
        let (hops, cipher) = (["a", "b", "a"].map(name).to_vec(), CipherPolicy::OtpOnly);
        let written = postcard::to_stdvec(&(hops, cipher)).unwrap();
        assert!(postcard::from_bytes::<Route>(&written).is_err(), "nor does one that was read");
    }

    #[test]
    fn a_table_leads_where_it_says_and_never_back() {
        let mut table = RoutingTable::default();
        let ways = Ways { routes: vec![route(&["b", "c"])], ..Ways::default() };
        table.to.insert(name("c"), ways.clone());
        assert_eq!(table.check(&name("a")), Ok(()));
        assert_eq!(table.check(&name("b")), Err(BadRoute::Loop(name("b"))));
        table.to.insert(name("d"), ways);
        assert_eq!(table.check(&name("a")), Err(BadRoute::Elsewhere(name("d"))));
    }

    #[test]
    fn only_the_nodes_between_make_routes_meet() {
        assert!(route(&["b", "d"]).is_disjoint(&route(&["c", "d"])));
        assert!(!route(&["b", "d"]).is_disjoint(&route(&["c", "b", "d"])));
    }

    #[test]
    fn a_fixed_route_serves_only_until_the_first_table() {
        let fixed = route(&["b", "c"]);
        let mut table = RoutingTable::default();
        let ways = |table: &RoutingTable| table.ways(&name("c"), Some(&fixed)).count();
        assert_eq!(ways(&table), 1);
        table.version = 1;
        assert_eq!(ways(&table), 0, "what the controller leaves out cannot be reached");
        let given = Ways { routes: vec![route(&["d", "c"])], ..Ways::default() };
        table.to.insert(name("c"), given);
        assert_eq!(ways(&table), 1);
    }

    #[test]
    fn otp_only_holds_whoever_asks_for_it() {
        use CipherPolicy::{AesOnly, OtpElseAes, OtpOnly};
        for other in [OtpOnly, OtpElseAes, AesOnly] {
            assert_eq!((OtpOnly.stricter(other), other.stricter(OtpOnly)), (OtpOnly, OtpOnly));
        }
        assert_eq!(
            (AesOnly.stricter(OtpElseAes), OtpElseAes.stricter(AesOnly)),
            (AesOnly, AesOnly)
        );
        assert_eq!(route(&["b"]).restricted(OtpElseAes).cipher(), OtpOnly);
        assert!(!OtpOnly.allows(HopCipher::Aes256Gcm) && OtpElseAes.allows(HopCipher::Aes256Gcm));
    }

    #[test]
    fn a_board_shows_what_was_put_up_last() {
        let board = RouteBoard::default();
        assert!(board.table().routes(&name("b")).is_empty());
        let ways = Ways { routes: vec![route(&["b"])], ..Ways::default() };
        board.put(RoutingTable { version: 7, to: [(name("b"), ways)].into() });
        assert_eq!((board.table().version, board.table().routes(&name("b")).len()), (7, 1));
    }
}
