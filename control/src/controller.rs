//! The controller: reports, orders and the time in; tables, states and events out.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use km_core::{
    ids::{ClusterId, LinkId},
    route::RoutingTable,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    books::Books,
    component::{BadStep, Component, Pair, State, Step},
    network::{ComponentView, EdgeView, Network},
    orders::Orders,
    policy::{Active, Pin, Policy, Rule},
    report::{BadReport, Report},
    routing::{Basis, Event, Router},
    settings::Settings,
};

/// Costs change with every report; routes follow them so often, in milliseconds. What changes the
/// shape of the network counts at once.
const FOLLOW_COSTS_MS: u64 = 2000;

/// What a KM is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Directions {
    /// Its routes.
    pub table: Arc<RoutingTable>,
    /// The QKD link in service towards each neighbour: of several, keys are taken from this one.
    #[serde(default)]
    pub qkd: BTreeMap<ClusterId, LinkId>,
    /// Its QKD links that an operator suspended or reserved: it takes no keys from their modules.
    #[serde(default)]
    pub withheld: BTreeSet<LinkId>,
}

impl Directions {
    /// Names these directions, for telling whether others came: short, and safe in a URL.
    pub fn tag(&self) -> String {
        let mut links = Sha256::new();
        // Neither names nor IDs have line breaks.
        for (peer, link) in &self.qkd {
            links.update(format!("{peer}\n{link}\n"));
        }
        for link in &self.withheld {
            links.update(format!("\n{link}\n"));
        }
        let digest: [u8; 32] = links.finalize().into();
        let short = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("{}-{short}", self.table.version)
    }
}

/// The best way between two clusters, as shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteView {
    /// The ends.
    pub between: [ClusterId; 2],
    /// All clusters on it, both ends included.
    pub way: Vec<ClusterId>,
    /// Its cost, in thousandths of a hop in an idle network with full pools.
    pub cost: u64,
}

/// There is no such part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotKnown {
    /// No report told of it.
    #[error("{0} is not known here; no KM reported it")]
    Component(Component),
    /// The part is in another state.
    #[error(transparent)]
    Step(#[from] BadStep),
}

/// The QKDN controller.
pub struct Controller {
    settings: Settings,
    policies: Vec<Policy>,
    /// Pins of operators, in force.
    pins: Vec<Policy>,
    orders: Orders,
    network: Network,
    router: Router,
    events: VecDeque<Event>,
    /// When routes are to be looked at again for their costs; `None` when nothing changed.
    due_ms: Option<u64>,
}

impl Controller {
    /// With thresholds that were checked, and the policies of its configuration.
    pub fn new(settings: Settings, policies: Vec<Policy>) -> Self {
        Self {
            settings,
            policies,
            pins: Vec::new(),
            orders: Orders::default(),
            network: Network::default(),
            router: Router::default(),
            events: VecDeque::new(),
            due_ms: None,
        }
    }

    /// Takes over what operators ordered of an earlier one.
    pub fn with_orders(mut self, orders: Orders) -> Self {
        self.orders = orders;
        self.obey(0);
        self
    }

    /// What operators ordered, to be kept, and told to controllers that stand by.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Takes orders that operators gave to another controller. Whether there was anything new; routes were
    /// computed anew then.
    pub fn merge(&mut self, orders: Orders, now_ms: u64) -> bool {
        let changed = self.orders.merge(orders);
        if changed {
            self.obey(now_ms);
            self.network.settle(&self.settings, now_ms);
            self.reroute(now_ms);
        }
        changed
    }

    fn obey(&mut self, now: u64) {
        self.network.obey(self.orders.held(), now);
        self.pins = self.orders.pinned().cloned().map(pinned).collect();
    }

    /// Takes a report in; the sender's identity was checked. Whether routes were computed anew.
    ///
    /// # Errors
    /// When the report contradicts itself.
    pub fn hear(&mut self, report: Report, now_ms: u64) -> Result<bool, BadReport> {
        self.hear_all(vec![report], now_ms)
    }

    /// Takes the reports of one moment in together; see [`Controller::hear`].
    ///
    /// # Errors
    /// When one of them contradicts itself; those before it were taken.
    pub fn hear_all(&mut self, reports: Vec<Report>, now_ms: u64) -> Result<bool, BadReport> {
        let wanted = self.network.wanted();
        for report in reports {
            report.check()?;
            self.network.hear(report, now_ms);
        }
        let shape = self.network.settle(&self.settings, now_ms);
        if shape || wanted != self.network.wanted() {
            self.reroute(now_ms);
            return Ok(true);
        }
        self.due_ms.get_or_insert(now_ms + FOLLOW_COSTS_MS);
        Ok(false)
    }

    /// Lets time pass: silent KMs, changed costs, policies with hours. Whether routes were computed
    /// anew. Call it some times a second.
    pub fn tick(&mut self, now_ms: u64) -> bool {
        let shape = self.network.settle(&self.settings, now_ms);
        let due = shape || self.due_ms.is_some_and(|due| now_ms >= due);
        if due {
            self.reroute(now_ms);
        }
        due
    }

    fn reroute(&mut self, now: u64) {
        self.due_ms = None;
        let Self { settings, policies, pins, network, router, events, .. } = self;
        let policies = Active::at(policies.iter().chain(pins.iter()), now);
        let basis = Basis { network, policies, settings, now };
        events.extend(router.compute(&basis));
        let surplus = events.len().saturating_sub(settings.events);
        events.drain(..surplus);
        // Hours of policies begin and end without a report.
        let hours = self.policies.iter().any(|policy| policy.hours.is_some());
        self.due_ms = hours.then_some(now + FOLLOW_COSTS_MS);
    }

    /// What a KM is to do.
    pub fn directions(&self, cluster: &ClusterId) -> Directions {
        let qkd = self.network.in_service(cluster);
        let withheld = self.network.withheld(cluster);
        Directions { table: self.router.table(cluster), qkd, withheld }
    }

    /// An operator's step on a part of the network.
    ///
    /// # Errors
    /// When there is no such part, or its state does not allow it.
    pub fn operate(
        &mut self,
        component: &Component,
        step: Step,
        now_ms: u64,
    ) -> Result<State, NotKnown> {
        let unknown = || NotKnown::Component(component.clone());
        let state = self.network.operator(component, step, now_ms).ok_or_else(unknown)??;
        self.orders.part(component, state, now_ms);
        self.network.settle(&self.settings, now_ms);
        self.reroute(now_ms);
        self.network.state(component).ok_or_else(unknown)
    }

    /// Pins a way, in place of an earlier pin between the same clusters.
    pub fn pin(&mut self, pin: Pin, now_ms: u64) {
        self.orders.pin(pin, now_ms);
        self.obey(now_ms);
        self.reroute(now_ms);
    }

    /// Ends a pin that an operator made. Whether there was one.
    pub fn unpin(&mut self, between: &[ClusterId; 2], now_ms: u64) -> bool {
        let was = self.orders.unpin(&Pair::new(&between[0], &between[1]), now_ms);
        self.obey(now_ms);
        self.reroute(now_ms);
        was
    }

    /// All parts with their states.
    pub fn components(&self) -> Vec<ComponentView> {
        self.network.views()
    }

    /// The KM links that may carry keys now.
    pub fn edges(&self) -> Vec<EdgeView> {
        let view = |(pair, edge): (Pair, crate::network::Edge)| EdgeView {
            ends: [pair.ends().0.clone(), pair.ends().1.clone()],
            feed: edge.feed,
            stock_bits: edge.stock_bits,
            low: edge.low,
            rate_bps: edge.rate_bps,
            drain_bps: edge.drain_bps,
        };
        self.network.edges().into_iter().map(view).collect()
    }

    /// The accounts of all pools, as their ends last reported them.
    pub fn books(&self) -> Books {
        Books::of(self.network.books())
    }

    /// The best way of each pair that wants one and has one.
    pub fn routes(&self) -> Vec<RouteView> {
        let each = self.router.best().map(|(pair, path)| RouteView {
            between: [pair.ends().0.clone(), pair.ends().1.clone()],
            way: path.nodes.clone(),
            cost: path.cost,
        });
        each.collect()
    }

    /// Pairs of clusters that want keys of each other, and how many of them have a way.
    pub fn pairs(&self) -> (usize, usize) {
        (self.network.wanted().len(), self.router.best().count())
    }

    /// The clusters whose KMs reported.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterId> {
        self.network.clusters()
    }

    /// Changes of routes, the oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.iter()
    }

    /// The version of the table that a KM said it goes by; 0 when it did not.
    pub fn table_at(&self, cluster: &ClusterId) -> u64 {
        self.network.table_at(cluster)
    }
}

fn pinned(pin: Pin) -> Policy {
    Policy { rule: Rule::Pin(pin), hours: None }
}
