//! Random networks with random faults: what holds for every table.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{Link, Net, name};
use control::report::Light;
use km_core::{ids::ClusterId, route::Route};
use proptest::prelude::*;

const NODES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

#[derive(Clone, Debug)]
enum Fault {
    Link(usize, bool),
    Km(usize, bool),
    Light(usize, Light),
    Qber(usize, f64),
    Module(usize, bool),
    Stock(usize, u64),
}

fn faults() -> impl Strategy<Value = Fault> {
    let light = prop_oneof![Just(Light::Up), Just(Light::Down), Just(Light::Aborted)];
    prop_oneof![
        (any::<usize>(), any::<bool>()).prop_map(|(at, up)| Fault::Link(at, up)),
        (any::<usize>(), any::<bool>()).prop_map(|(at, up)| Fault::Km(at, up)),
        (any::<usize>(), light).prop_map(|(at, light)| Fault::Light(at, light)),
        (any::<usize>(), 0.0..0.2).prop_map(|(at, qber)| Fault::Qber(at, qber)),
        (any::<usize>(), any::<bool>()).prop_map(|(at, well)| Fault::Module(at, well)),
        (any::<usize>(), 0u64..(128 << 20)).prop_map(|(at, stock)| Fault::Stock(at, stock)),
    ]
}

fn links() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let every: Vec<_> = (0..NODES.len())
        .flat_map(|a| (a + 1..NODES.len()).map(move |b| (NODES[a], NODES[b])))
        .collect();
    let most = every.len();
    proptest::sample::subsequence(every, 6..=most)
}

fn at(net: &mut Net, link: usize) -> &mut Link {
    let count = net.links.len();
    net.links.values_mut().nth(link % count).unwrap()
}

fn strike(net: &mut Net, fault: &Fault) {
    match *fault {
        Fault::Link(link, up) => at(net, link).up = up,
        Fault::Light(link, light) => at(net, link).qkd[0].1 = light,
        Fault::Qber(link, qber) => at(net, link).qkd[0].2 = qber,
        Fault::Module(link, well) => at(net, link).qkd[0].3[link % 2] = well,
        Fault::Stock(link, stock) => at(net, link).stock = stock,
        Fault::Km(node, up) => {
            let node = name(NODES[node % NODES.len()]);
            net.down.retain(|other| *other != node);
            if !up {
                net.down.push(node);
            }
        }
    }
}

/// Whether keys may pass between two neighbours now.
fn passable(net: &Net, a: &ClusterId, b: &ClusterId) -> bool {
    let key = if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
    let out = |node| net.down.contains(node);
    let Some(link) = net.links.get(&key).filter(|link| link.up && !out(a) && !out(b)) else {
        return false;
    };
    let (_, light, qber, _) = &link.qkd[0];
    *light != Light::Aborted && *qber <= 0.08
}

fn whole(from: &ClusterId, route: &Route) -> Vec<ClusterId> {
    std::iter::once(from).chain(route.hops()).cloned().collect()
}

/// Clusters reachable over passable links.
fn reachable(net: &Net, from: &ClusterId) -> BTreeSet<ClusterId> {
    let (mut seen, mut next) = (BTreeSet::from([from.clone()]), vec![from.clone()]);
    while let Some(node) = next.pop() {
        for other in net.clusters() {
            if passable(net, &node, &other) && seen.insert(other.clone()) {
                next.push(other);
            }
        }
    }
    seen
}

fn hold(net: &Net) -> Result<(), TestCaseError> {
    for here in net.clusters().iter().filter(|here| !net.down.contains(here)) {
        let table = net.controller.directions(here).table;
        prop_assert_eq!(table.check(here), Ok(()));
        for (to, ways) in &table.to {
            for route in ways.routes.iter().chain(&ways.disjoint) {
                let nodes = whole(here, route);
                prop_assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), nodes.len(), "a loop");
                for step in nodes.windows(2) {
                    prop_assert!(passable(net, &step[0], &step[1]), "{:?} is out", step);
                }
            }
            for (at, one) in ways.disjoint.iter().enumerate() {
                prop_assert!(ways.disjoint.iter().skip(at + 1).all(|two| one.is_disjoint(two)));
            }
            let back = net.controller.directions(to).table;
            let mut best = whole(here, &ways.routes[0]);
            best.reverse();
            prop_assert_eq!(&best, &whole(to, &back.routes(here)[0]), "the ends go one way");
        }
        let reached = reachable(net, here);
        for to in net.wants.get(here).into_iter().flatten() {
            let listed = table.to.contains_key(to);
            prop_assert!(!listed || reached.contains(to));
            // A link that recovers is trusted a little below the threshold only.
            let doubt = net.links.values().any(|link| (0.072..=0.08).contains(&link.qkd[0].2));
            prop_assert!(listed || doubt || !reached.contains(to), "{} cannot be reached", to);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// No route passes what is out of service, none has a loop, both ends go one way, disjoint
    /// ones are, and whoever can be reached is.
    #[test]
    fn tables_are_sound_after_every_fault(
        links in links(),
        faults in prop::collection::vec(faults(), 1..12),
    ) {
        let every = NODES.iter().enumerate();
        let wants: Vec<_> =
            every.flat_map(|(at, a)| NODES[at + 1..].iter().map(|b| (*a, *b))).collect();
        let mut net = Net::new(&links, &wants);
        let there = net.clusters();
        net.wants.retain(|here, _| there.contains(here));
        net.wants.values_mut().for_each(|to| to.retain(|to| there.contains(to)));
        for fault in &faults {
            strike(&mut net, fault);
            // Long enough for a silent KM to be noticed.
            net.wait(7);
            hold(&net)?;
        }
    }

    /// Two controllers that hear the same say the same.
    #[test]
    fn controllers_agree(
        links in links(),
        faults in prop::collection::vec(faults(), 1..6),
    ) {
        let wants = [("a", "h"), ("b", "g"), ("c", "d")];
        let (mut one, mut two) = (Net::new(&links, &wants), Net::new(&links, &wants));
        for fault in &faults {
            for net in [&mut one, &mut two] {
                strike(net, fault);
                net.wait(3);
            }
        }
        for here in one.clusters() {
            prop_assert_eq!(one.controller.directions(&here), two.controller.directions(&here));
        }
    }

    /// More stock or rate never makes a way dearer; more consumption never cheaper.
    #[test]
    fn costs_are_monotone(
        stock in 2u64 << 20..(80 << 20), more in 0u64..(40 << 20),
        rate in 0u32..1_000_000, faster in 0u32..1_000_000,
        spent in 0u64..1_000_000, busier in 0u64..1_000_000,
    ) {
        let cost = |stock: u64, rate: u32, spent: u64| {
            let mut net = Net::new(&[("a", "b")], &[("a", "b")]);
            net.link("a", "b").stock = stock;
            net.link("a", "b").rate = f64::from(rate);
            net.link("a", "b").spent = spent;
            net.wait(5);
            net.controller.routes()[0].cost
        };
        let base = cost(stock, rate, spent);
        prop_assert!(cost(stock + more, rate, spent) <= base);
        prop_assert!(cost(stock, rate + faster, spent) <= base);
        prop_assert!(cost(stock, rate, spent + busier) >= base);
    }
}
