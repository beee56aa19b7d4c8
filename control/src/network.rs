//! The network as reported: its parts with their states, and the edges that may carry keys (`edges`).

mod edges;

use std::collections::{BTreeMap, BTreeSet};

use km_core::ids::{ClusterId, LinkId};
use serde::Serialize;

use crate::{
    component::{BadStep, Component, Pair, State, Step},
    health::{self, Fault},
    orders::is_held,
    report::{Book, LinkReport, QkdReport, Report},
    settings::Settings,
};

pub(crate) use edges::Edge;
pub use edges::{EdgeView, Feed};

/// What a KM said last, and when.
struct Heard {
    report: Report,
    at_ms: u64,
    /// Bits spent per second on each link, smoothed.
    drain_bps: BTreeMap<ClusterId, u64>,
}

/// One part and how it is.
#[derive(Clone, Copy)]
struct Part {
    state: State,
    fault: Option<Fault>,
    since_ms: u64,
}

/// A part as shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComponentView {
    /// Which.
    pub component: Component,
    /// Its state in words.
    pub state: &'static str,
    /// What is wrong with it now, whatever its state.
    pub fault: Option<&'static str>,
    /// Milliseconds since the Unix epoch when the state last changed.
    pub since_ms: u64,
}

#[derive(Default)]
pub(crate) struct Network {
    heard: BTreeMap<ClusterId, Heard>,
    parts: BTreeMap<Component, Part>,
    low: BTreeSet<Pair>,
    /// What operators hold, whether there are such parts now or not.
    held: BTreeMap<Component, State>,
}

impl Network {
    /// From now on operators hold these parts, and no others.
    pub(crate) fn obey(&mut self, held: BTreeMap<Component, State>, now: u64) {
        for (component, part) in &mut self.parts {
            let state = match held.get(component) {
                Some(state) => *state,
                None if is_held(part.state) => State::Standby,
                None => continue,
            };
            if part.state != state {
                (part.state, part.since_ms) = (state, now);
            }
        }
        self.held = held;
    }

    /// What the two ends of each pool say of it, from the lower end.
    pub(crate) fn books(&self) -> BTreeMap<Pair, [Option<Book>; 2]> {
        let mut all: BTreeMap<Pair, [Option<Book>; 2]> = BTreeMap::new();
        for (cluster, heard) in &self.heard {
            for link in &heard.report.links {
                let pair = Pair::new(cluster, &link.peer);
                let end = usize::from(pair.ends().0 != cluster);
                all.entry(pair).or_default()[end] = link.book;
            }
        }
        all
    }

    /// Takes a report in.
    pub(crate) fn hear(&mut self, report: Report, now: u64) {
        let before = self.heard.remove(&report.cluster);
        let mut drain_bps = BTreeMap::new();
        for link in &report.links {
            let old = before.as_ref().and_then(|before| {
                let passed = now.saturating_sub(before.at_ms);
                let spent = before.report.link(&link.peer)?.spent_bits;
                Some((passed, spent, before.drain_bps.get(&link.peer).copied().unwrap_or(0)))
            });
            let rate = match old {
                Some((passed @ 1.., spent, smooth)) if spent <= link.spent_bits => {
                    let now_bps = (link.spent_bits - spent).saturating_mul(1000) / passed;
                    (smooth.saturating_mul(3).saturating_add(now_bps)) / 4
                }
                Some((_, _, smooth)) => smooth,
                None => 0,
            };
            drain_bps.insert(link.peer.clone(), rate);
        }
        let cluster = report.cluster.clone();
        self.heard.insert(cluster, Heard { report, at_ms: now, drain_bps });
    }

    /// Which routes are wanted: pairs of clusters, both heard of.
    pub(crate) fn wanted(&self) -> BTreeSet<Pair> {
        let each = self.heard.values().flat_map(|heard| {
            let here = &heard.report.cluster;
            heard.report.wants.iter().filter(move |to| *to != here).map(|to| Pair::new(here, to))
        });
        each.filter(|pair| {
            let (a, b) = pair.ends();
            self.heard.contains_key(a) && self.heard.contains_key(b)
        })
        .collect()
    }

    /// The clusters heard of.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &ClusterId> {
        self.heard.keys()
    }

    /// The version of the table that a KM goes by.
    pub(crate) fn table_at(&self, cluster: &ClusterId) -> u64 {
        self.heard.get(cluster).map_or(0, |heard| heard.report.table)
    }

    fn pairs(&self) -> BTreeSet<Pair> {
        let each = self.heard.values().flat_map(|heard| {
            let here = &heard.report.cluster;
            heard.report.links.iter().map(move |link| Pair::new(here, &link.peer))
        });
        each.collect()
    }

    fn link_ends(&self, pair: &Pair) -> [Option<&LinkReport>; 2] {
        let (a, b) = pair.ends();
        let end = |here: &ClusterId, there| self.heard.get(here)?.report.link(there);
        [end(a, b), end(b, a)]
    }

    /// The QKD links of a pair, first choice first.
    fn qkd_of(&self, pair: &Pair) -> Vec<LinkId> {
        let mut found: Vec<LinkId> = Vec::new();
        for qkd in self.link_ends(pair).into_iter().flatten().flat_map(|link| &link.qkd) {
            if !found.contains(&qkd.link) {
                found.push(qkd.link.clone());
            }
        }
        found
    }

    fn qkd_ends(&self, pair: &Pair, id: &LinkId) -> [Option<&QkdReport>; 2] {
        self.link_ends(pair).map(|end| end?.qkd.iter().find(|qkd| qkd.link == *id))
    }

    /// What is wrong with each part that there is.
    fn judge(&self, settings: &Settings, now: u64) -> BTreeMap<Component, Option<Fault>> {
        let mut found = BTreeMap::new();
        for (cluster, heard) in &self.heard {
            let fault = health::km(&heard.report, heard.at_ms, settings, now);
            found.insert(Component::Km(cluster.clone()), fault);
        }
        for pair in self.pairs() {
            let ends = self.link_ends(&pair);
            found.insert(Component::KmLink(pair.clone()), health::km_link(ends));
            for (number, well) in channels(ends).into_iter().enumerate() {
                let fault = (!well).then_some(Fault::Channel);
                found.insert(Component::Channel(pair.clone(), number as u8), fault);
            }
            for id in self.qkd_of(&pair) {
                let ends = self.qkd_ends(&pair, &id);
                let name = Component::QkdLink(id.clone());
                let was = self.parts.get(&name).and_then(|part| part.fault);
                let was_high = was == Some(Fault::HighQber);
                note(&mut found, name, health::qkd_link(ends, was_high, settings));
                let (a, b) = pair.ends();
                for (cluster, end) in [a, b].into_iter().zip(ends) {
                    let Some(end) = end else { continue };
                    let module = Component::Module(id.clone(), cluster.clone());
                    note(&mut found, module, health::module(end));
                }
            }
        }
        found
    }

    /// Brings the states in line with the reports. Whether anything but stocks and rates changed.
    pub(crate) fn settle(&mut self, settings: &Settings, now: u64) -> bool {
        let before: Vec<_> = self.looks().collect();
        let faults = self.judge(settings, now);
        self.parts.retain(|component, _| faults.contains_key(component));
        for (component, fault) in faults {
            let start = self.held.get(&component).copied().unwrap_or(State::Standby);
            let fresh = Part { state: start, fault: None, since_ms: now };
            let part = self.parts.entry(component).or_insert(fresh);
            part.fault = fault;
            part.take(if fault.is_some() { Step::Fail } else { Step::Recover }, now);
        }
        self.choose(now);
        let low = self.note_low(settings);
        low || !self.looks().eq(before)
    }

    fn looks(&self) -> impl Iterator<Item = (State, Option<Fault>)> {
        self.parts.values().map(|part| (part.state, part.fault))
    }

    /// Puts into service one of each group that has none.
    fn choose(&mut self, now: u64) {
        for pair in self.pairs() {
            let links = self.qkd_of(&pair);
            let (withheld, links): (Vec<_>, Vec<_>) =
                links.into_iter().partition(|id| self.is_withheld(&pair, id));
            for link in withheld {
                self.take(&Component::QkdLink(link), Step::Demote, now);
            }
            let links = links.into_iter().map(Component::QkdLink).collect::<Vec<_>>();
            let serves = |component: &Component| self.state(component) == Some(State::InService);
            if !links.iter().any(serves) {
                let ready = |c: &&Component| self.state(c) == Some(State::Standby);
                if let Some(next) = links.iter().find(ready).cloned() {
                    self.take(&next, Step::Promote, now);
                }
            }
            let used = self
                .link_ends(&pair)
                .into_iter()
                .flatten()
                .find_map(|link| link.channels.iter().position(|channel| channel.in_use));
            for number in 0..channels(self.link_ends(&pair)).len() {
                let step = if used == Some(number) { Step::Promote } else { Step::Demote };
                self.take(&Component::Channel(pair.clone(), number as u8), step, now);
            }
        }
        for (component, part) in &mut self.parts {
            if !matches!(component, Component::QkdLink(_) | Component::Channel(..)) {
                part.take(Step::Promote, now);
            }
        }
    }

    fn take(&mut self, component: &Component, step: Step, now: u64) {
        if let Some(part) = self.parts.get_mut(component) {
            part.take(step, now);
        }
    }

    /// Whether a pool fell below the threshold, or filled again.
    fn note_low(&mut self, settings: &Settings) -> bool {
        let mut changed = false;
        for pair in self.pairs() {
            let stock = self.stock(&pair);
            let line = match self.low.contains(&pair) {
                true => settings.low_bits.saturating_mul(2),
                false => settings.low_bits,
            };
            changed |= match stock < line {
                true => self.low.insert(pair),
                false => self.low.remove(&pair),
            };
        }
        changed
    }

    fn stock(&self, pair: &Pair) -> u64 {
        let ends = self.link_ends(pair).into_iter().flatten();
        ends.map(|link| link.stock_bits).min().unwrap_or(0)
    }

    /// Its state, if there is such a part.
    pub(crate) fn state(&self, component: &Component) -> Option<State> {
        self.parts.get(component).map(|part| part.state)
    }

    /// What is wrong with it.
    pub(crate) fn fault(&self, component: &Component) -> Option<Fault> {
        self.parts.get(component).and_then(|part| part.fault)
    }

    /// An operator's step. The order is remembered for when the part comes back.
    pub(crate) fn operator(
        &mut self,
        component: &Component,
        step: Step,
        now: u64,
    ) -> Option<Result<State, BadStep>> {
        let part = self.parts.get_mut(component)?;
        Some(part.state.after(step).inspect(|state| {
            (part.state, part.since_ms) = (*state, now);
            match is_held(*state) {
                true => self.held.insert(component.clone(), *state),
                false => self.held.remove(component),
            };
        }))
    }

    fn serves(&self, component: Component) -> bool {
        self.state(&component) == Some(State::InService)
    }

    /// Whether an operator took the QKD link, or its module at either end, out of service, or
    /// reserved it.
    fn is_withheld(&self, pair: &Pair, id: &LinkId) -> bool {
        let (a, b) = pair.ends();
        let taken = |component| self.state(&component).is_some_and(is_held);
        taken(Component::QkdLink(id.clone()))
            || [a, b].into_iter().any(|end| taken(Component::Module(id.clone(), end.clone())))
    }

    /// The QKD links of a cluster that operators took out.
    pub(crate) fn withheld(&self, cluster: &ClusterId) -> BTreeSet<LinkId> {
        let Some(heard) = self.heard.get(cluster) else { return BTreeSet::new() };
        let each = heard.report.links.iter().flat_map(|link| {
            let pair = Pair::new(cluster, &link.peer);
            let links = self.qkd_of(&pair).into_iter();
            links.filter(|id| self.is_withheld(&pair, id)).collect::<Vec<_>>()
        });
        each.collect()
    }

    /// The QKD link in service towards each neighbour of a cluster.
    pub(crate) fn in_service(&self, cluster: &ClusterId) -> BTreeMap<ClusterId, LinkId> {
        let Some(heard) = self.heard.get(cluster) else { return BTreeMap::new() };
        let each = heard.report.links.iter().filter_map(|link| {
            let links = self.qkd_of(&Pair::new(cluster, &link.peer));
            let serving = links.into_iter().find(|id| self.serves(Component::QkdLink(id.clone())));
            Some((link.peer.clone(), serving?))
        });
        each.collect()
    }

    /// All parts, as shown.
    pub(crate) fn views(&self) -> Vec<ComponentView> {
        let view = |(component, part): (&Component, &Part)| ComponentView {
            component: component.clone(),
            state: part.state.as_str(),
            fault: part.fault.map(Fault::as_str),
            since_ms: part.since_ms,
        };
        self.parts.iter().map(view).collect()
    }
}

impl Part {
    /// Takes a step the state allows; others are not for it.
    fn take(&mut self, step: Step, now: u64) {
        if let Ok(state) = self.state.after(step) {
            (self.state, self.since_ms) = (state, now);
        }
    }
}

/// Two pairs may give their QKD links the same ID, by mistake or not: the fault of one is not
/// hidden by the other, least of all a high error rate.
fn note(
    found: &mut BTreeMap<Component, Option<Fault>>,
    component: Component,
    fault: Option<Fault>,
) {
    let worst = found.entry(component).or_default();
    if *worst != Some(Fault::HighQber) && fault.is_some() {
        *worst = fault;
    }
}

/// Whether each channel is well, by both ends.
fn channels(ends: [Option<&LinkReport>; 2]) -> Vec<bool> {
    let most = ends.iter().flatten().map(|link| link.channels.len()).max().unwrap_or(0);
    let well = |number: usize| {
        let mut said = ends.iter().flatten().filter_map(|link| link.channels.get(number));
        said.all(|channel| channel.well)
    };
    (0..most).map(well).collect()
}
