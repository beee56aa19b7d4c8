//! What pairs ask for: batches that begin their way.

use km_core::{material::ClearBytes, provenance::Origin, route::Route};
use relay::hop::{HopHead, TransferId, seal::Given};

use super::{KEY, World, real};
use crate::{
    network::Link,
    node::{self, Ours},
    requests::Scheme,
    wire::Wire,
};

impl World {
    pub(super) fn request(&mut self, from: usize, to: usize) -> Result<(), String> {
        if !self.nodes[from].up {
            return Ok(());
        }
        let table = self.nodes[from].table.clone();
        let name = self.nodes[to].name.clone();
        let len = self.allowed(from, to, table.to.get(&name).and_then(|ways| ways.max_bits_per_s));
        if len == 0 {
            self.summary.blocked += 1;
            return Ok(());
        }
        let disjoint = table.disjoint(&name);
        if disjoint.len() >= 2 && self.rng.chance(0.2) {
            let ways = &disjoint[..2];
            let split = self.splits.begin(ways)?;
            for way in ways {
                if !self.begin(from, to, way, len, Some(split))? {
                    self.splits.lost(split);
                    self.summary.blocked += 1;
                }
            }
            return Ok(());
        }
        for route in table.routes(&name) {
            if self.begin(from, to, route, len, None)? {
                return Ok(());
            }
        }
        self.summary.blocked += 1;
        Ok(())
    }

    /// Bytes of the next batch between the two, which is as good as sent: whole keys, by their ration.
    fn allowed(&mut self, from: usize, to: usize, bits_per_s: Option<u64>) -> usize {
        let (now, batch) = (self.now(), self.plan.batch);
        let ration = self.rations.entry((from.min(to), from.max(to))).or_default();
        let allowed = ration.allowed(bits_per_s, now).map_or(batch as u64, |b| b.min(batch as u64));
        let len = allowed / KEY * KEY;
        if len > 0 {
            ration.spent(len);
        }
        len as usize
    }

    /// Whether the batch left.
    fn begin(
        &mut self,
        from: usize,
        to: usize,
        route: &Route,
        len: usize,
        split: Option<u64>,
    ) -> Result<bool, String> {
        let Some(wire_at) = self.wire_at.get(&(from, self.index[route.next()])).copied() else {
            return Ok(false);
        };
        let link = wire_at / 2;
        if !self.link_up(link) {
            return Ok(false);
        }
        self.transfers += 1;
        let transfer = TransferId(self.transfers.to_be_bytes());
        let Link { grade, without_qkd, .. } = self.links[link];
        let scheme = match without_qkd {
            true => Scheme::Random,
            false => Scheme::any(&mut self.rng),
        };
        let head = HopHead {
            transfer,
            from: self.nodes[from].name.clone(),
            route: route.hops()[1..].to_vec(),
            policy: route.cipher(),
            origin: Origin::HsmRng,
            path: Vec::new(),
        };
        let now = self.now();
        let random = (scheme == Scheme::Random).then(|| self.rng.bytes(len));
        let (rng, wire) = (&mut self.rng, &mut self.wires[wire_at]);
        let mut lend = |wire: &mut Wire, need| wire.lend(need, grade, rng);
        let gone = match random {
            None => node::give(wire, head, len, &mut lend, now)?,
            Some(bytes) => {
                let (material, origin) = (ClearBytes::from_vec(bytes), Origin::HsmRng);
                let sent = node::send(wire, head, &material, &mut lend, now)?;
                sent.map(|cipher| Given { material, cipher, origin })
            }
        };
        let Ok(Given { material, cipher: sent, origin }) = gone else { return Ok(false) };
        self.truth.hop(transfer, route.next().clone(), real(sent, grade));
        self.nodes[from].transfers.begin(transfer, route.next().clone());
        self.count_over(from, route, len);
        let route = route.clone();
        self.sent.insert(transfer, Ours { from, to, route, material, origin, sent, split });
        Ok(true)
    }

    /// A batch begins its way, by which rations are kept.
    fn count_over(&mut self, from: usize, route: &Route, len: usize) {
        let mut here = from;
        for hop in route.hops() {
            let next = self.index[hop];
            if let Some(wire) = self.wire_at.get(&(here, next)) {
                self.over[wire / 2] += len as u64;
            }
            here = next;
        }
    }
}
