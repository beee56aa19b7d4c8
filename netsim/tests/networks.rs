//! What must hold in every network, with every fault: no pad twice, equal bytes at both ends,
//! accounts that balance, no route through what is out, no grade that is too high. The code under
//! test is the relay's and the controller's own; `netsim` looks at it from outside and fails.
//!
//! Short here; `QKM_SIM_HOURS=10000` (make simulate) simulates so many hours in all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Mutex;

use netsim::{Network, Plan, Shape, Summary, run};

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

/// What the tests of this process simulated so far.
static ALL: Mutex<Vec<Summary>> = Mutex::new(Vec::new());

fn survives(plan: &Plan) -> Summary {
    let summary = run(plan).unwrap_or_else(|broken| panic!("{plan:?}: {broken}"));
    println!("{summary}");
    let mut all = ALL.lock().unwrap();
    all.push(summary.clone());
    let sum = |of: fn(&Summary) -> u64| all.iter().map(of).sum::<u64>();
    let (keys, faults, tricks) =
        (sum(|s| s.delivered_keys), sum(|s| s.faults), sum(|s| s.mischief));
    let (count, hours) = (all.len(), all.iter().map(|s| s.hours).sum::<f64>());
    println!(
        "so far: {count} networks, {hours} simulated hours, {faults} faults, {tricks} frames tampered \
         with, {keys} keys delivered; nothing happened that must not"
    );
    drop(all);
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
fn what_is_relayed_over_a_satellite_keeps_to_its_ration() {
    let calm = Plan { faults: 0.0, satellites: 2, load: 0.5, ..small(Shape::Ring, 4, 1.0) };
    let free = Plan { hours: 2.0, rate_bps: 400_000, ..calm };
    let bits_per_s = 100;
    let rationed = Plan { ration_bps: Some(bits_per_s), ..free.clone() };
    let most = (bits_per_s as f64 / 8.0 * free.hours * 3600.0) as u64;
    let [free, rationed] = [free, rationed].map(|plan| run(&plan).unwrap());
    println!("{free}\n{rationed}");
    assert!(free.satellite_bytes > most, "nothing to be rationed: {free}");
    assert!((most / 4..=most).contains(&rationed.satellite_bytes), "{most}: {rationed}");
    assert!(rationed.delivered_keys > 0 && rationed.blocked > free.blocked);
}

#[test]
#[ignore = "takes minutes where it is not optimized; make simulate runs it"]
fn a_thousand_clusters_are_not_too_many() {
    let small = Plan { faults: 120.0, pairs: 1, load: 1.0, ..small(Shape::Mesh, 21, 1.0) };
    let plan = Plan { nodes: 1000, hours: 0.2, rate_bps: 2_000_000, ..small };
    let summary = survives(&plan);
    assert!(summary.nodes == 1000 && summary.links > 1900, "{summary}");
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

const SQUARE: &str = include_str!("../examples/square.toml");

#[test]
fn a_network_of_a_file_heals_and_its_links_without_qkd_claim_no_more() {
    let network = Network::parse(SQUARE, 20_000).unwrap();
    let small = small(Shape::Ring, 6, 0.2);
    let plan = Plan { nodes: network.nodes(), network: Some(network), ..small };
    let summary = survives(&plan);
    assert_eq!((summary.nodes, summary.links), (6, 7));
    assert!(summary.its_keys > 0 && summary.its_keys < summary.delivered_keys, "{summary}");
    assert!(plan.check().is_ok() && Plan { nodes: 7, ..plan }.check().is_err());
}

#[test]
fn without_qkd_anywhere_no_key_is_its() {
    let link = |a, b| format!("[[link]]\nbetween = [\"{a}\", \"{b}\"]\nqkd = false\n");
    let links = [link("a", "b"), link("b", "c"), link("c", "d"), link("d", "a")].concat();
    let text = format!("clusters = [\"a\", \"b\", \"c\", \"d\"]\n{links}");
    let network = Network::parse(&text, 20_000).unwrap();
    let summary =
        survives(&Plan { nodes: 4, network: Some(network), ..small(Shape::Ring, 9, 0.2) });
    assert_eq!(summary.its_keys, 0, "{summary}");
}

#[test]
fn a_file_that_contradicts_itself_is_refused_with_its_line_and_what_to_do() {
    let wrong = |from: &str, to: &str| {
        assert!(SQUARE.contains(from), "{from}");
        Network::parse(&SQUARE.replacen(from, to, 1), 20_000).unwrap_err()
    };
    let cases = [
        (
            "\"sky\", \"north\"",
            "\"sky\", \"moon\"",
            "line 32: there is no cluster \"moon\": add it",
        ),
        ("[\"sky\"]", "[\"sun\"]", "line 8: there is no cluster \"sun\": add it"),
        (
            "\"east\", \"south\"]\n",
            "\"east\", \"east\"]\n",
            "line 18: link of \"east\" and \"east\"",
        ),
        (
            "[\"west\", \"north\"]",
            "[\"west\", \"south\"]",
            "line 24: link of \"west\" and \"south\": there",
        ),
        (
            "\"east\", \"south\", \"west\", \"harb",
            "\"east\", \"east\", \"west\", \"harb",
            "line 5: cluster \"east\" is",
        ),
        ("\"n-e\"", "\"l0001\"", "line 18: link of \"east\" and \"south\": another link is l0001"),
        ("4_000_000", "0", "line 11: link of \"north\" and \"east\": its `rate` must be 1 to"),
        ("rate = 4_000_000", "length = 7", "line 15: unknown field `length`"),
        ("\"n-e\"", "\"n e\"", "line 11: link of \"north\" and \"east\": its name"),
    ];
    for (from, to, said) in cases {
        let error = wrong(from, to);
        assert!(error.starts_with(said), "{error}");
    }
    let few = "clusters = [\"a\", \"b\"]\nlink = []\n";
    assert!(Network::parse(few, 1).unwrap_err().contains("name 4 to 1000"));
    let lone = "clusters = [\"a\", \"b\", \"c\", \"d\"]\nlink = []\n";
    assert!(Network::parse(lone, 1).unwrap_err().contains("give 1 to"));
    let names: Vec<String> = (0..1001).map(|at| format!("\"c{at}\"")).collect();
    let many = format!("clusters = [{}]\nlink = []\n", names.join(", "));
    assert!(Network::parse(&many, 1).unwrap_err().starts_with("1001 `clusters`"));
}
