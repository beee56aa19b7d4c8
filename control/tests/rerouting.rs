//! Routes follow the four cases of 7.1.2, in the network of figure 8: nodes 1 and 3 with three ways
//! between them.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Net, name};
use control::{
    Why,
    component::{Component, State, Step},
    report::Light,
};
use km_core::ids::LinkId;

const FIGURE_8: [(&str, &str); 6] =
    [("1", "2"), ("2", "3"), ("1", "4"), ("3", "4"), ("1", "5"), ("3", "5")];

fn figure_8() -> Net {
    let mut net = Net::new(&FIGURE_8, &[("1", "3")]);
    // Node 2 has most keys, then 4, then 5.
    for (a, b, stock) in [("1", "4", 40 << 20), ("3", "4", 40 << 20), ("1", "5", 9 << 20)] {
        net.link(a, b).stock = stock;
    }
    net.wait(10);
    assert_eq!(net.routes("1", "3"), ["2 3", "4 3", "5 3"]);
    assert_eq!(net.routes("3", "1"), ["2 1", "4 1", "5 1"]);
    net
}

fn left_for(net: &Net, why: Why) {
    let event = net.last_event();
    assert_eq!((event.why, event.old), (why, ["1", "2", "3"].map(name).to_vec()));
    assert_eq!(event.new, ["1", "4", "3"].map(name).to_vec());
}

#[test]
fn low_keys() {
    let mut net = figure_8();
    net.link("2", "3").stock = (1 << 20) - 1;
    net.report();
    left_for(&net, Why::LowKeys);
    assert_eq!(net.routes("1", "3"), ["4 3", "5 3", "2 3"], "the last choice, but still one");
    net.link("2", "3").stock = (2 << 20) - 1;
    net.wait(10);
    assert_eq!(net.best("1", "3"), "4 3", "not back before it has filled well");
}

#[test]
fn a_km_that_is_silent() {
    let mut net = figure_8();
    net.down.push(name("2"));
    // Its neighbours see their links break at once.
    net.report();
    assert_eq!(net.routes("1", "3"), ["4 3", "5 3"]);
    net.wait(10);
    let state = |net: &Net, part: &str| {
        let parts = net.controller.components();
        parts.into_iter().find(|view| view.component.to_string() == part).unwrap().state
    };
    assert_eq!(state(&net, "km/2"), "out of service");
    net.down.clear();
    net.wait(1);
    assert_eq!(state(&net, "km/2"), "in service");
    assert_eq!(net.routes("1", "3").len(), 3);
}

#[test]
fn a_km_that_says_it_cannot_work() {
    let mut net = figure_8();
    let mut report = net.report_of(&name("2"));
    report.trouble = Some("the HSM is away".to_owned());
    net.controller.hear(report, net.now).unwrap();
    left_for(&net, Why::KmFault);
    assert_eq!(net.routes("1", "3"), ["4 3", "5 3"]);
}

#[test]
fn a_km_link() {
    let mut net = figure_8();
    net.link("1", "2").up = false;
    net.report();
    left_for(&net, Why::KmLinkFault);
    assert_eq!(net.routes("1", "3"), ["4 3", "5 3"]);
}

#[test]
fn an_error_rate_above_the_threshold() {
    let mut net = figure_8();
    net.link("1", "2").qkd[0].2 = 0.11;
    net.report();
    left_for(&net, Why::HighQber);
    assert_eq!(net.routes("1", "3"), ["4 3", "5 3"], "not even its stock is used");
    net.link("1", "2").qkd[0].2 = 0.02;
    net.wait(10);
    assert_eq!(net.routes("1", "3").len(), 3);
}

#[test]
fn a_module() {
    let mut net = figure_8();
    net.link("2", "3").qkd[0].3 = [false, true];
    net.report();
    left_for(&net, Why::ModuleFault);
    assert_eq!(net.routes("1", "3"), ["4 3", "5 3", "2 3"], "its stock is the last resort");
}

#[test]
fn a_cut_fibre_leaves_the_stock_as_last_resort() {
    let mut net = figure_8();
    net.link("1", "2").qkd[0].1 = Light::Down;
    net.report();
    left_for(&net, Why::QkdLinkFault);
    for node in ["4", "5"] {
        net.link("1", node).up = false;
    }
    net.report();
    assert_eq!(net.routes("1", "3"), ["2 3"]);
    net.link("2", "3").up = false;
    net.report();
    assert!(net.routes("1", "3").is_empty());
    assert!(net.last_event().new.is_empty());
}

#[test]
fn a_standby_qkd_link_is_put_into_service() {
    let mut net = figure_8();
    let standby = ("2".to_owned(), Light::Up, 0.03, [true, true]);
    net.link("1", "2").qkd.push(standby);
    net.wait(1);
    let serving = |net: &Net, here: &str, peer: &str| {
        net.controller.directions(&name(here)).qkd[&name(peer)].to_string()
    };
    assert_eq!(serving(&net, "1", "2"), "1-2-1");
    net.link("1", "2").qkd[0].2 = 0.11;
    net.report();
    assert_eq!(
        (serving(&net, "1", "2"), serving(&net, "2", "1")),
        ("1-2-2".into(), "1-2-2".into())
    );
    assert_eq!(net.best("1", "3"), "2 3", "the way stays");
    net.link("1", "2").qkd[0].2 = 0.02;
    net.wait(3);
    assert_eq!(serving(&net, "1", "2"), "1-2-2", "what works is not changed back by itself");
    net.link("1", "2").qkd[1].1 = Light::Down;
    net.report();
    assert_eq!(serving(&net, "2", "1"), "1-2-1");
}

#[test]
fn what_an_operator_takes_out_stays_out_until_it_is_given_back() {
    let mut net = figure_8();
    let km: Component = "km/2".parse().unwrap();
    net.controller.operate(&km, Step::Suspend, net.now).unwrap();
    left_for(&net, Why::Suspended);
    net.down.push(name("2"));
    net.wait(10);
    net.down.clear();
    net.wait(10);
    assert_eq!(net.routes("1", "3"), ["4 3", "5 3"]);
    let orders = net.controller.orders().clone();
    assert_eq!(net.controller.operate(&km, Step::Resume, net.now), Ok(State::InService));
    net.wait(10);
    assert_eq!(net.routes("1", "3").len(), 3);
    assert!(net.controller.orders().held().is_empty());

    // A controller that starts anew takes over what was ordered.
    let controller = control::Controller::new(Default::default(), Vec::new());
    net.controller = controller.with_orders(orders);
    net.wait(2);
    assert_eq!(net.routes("1", "3"), ["4 3", "5 3"]);
    // One that stands by for another hears what was ordered there.
    let mut other = control::Controller::new(Default::default(), Vec::new());
    std::mem::swap(&mut net.controller, &mut other);
    net.wait(2);
    assert_eq!(net.routes("1", "3").len(), 3);
    assert!(net.controller.merge(other.orders().clone(), net.now));
    assert_eq!(net.routes("1", "3"), ["4 3", "5 3"]);
    other.operate(&km, Step::Resume, net.now).unwrap();
    assert!(net.controller.merge(other.orders().clone(), net.now));
    net.wait(2);
    assert_eq!(net.routes("1", "3").len(), 3);
    let unknown: Component = "km/9".parse().unwrap();
    assert!(net.controller.operate(&unknown, Step::Suspend, net.now).is_err());
}

#[test]
fn a_suspended_qkd_link_feeds_nothing_and_its_stock_carries_nothing() {
    for part in ["qkd-link/1-2-1", "module/1-2-1/2"] {
        let mut net = figure_8();
        let part: Component = part.parse().unwrap();
        let tag = net.controller.directions(&name("1")).tag();
        net.controller.operate(&part, Step::Suspend, net.now).unwrap();
        net.wait(1);
        assert_eq!(net.routes("1", "3"), ["4 3", "5 3"], "{part}");
        assert_eq!(net.last_event().why, Why::Suspended);
        for end in ["1", "2"] {
            let told = net.controller.directions(&name(end));
            let withheld: Vec<_> = told.withheld.iter().map(LinkId::as_str).collect();
            assert_eq!(withheld, ["1-2-1"], "{part} at {end}");
            assert!(told.qkd.values().all(|id| id.as_str() != "1-2-1"), "{part} at {end}");
        }
        assert!(net.controller.directions(&name("3")).withheld.is_empty());
        assert_ne!(net.controller.directions(&name("1")).tag(), tag);
        net.controller.operate(&part, Step::Resume, net.now).unwrap();
        net.wait(10);
        assert_eq!(net.routes("1", "3").len(), 3);
        assert!(net.controller.directions(&name("1")).withheld.is_empty());
    }
}

#[test]
fn an_id_used_twice_hides_no_fault() {
    let mut net = figure_8();
    net.link("1", "2").qkd[0].2 = 0.11;
    net.report();
    let twin = LinkId::parse("1-2-1").unwrap();
    for (end, peer) in [("8", "9"), ("9", "8")] {
        let mut report = net.report_of(&name("1"));
        report.links.truncate(1);
        (report.cluster, report.links[0].peer) = (name(end), name(peer));
        report.links[0].qkd[0].link = twin.clone();
        report.links[0].qkd[0].qber = Some(0.01);
        net.controller.hear(report, net.now).unwrap();
    }
    let parts = net.controller.components();
    let of_link = parts.iter().find(|part| part.component.to_string() == "qkd-link/1-2-1");
    assert_eq!(of_link.unwrap().fault, Some("error rate above the threshold"));
    assert_eq!(net.routes("1", "3"), ["4 3", "5 3"]);
}

#[test]
fn a_way_in_use_is_kept_until_another_is_clearly_better() {
    let mut net = figure_8();
    net.link("1", "2").stock = 38 << 20;
    net.wait(10);
    assert_eq!(net.best("1", "3"), "2 3", "a little worse than by 4");
    net.link("1", "2").stock = 2 << 20;
    net.link("2", "3").stock = 2 << 20;
    net.wait(10);
    assert_eq!(net.best("1", "3"), "4 3");
    assert_eq!(net.last_event().why, Why::Better);
}

#[test]
fn a_table_keeps_its_version_until_it_changes() {
    let mut net = figure_8();
    let version = |net: &Net| net.controller.directions(&name("1")).table.version;
    let before = version(&net);
    net.wait(20);
    assert_eq!(version(&net), before);
    net.link("1", "2").up = false;
    net.report();
    assert!(version(&net) > before);
}

#[test]
fn a_link_without_qkd_carries_keys_only_where_there_is_no_other_way() {
    let mut net = figure_8();
    net.link("1", "2").qkd.clear();
    net.report();
    assert_eq!(net.routes("1", "3"), ["4 3", "5 3"], "nothing feeds it");
    net.link("1", "2").without_qkd = true;
    net.wait(5);
    assert_eq!(net.routes("1", "3"), ["4 3", "5 3", "2 3"]);
    for middle in ["4", "5"] {
        net.link("1", middle).up = false;
    }
    net.report();
    assert_eq!(net.routes("1", "3"), ["2 3"]);
}
