//! What this KM tells the controller. Nothing in it is secret from operators.

use control::report::{Book, ChannelReport, Light, LinkReport, QkdReport, Report};
use km_core::{pool::PoolView, route::Routes};
use qkd_ingest::{LinkCondition, Module};

use crate::serve::Inside;

/// This KM now.
pub(super) fn gather(inside: &Inside) -> Report {
    let supply = &inside.node.supply;
    let reasons = inside.health.reasons(&inside.node);
    let views: Vec<PoolView> = supply.pools().iter().map(|pool| pool.view()).collect();
    let links = inside.links.status();
    let link = |view: &PoolView| {
        let of_link = links.iter().find(|link| link.peer == view.peer);
        let up = of_link.is_some_and(|link| link.up);
        let of_peer = inside.links.modules.iter().filter(|(_, peer, _)| *peer == view.peer);
        let qkd = of_peer.map(|(id, _, module)| qkd(id.clone(), module)).collect();
        let taken_bits = view.ledger.absorbed;
        LinkReport {
            peer: view.peer.clone(),
            up,
            channels: of_link.map_or_else(Vec::new, |link| channels(&link.channels)),
            stock_bits: view.stored_bits,
            taken_bits,
            spent_bits: taken_bits.saturating_sub(view.stored_bits),
            book: Some(Book {
                ledger: view.ledger,
                stored_bits: view.stored_bits,
                ends_agree: view.ends_agree,
            }),
            qkd,
            without_qkd: of_link.is_some_and(|link| link.without_qkd),
        }
    };
    Report {
        cluster: supply.here().clone(),
        trouble: (!reasons.is_empty()).then(|| reasons.join("; ")),
        table: inside.control.board.table().version,
        wants: views.iter().map(|view| view.peer.clone()).collect(),
        links: views.iter().map(link).collect(),
    }
}

/// A channel alone is told apart from none.
fn channels(views: &[relay::ChannelView]) -> Vec<ChannelReport> {
    let told = |view: &relay::ChannelView| ChannelReport { well: view.well, in_use: view.in_use };
    if views.len() > 1 { views.iter().map(told).collect() } else { Vec::new() }
}

fn qkd(link: km_core::ids::LinkId, module: &Module) -> QkdReport {
    let status = module.status();
    let said = status.link.as_ref();
    let light = said.and_then(|said| match said.condition {
        LinkCondition::Up => Some(Light::Up),
        LinkCondition::Down => Some(Light::Down),
        LinkCondition::Aborted => Some(Light::Aborted),
        LinkCondition::Unknown => None,
    });
    QkdReport {
        link,
        module_well: status.reachable,
        light,
        rate_bps: said.and_then(|said| said.key_rate_bps),
        qber: said.and_then(|said| said.qber),
    }
}

/// Whether `new` tells what the controller should hear at once: something broke or came back.
pub(super) fn urgent(old: &Report, new: &Report) -> bool {
    let wants_and_links = old.wants != new.wants || old.links.len() != new.links.len();
    let qkd = |a: &QkdReport, b: &QkdReport| {
        let same_qber = (a.qber.unwrap_or(0.0) - b.qber.unwrap_or(0.0)).abs() < 0.01;
        a.link == b.link && a.module_well == b.module_well && a.light == b.light && same_qber
    };
    let link = |a: &LinkReport, b: &LinkReport| {
        let same_qkd =
            a.qkd.len() == b.qkd.len() && a.qkd.iter().zip(&b.qkd).all(|(a, b)| qkd(a, b));
        // An eighth of the stock gone is worth telling too.
        let drained = b.stock_bits < a.stock_bits - a.stock_bits / 8;
        a.peer == b.peer && a.up == b.up && a.channels == b.channels && same_qkd && !drained
    };
    let pairs = || old.links.iter().zip(&new.links);
    old.trouble.is_some() != new.trouble.is_some()
        || wants_and_links
        || pairs().any(|(a, b)| !link(a, b))
}
