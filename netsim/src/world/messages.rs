//! Messages on their way, until they are there, or somebody in the middle has them.

use km_core::{
    module::ModuleKey,
    provenance::{Grade, Provenance},
};
use relay::hop::{HopAnswer, HopFrame, TransferId, path, transfers::Step};

use super::{KEY, World, real};
use crate::{
    node::{self, Ours},
    wire::{Message, Wire},
};

impl World {
    /// Carries all messages until none is left.
    pub(super) fn deliver(&mut self) -> Result<(), String> {
        loop {
            let mut idle = true;
            for at in 0..self.wires.len() {
                while let Some(message) = self.wires[at].queue.pop_front() {
                    idle = false;
                    self.carry(at, message)?;
                }
            }
            if idle {
                return Ok(());
            }
        }
    }

    fn carry(&mut self, wire: usize, message: Message) -> Result<(), String> {
        let (a, b) = self.links[wire / 2].ends;
        let (from, to) = if wire.is_multiple_of(2) { (a, b) } else { (b, a) };
        match message {
            Message::Through(span) => self.wires[wire].inner.remove(span),
            Message::Answer(name, answer) => {
                let back = self.nodes[from].name.clone();
                let step = self.nodes[to].transfers.answered(&back, name, answer);
                step.map_or(Ok(()), |step| self.carry_out(to, step))?;
            }
            Message::Hop(frame) => {
                let mischief = self.rng.chance(self.plan.mischief);
                if mischief {
                    return self.tamper(wire, to, from, frame);
                }
                self.receive(wire, to, from, *frame)?;
            }
        }
        Ok(())
    }

    fn receive(
        &mut self,
        wire: usize,
        to: usize,
        from: usize,
        frame: HopFrame,
    ) -> Result<bool, String> {
        let (now, back) = (self.now(), self.nodes[from].name.clone());
        let name = (frame.head.from.clone(), frame.head.transfer);
        match self.wires[wire].receive([&self.nodes[to].name, &back], frame) {
            Ok((head, material)) => {
                let step = self.nodes[to].transfers.opened(back, head, material, now);
                self.carry_out(to, step)?;
                Ok(true)
            }
            Err(answer) => {
                self.tell(to, from, Message::Answer(name, answer));
                Ok(false)
            }
        }
    }

    /// Somebody in the middle drops, changes, repeats or delays a frame.
    fn tamper(
        &mut self,
        wire: usize,
        to: usize,
        from: usize,
        mut frame: Box<HopFrame>,
    ) -> Result<(), String> {
        self.summary.mischief += 1;
        match self.rng.below(4) {
            0 => Ok(()),
            1 => {
                let bit = 1 << self.rng.below(8);
                match frame.body.len() {
                    0 => frame.tag[self.rng.below(16)] ^= bit,
                    len => frame.body[self.rng.below(len)] ^= bit,
                }
                match self.receive(wire, to, from, *frame)? {
                    true => Err("a frame that was changed on the way opened".to_owned()),
                    false => Ok(()),
                }
            }
            2 => {
                self.receive(wire, to, from, frame.as_ref().clone())?;
                match self.receive(wire, to, from, *frame)? {
                    true => Err("a frame opened twice".to_owned()),
                    false => Ok(()),
                }
            }
            _ => {
                self.wires[wire].queue.push_back(Message::Hop(frame));
                match self.wires[wire].queue.pop_front() {
                    Some(Message::Hop(next)) => self.receive(wire, to, from, *next).map(drop),
                    Some(other) => self.carry(wire, other),
                    None => Ok(()),
                }
            }
        }
    }

    fn tell(&mut self, from: usize, to: usize, message: Message) {
        if let Some(wire) = self.wire_at.get(&(from, to)).copied()
            && self.link_up(wire / 2)
        {
            self.wires[wire].queue.push_back(message);
        }
    }

    pub(super) fn carry_out(&mut self, at: usize, step: Step) -> Result<(), String> {
        match step {
            Step::Answer { to, name, answer } => {
                self.tell(at, self.index[&to], Message::Answer(name, answer));
                Ok(())
            }
            Step::Done { transfer, answer } => self.finish(transfer, answer),
            Step::Forward { to, head, material } => {
                let name = (head.from.clone(), head.transfer);
                let next = self.index[&to];
                let wire = self.wire_at.get(&(at, next)).copied();
                let wire = wire.filter(|wire| self.link_up(wire / 2));
                let now = self.now();
                let sent = match wire {
                    None => Err(relay::hop::HopFault::NoLink),
                    Some(wire) => {
                        let (rng, grade) = (&mut self.rng, self.links[wire / 2].grade);
                        let mut lend = |wire: &mut Wire, need| wire.lend(need, grade, rng);
                        node::send(&mut self.wires[wire], head, &material, &mut lend, now)?
                            .map(|cipher| self.truth.hop(name.1, to, real(cipher, grade)))
                    }
                };
                match sent {
                    Ok(()) => Ok(()),
                    Err(why) => {
                        let step = self.nodes[at].transfers.not_passed(name, why);
                        step.map_or(Ok(()), |step| self.carry_out(at, step))
                    }
                }
            }
        }
    }

    fn finish(&mut self, transfer: TransferId, answer: HopAnswer) -> Result<(), String> {
        let HopAnswer::Arrived(seen) = answer else {
            self.lose(transfer);
            return Ok(());
        };
        let Some(ours) = self.sent.remove(&transfer) else { return Ok(()) };
        let Ours { from, to, route, material, origin, sent, split } = ours;
        let name = (self.nodes[from].name.clone(), transfer);
        let path = path::agreed(&route, sent, seen);
        let path = path.ok_or("a batch came another way than it was sent")?;
        let Some((theirs, provenance)) = self.nodes[to].transfers.collect(&name) else {
            return Err(format!("batch {transfer} was announced and is not there"));
        };
        self.summary.hops += path.len() as u64;
        let key = |bytes, came| ModuleKey { id: transfer.to_string(), bytes, came: Some(came) };
        let ours = key(material, Provenance::relayed(origin.clone(), path));
        let theirs = key(theirs, provenance);
        let grade = self.truth.arrived(transfer, [&ours, &theirs], &origin)?;
        self.truth.forget(transfer);
        let (whole, is_split) = match split {
            None => (Some((ours.bytes.len(), grade)), false),
            Some(split) => (self.splits.arrived(split, [ours, theirs], grade)?, true),
        };
        let Some((bytes, grade)) = whole else { return Ok(()) };
        let keys = bytes as u64 / KEY;
        self.summary.delivered_keys += keys;
        self.summary.its_keys += if grade == Grade::ItsRelay { keys } else { 0 };
        self.summary.split_keys += if is_split { keys } else { 0 };
        Ok(())
    }
}
