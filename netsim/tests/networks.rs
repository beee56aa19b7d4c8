//! What must hold in every network, with every fault: no pad twice, equal bytes at both ends,
//! accounts that balance, no route through what is out, no grade that is too high. The code under
//! test is the relay's and the controller's own; `netsim` looks at it from outside and fails.
//!
//! Short here; `QKM_SIM_HOURS=10000` (make simulate) simulates so many hours in all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use netsim::{Plan, Shape, Summary, run};

fn hours() -> f64 {
    let text = std::env::var("QKM_SIM_HOURS").ok();
    text.map_or(40.0, |text| text.parse().expect("QKM_SIM_HOURS is a number"))
}

fn small(shape: Shape, seed: u64, share: f64) -> Plan {
    Plan {
        shape,
        nodes: 8 + (seed % 5) as usize,
        seed,
        hours: hours() * share,
        rate_bps: 20_000,
        pool_bytes: 256 << 10,
        pairs: 2,
        load: 0.3,
        batch: 2048,
        faults: 12.0,
        mischief: 0.05,
        ..Plan::default()
    }
}

fn survives(plan: &Plan) -> Summary {
    let summary = run(plan).unwrap_or_else(|broken| panic!("{plan:?}: {broken}"));
    println!("{summary}");
    assert!(summary.delivered_keys > 0 && summary.faults > 0 && summary.reroutes > 0);
    assert!(summary.mischief > 0 && summary.lost > 0, "nothing was tried: {summary}");
    summary
}

#[test]
fn rings_heal() {
    survives(&small(Shape::Ring, 1, 0.2));
}

#[test]
fn meshes_heal_and_split_keys() {
    assert!(survives(&small(Shape::Mesh, 2, 0.2)).split_keys > 0);
}

#[test]
fn backbones_heal() {
    survives(&small(Shape::Backbone, 3, 0.2));
}

#[test]
fn random_networks_heal() {
    for seed in 10..16 {
        survives(&small(Shape::Random, seed, 0.05));
    }
}

#[test]
fn satellites_come_and_go() {
    let plan = Plan { satellites: 2, ..small(Shape::Mesh, 4, 0.1) };
    survives(&plan);
}

#[test]
fn the_same_seed_gives_the_same_network() {
    let plan = Plan { hours: 2.0, ..small(Shape::Random, 7, 1.0) };
    assert_eq!(run(&plan), run(&plan));
    assert_ne!(run(&plan), run(&Plan { seed: 8, ..plan }));
}

#[test]
fn a_network_without_faults_loses_nothing() {
    let plan = Plan { faults: 0.0, mischief: 0.0, hours: 2.0, ..small(Shape::Mesh, 5, 1.0) };
    let summary = run(&Plan { rate_bps: 10_000_000, ..plan }).unwrap();
    assert_eq!((summary.lost, summary.mischief), (0, 0), "{summary}");
    assert!(summary.its_keys > 0, "{summary}");
}
