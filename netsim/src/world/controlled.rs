//! Reports to the controller, and the routes it gives.

use control::report::{LinkReport, QkdReport, Report};

use super::World;
use crate::{faults::Kind, network::Link};

impl World {
    /// Reports to the controller, and its routes; none while it is away.
    pub(super) fn control(&mut self) -> Result<(), String> {
        if self.faults.iter().any(|fault| matches!(fault.kind, Kind::Controller)) {
            return Ok(());
        }
        let now_ms = self.now_s * 1000;
        let up = (0..self.nodes.len()).filter(|at| self.nodes[*at].up);
        let reports: Vec<Report> = up.map(|at| self.report(at)).collect();
        self.controller.hear_all(reports, now_ms).map_err(|error| error.to_string())?;
        self.controller.tick(now_ms);
        let fresh = self.controller.events().rev().take_while(|event| event.at_ms == now_ms);
        self.summary.reroutes += fresh.count() as u64;
        for at in 0..self.nodes.len() {
            if self.nodes[at].up {
                let table = self.controller.directions(&self.nodes[at].name).table;
                self.nodes[at].table = table;
                self.look_at_table(at)?;
            }
        }
        Ok(())
    }

    fn report(&self, at: usize) -> Report {
        let far = |(a, b): (usize, usize)| if a == at { Some(b) } else { (b == at).then_some(a) };
        let neighbours = self.links.iter().enumerate().filter_map(|(i, l)| Some((i, far(l.ends)?)));
        let links = neighbours.map(|(link, peer)| {
            let (state, Link { id, rate_bps, without_qkd, .. }) =
                (&self.states[link], self.links[link].clone());
            let qkd = QkdReport {
                link: id,
                module_well: state.module_well,
                light: Some(state.light),
                rate_bps: Some(rate_bps as f64),
                qber: Some(state.qber),
            };
            let [one, other] = [2 * link, 2 * link + 1].map(|wire| self.wires[wire].account);
            let bits = |bytes: u64| bytes * 8;
            let used = |account: crate::wire::Account| account.made - account.stock;
            LinkReport {
                peer: self.nodes[peer].name.clone(),
                up: self.link_up(link),
                channels: Vec::new(),
                stock_bits: bits(one.stock + other.stock),
                taken_bits: bits(one.made + other.made),
                spent_bits: bits(used(one) + used(other)),
                book: None,
                without_qkd,
                qkd: if without_qkd { Vec::new() } else { vec![qkd] },
            }
        });
        let wants = self.pairs.iter().filter_map(|pair| far(*pair));
        Report {
            cluster: self.nodes[at].name.clone(),
            trouble: None,
            table: self.nodes[at].table.version,
            wants: wants.map(|to| self.nodes[to].name.clone()).collect(),
            links: links.collect(),
        }
    }

    /// No route passes what is out of service; by what is true, not by what the controller thinks.
    fn look_at_table(&self, at: usize) -> Result<(), String> {
        let node = &self.nodes[at];
        node.table.check(&node.name).map_err(|error| error.to_string())?;
        for route in
            node.table.to.values().flat_map(|ways| ways.routes.iter().chain(&ways.disjoint))
        {
            let mut here = at;
            for hop in route.hops() {
                let next = self.index[hop];
                let link = self.wire_at.get(&(here, next)).map(|wire| wire / 2);
                let sound = |l: usize| self.links[l].without_qkd || self.states[l].qber <= 0.08;
                let serves = link.is_some_and(|l| self.link_up(l) && sound(l));
                if !serves {
                    return Err(format!("{} is sent over {hop}, which is out", node.name));
                }
                here = next;
            }
        }
        Ok(())
    }
}
