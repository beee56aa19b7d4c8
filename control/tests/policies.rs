//! What operators ask of the routes.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Net, name};
use control::{
    Why,
    policy::{Forbid, Pin, Policy, Prefer, Ration, Rule},
    settings::Settings,
};
use km_core::{feeding::Mode, route::CipherPolicy};

const SQUARE: [(&str, &str); 4] = [("a", "b"), ("b", "d"), ("a", "c"), ("c", "d")];

fn square(rules: Vec<Rule>) -> Net {
    let policies = rules.into_iter().map(|rule| Policy { rule, hours: None }).collect();
    Net::with(&SQUARE, &[("a", "d")], Settings::default(), policies)
}

fn pin(via: &str, strict: bool) -> Pin {
    Pin { between: ["d", "a"].map(name), via: vec![name(via)], strict }
}

#[test]
fn a_pinned_way_is_first_while_it_serves() {
    let mut net = square(Vec::new());
    assert_eq!(net.best("a", "d"), "b d");
    net.controller.pin(pin("c", false), net.now);
    assert_eq!((net.best("a", "d"), net.best("d", "a")), ("c d".into(), "c a".into()));
    assert_eq!(net.last_event().why, Why::Policy);
    net.link("c", "d").up = false;
    net.report();
    assert_eq!(net.routes("a", "d"), ["b d"]);
    net.controller.pin(pin("c", true), net.now);
    assert!(net.routes("a", "d").is_empty(), "rather no key than another way");
    assert!(net.controller.unpin(&["a", "d"].map(name), net.now));
    assert_eq!(net.routes("a", "d"), ["b d"]);
}

#[test]
fn what_is_forbidden_is_never_passed() {
    let forbid =
        |part: &str, between| Rule::Forbid(Forbid { part: part.parse().unwrap(), between });
    let net = square(vec![forbid("km/b", None)]);
    assert_eq!(net.routes("a", "d"), ["c d"]);
    let net = square(vec![forbid("km-link/c~d", Some(["a", "d"].map(name)))]);
    assert_eq!(net.routes("a", "d"), ["b d"]);
    let net = square(vec![forbid("km/b", Some(["a", "c"].map(name)))]);
    assert_eq!(net.routes("a", "d").len(), 2, "only for keys between others");
    let net = square(vec![forbid("km/a", None)]);
    assert_eq!(net.routes("a", "d").len(), 2, "an end is no middle node");
}

#[test]
fn a_link_may_be_preferred_or_not() {
    let prefer = |percent| Rule::Prefer(Prefer { link: ["b", "d"].map(name), percent });
    assert_eq!(square(vec![prefer(50)]).best("a", "d"), "b d");
    assert_eq!(square(vec![prefer(300)]).best("a", "d"), "c d");
}

#[test]
fn a_ration_is_shared_by_those_who_need_the_link() {
    // A satellite at s feeds the only way between the ground stations.
    let policies = vec![Policy {
        rule: Rule::Ration(Ration { link: ["g", "s"].map(name), bits_per_s: 4000 }),
        hours: None,
    }];
    let links = [("g", "s"), ("h", "s"), ("g", "h")];
    let mut net = Net::with(&links, &[("g", "s"), ("g", "h")], Settings::default(), policies);
    let most = |net: &Net, from: &str, to: &str| {
        net.controller.directions(&name(from)).table.to[&name(to)].max_bits_per_s
    };
    assert_eq!((most(&net, "g", "s"), most(&net, "s", "g")), (Some(4000), Some(4000)));
    assert_eq!((net.routes("g", "h"), most(&net, "g", "h")), (vec!["h".to_owned()], None));
    net.link("g", "h").up = false;
    net.report();
    assert_eq!(net.routes("g", "h"), ["s h"]);
    assert_eq!((most(&net, "g", "h"), most(&net, "s", "g")), (Some(2000), Some(2000)));
}

#[test]
fn disjoint_ways_share_no_trusted_node() {
    let net = square(Vec::new());
    let table = net.controller.directions(&name("a")).table;
    let ways = table.disjoint(&name("d"));
    assert!(ways.len() == 2 && ways[0].is_disjoint(&ways[1]));
    // A bridge has none; and two that a greedy search misses are found.
    let net = Net::new(&[("a", "b"), ("b", "d")], &[("a", "d")]);
    assert!(net.controller.directions(&name("a")).table.disjoint(&name("d")).is_empty());
    let trap = [("s", "u"), ("u", "v"), ("t", "v"), ("s", "w"), ("v", "w"), ("u", "x"), ("t", "x")];
    let mut net = Net::new(&trap, &[("s", "t")]);
    for (a, b) in [("s", "w"), ("u", "x"), ("t", "x"), ("v", "w")] {
        net.link(a, b).stock = 4 << 20;
    }
    net.wait(5);
    assert_eq!(net.best("s", "t"), "u v t", "which cuts the net in two");
    let table = net.controller.directions(&name("s")).table;
    let ways = table.disjoint(&name("t"));
    assert!(ways.len() == 2 && ways[0].is_disjoint(&ways[1]), "{ways:?}");
}

#[test]
fn when_a_pool_is_fed_is_a_policy() {
    let rule = |between, when| Rule::Feed(control::policy::FeedRule { between, when });
    let feed = |net: &Net| {
        let ends = [("a", "d"), ("d", "a")].map(|(from, to)| {
            net.controller.directions(&name(from)).table.to[&name(to)].feed.clone()
        });
        assert_eq!(ends[0], ends[1], "both ends are told the same");
        ends[0].clone()
    };
    assert_eq!(feed(&square(Vec::new())), None, "as the KMs are set");
    let all = rule(None, Mode::OnDemand);
    assert_eq!(feed(&square(vec![all.clone()])), Some(Mode::OnDemand));
    let named = rule(Some(["d", "a"].map(name)), Mode::Rate(1000));
    assert_eq!(feed(&square(vec![named, all])), Some(Mode::Rate(1000)));
}

#[test]
fn the_cipher_of_a_route_is_a_policy() {
    let rule = |between, allow| Rule::Cipher(control::policy::CipherRule { between, allow });
    let cipher =
        |net: &Net| net.controller.directions(&name("a")).table.routes(&name("d"))[0].cipher();
    assert_eq!(cipher(&square(Vec::new())), CipherPolicy::OtpElseAes);
    let all = rule(None, CipherPolicy::OtpOnly);
    assert_eq!(cipher(&square(vec![all.clone()])), CipherPolicy::OtpOnly);
    let named = rule(Some(["d", "a"].map(name)), CipherPolicy::AesOnly);
    assert_eq!(cipher(&square(vec![named, all])), CipherPolicy::AesOnly);
}
