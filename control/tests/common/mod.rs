//! A network to report about: clusters, links, and what is wrong with them. Enter through [`Net`].
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;

use control::{
    Controller, Event,
    policy::Policy,
    report::{Light, LinkReport, QkdReport, Report},
    settings::Settings,
};
use km_core::{
    ids::{ClusterId, LinkId},
    route::Route,
};

pub fn name(text: &str) -> ClusterId {
    ClusterId::parse(text).unwrap()
}

/// One link as both ends see it.
#[derive(Clone, Debug)]
pub struct Link {
    pub up: bool,
    pub stock: u64,
    pub spent: u64,
    /// QKD links by name, with light, error rate, and whether the modules of the lower and the
    /// higher end are well.
    pub qkd: Vec<(String, Light, f64, [bool; 2])>,
    pub rate: f64,
    pub without_qkd: bool,
}

impl Default for Link {
    fn default() -> Self {
        let qkd = vec![("1".to_owned(), Light::Up, 0.02, [true, true])];
        Self { up: true, stock: 64 << 20, spent: 0, qkd, rate: 100_000.0, without_qkd: false }
    }
}

pub struct Net {
    pub controller: Controller,
    pub links: BTreeMap<(ClusterId, ClusterId), Link>,
    pub down: Vec<ClusterId>,
    pub wants: BTreeMap<ClusterId, Vec<ClusterId>>,
    pub now: u64,
}

impl Net {
    /// With one QKD link on each of `links`; `wants` are the pairs that share keys.
    pub fn new(links: &[(&str, &str)], wants: &[(&str, &str)]) -> Self {
        Self::with(links, wants, Settings::default(), Vec::new())
    }

    pub fn with(
        links: &[(&str, &str)],
        wants: &[(&str, &str)],
        settings: Settings,
        policies: Vec<Policy>,
    ) -> Self {
        settings.check().unwrap();
        let mut net = Self {
            controller: Controller::new(settings, policies),
            links: BTreeMap::new(),
            down: Vec::new(),
            wants: BTreeMap::new(),
            now: 1_000_000,
        };
        for (a, b) in links {
            assert!(a < b);
            net.links.insert((name(a), name(b)), Link::default());
        }
        for (a, b) in wants {
            net.wants.entry(name(a)).or_default().push(name(b));
        }
        net.report();
        net
    }

    pub fn link(&mut self, a: &str, b: &str) -> &mut Link {
        self.links.get_mut(&(name(a), name(b))).unwrap()
    }

    pub fn clusters(&self) -> Vec<ClusterId> {
        let mut all: Vec<_> = self.links.keys().flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
        all.sort();
        all.dedup();
        all
    }

    pub fn report_of(&self, here: &ClusterId) -> Report {
        let mut report = Report {
            cluster: here.clone(),
            trouble: None,
            table: 0,
            wants: self.wants.get(here).cloned().unwrap_or_default(),
            links: Vec::new(),
        };
        for ((a, b), link) in &self.links {
            let (peer, end) = match here {
                here if here == a => (b, 0),
                here if here == b => (a, 1),
                _ => continue,
            };
            let qkd = |(id, light, qber, well): &(String, Light, f64, [bool; 2])| QkdReport {
                link: LinkId::parse(&format!("{a}-{b}-{id}")).unwrap(),
                module_well: well[end],
                light: Some(*light),
                rate_bps: Some(link.rate),
                qber: Some(*qber),
            };
            report.links.push(LinkReport {
                peer: peer.clone(),
                up: link.up && !self.down.contains(peer),
                channels: Vec::new(),
                stock_bits: link.stock,
                taken_bits: 0,
                spent_bits: link.spent,
                book: None,
                qkd: link.qkd.iter().map(qkd).collect(),
                without_qkd: link.without_qkd,
            });
        }
        report
    }

    /// All KMs that are up report, a tenth of a second later.
    pub fn report(&mut self) {
        self.now += 100;
        for here in self.clusters() {
            if !self.down.contains(&here) {
                self.controller.hear(self.report_of(&here), self.now).unwrap();
            }
        }
    }

    /// So many seconds pass, with a report in each.
    pub fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += 900;
            self.report();
            self.controller.tick(self.now);
        }
    }

    /// The routes from one cluster to another, as names of the clusters passed.
    pub fn routes(&self, from: &str, to: &str) -> Vec<String> {
        let table = self.controller.directions(&name(from)).table;
        table.routes(&name(to)).iter().map(shown).collect()
    }

    /// The first of them.
    pub fn best(&self, from: &str, to: &str) -> String {
        self.routes(from, to).into_iter().next().unwrap_or_default()
    }

    pub fn last_event(&self) -> Event {
        self.controller.events().next_back().unwrap().clone()
    }
}

pub fn shown(route: &Route) -> String {
    route.hops().iter().map(ClusterId::as_str).collect::<Vec<_>>().join(" ")
}
