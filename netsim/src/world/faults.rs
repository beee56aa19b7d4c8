//! What breaks, and what is mended.

use relay::hop::TransferId;

use super::World;
use crate::faults::{self, Kind, LinkState};

impl World {
    pub(super) fn break_and_mend(&mut self) -> Result<(), String> {
        let now = self.now_s;
        self.faults.retain(|fault| fault.until_s > now);
        let expected = self.plan.faults * self.plan.step_s as f64 / 3600.0;
        let whole = expected as usize;
        for _ in 0..whole + usize::from(self.rng.chance(expected - whole as f64)) {
            let fault = faults::strike(self.plan.nodes, self.links.len(), now, &mut self.rng);
            self.faults.push(fault);
            self.summary.faults += 1;
        }
        let was_up: Vec<bool> = (0..self.links.len()).map(|link| self.link_up(link)).collect();
        let nodes_were: Vec<bool> = self.nodes.iter().map(|node| node.up).collect();
        self.states = self.links_now();
        self.nodes.iter_mut().for_each(|node| node.up = true);
        for fault in &self.faults {
            if let Kind::Km(at) = fault.kind {
                self.nodes[at].up = false;
            }
        }
        for (at, was) in nodes_were.into_iter().enumerate() {
            if was && !self.nodes[at].up {
                self.crash(at);
            }
        }
        for (link, was) in was_up.into_iter().enumerate() {
            if was && !self.link_up(link) {
                self.wires[2 * link].cut()?;
                self.wires[2 * link + 1].cut()?;
            }
        }
        Ok(())
    }

    fn links_now(&self) -> Vec<LinkState> {
        let mut states = vec![LinkState::WELL; self.links.len()];
        for (link, state) in states.iter_mut().enumerate() {
            if self.links[link].passes && !faults::passes(link, self.now_s) {
                state.light = control::report::Light::Down;
            }
        }
        for fault in &self.faults {
            match fault.kind {
                Kind::KmLink(link) => states[link].up = false,
                Kind::Cut(link) => states[link].light = control::report::Light::Down,
                Kind::Tapped(link) => states[link].qber = 0.12,
                Kind::Module(link) => states[link].module_well = false,
                Kind::Km(_) | Kind::Controller => {}
            }
        }
        states
    }

    fn crash(&mut self, at: usize) {
        let now = self.now();
        self.nodes[at].crash();
        for ((from, to), wire) in &self.wire_at {
            if *from == at || *to == at {
                self.wires[*wire].crash(now);
            }
        }
        let gone: Vec<TransferId> =
            self.sent.iter().filter(|(_, ours)| ours.from == at).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|transfer| self.lose(transfer));
    }
}
