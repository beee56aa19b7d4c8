//! All clusters, links and the time. A step: what breaks, what the QKD links made, what the
//! controller says, what pairs ask for, and all messages until none is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use control::{
    Controller,
    policy::{Policy, Ration, Rule},
    report::{LinkReport, QkdReport, Report},
    settings::Settings,
};
use km_core::{
    ids::ClusterId,
    material::ClearBytes,
    module::ModuleKey,
    provenance::{Grade, HopCipher, Origin, Provenance},
    route::Route,
};
use relay::hop::{HopAnswer, HopFrame, HopHead, TransferId, path, seal::Given, transfers::Step};

use crate::{
    check::Truth,
    faults::{self, Fault, Kind, LinkState},
    network::{Link, Network},
    node::{self, Node, Ours, Sent},
    plan::Plan,
    requests::{Scheme, Splits},
    rng::Rng,
    summary::Summary,
    wire::{Message, Wire},
};

/// Keys are counted as of 256 bits.
const KEY: u64 = 32;
/// Longer than a node waits for an answer.
const ALL_LATE: Duration = Duration::from_secs(40);

pub(crate) struct World {
    plan: Plan,
    rng: Rng,
    start: Instant,
    now_s: u64,
    nodes: Vec<Node>,
    index: BTreeMap<ClusterId, usize>,
    links: Vec<Link>,
    /// Two for each link: from its lower end, then from its higher.
    wires: Vec<Wire>,
    /// By sending and receiving node.
    wire_at: BTreeMap<(usize, usize), usize>,
    states: Vec<LinkState>,
    faults: Vec<Fault>,
    controller: Controller,
    /// What each pair may relay now, by the lower and the higher end.
    rations: BTreeMap<(usize, usize), relay::hop::ration::Ration>,
    /// Bytes that batches brought over each link.
    over: Vec<u64>,
    pairs: Vec<(usize, usize)>,
    sent: Sent,
    truth: Truth,
    splits: Splits,
    transfers: u128,
    summary: Summary,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let (mut rng, start) = (Rng::new(plan.seed), Instant::now());
        let network = plan.network.clone();
        let Network { clusters, links } =
            network.unwrap_or_else(|| Network::shaped(plan, &mut rng));
        let nodes: Vec<Node> = clusters.into_iter().map(Node::new).collect();
        let index = nodes.iter().enumerate().map(|(at, node)| (node.name.clone(), at)).collect();
        let (mut wires, mut wire_at) = (Vec::new(), BTreeMap::new());
        for link in &links {
            let (a, b) = link.ends;
            for (from, to) in [(a, b), (b, a)] {
                wire_at.insert((from, to), wires.len());
                let ends = [&nodes[from].name, &nodes[to].name];
                wires.push(Wire::new(ends, link, from > to, start));
            }
        }
        let pairs = (0..plan.nodes).flat_map(|at| std::iter::repeat_n(at, plan.pairs));
        let pairs: BTreeSet<(usize, usize)> = pairs
            .map(|at| (at, rng.below(plan.nodes)))
            .filter(|(a, b)| a != b)
            .map(|(a, b)| (a.min(b), a.max(b)))
            .collect();
        let settings = Settings {
            silence_ms: plan.step_s * 1500,
            low_bits: plan.pool_bytes / 4,
            ample_bits: plan.pool_bytes * 8,
            ..Settings::default()
        };
        let rationed = links.iter().filter(|link| link.passes);
        let policies = plan.ration_bps.into_iter().flat_map(|bits_per_s| {
            let names = |link: &Link| [link.ends.0, link.ends.1].map(|at| nodes[at].name.clone());
            let ration = move |link: &Link| Ration { link: names(link), bits_per_s };
            rationed
                .clone()
                .map(move |link| Policy { rule: Rule::Ration(ration(link)), hours: None })
        });
        let policies: Vec<Policy> = policies.collect();
        let summary = Summary {
            nodes: plan.nodes,
            links: links.len(),
            hours: plan.hours,
            ..Summary::default()
        };
        Self {
            states: vec![LinkState::WELL; links.len()],
            over: vec![0; links.len()],
            plan: plan.clone(),
            rng,
            start,
            now_s: 0,
            nodes,
            index,
            links,
            wires,
            wire_at,
            faults: Vec::new(),
            controller: Controller::new(settings, policies),
            rations: BTreeMap::new(),
            pairs: pairs.into_iter().collect(),
            sent: Sent::new(),
            truth: Truth::default(),
            splits: Splits::default(),
            transfers: 0,
            summary,
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.now_s)
    }

    pub(crate) fn step(&mut self) -> Result<(), String> {
        self.now_s += self.plan.step_s;
        self.break_and_mend()?;
        self.fill();
        self.control()?;
        for at in 0..self.pairs.len() {
            let (a, b) = self.pairs[at];
            let whole = self.plan.load as usize;
            let more = self.rng.chance(self.plan.load - whole as f64);
            for _ in 0..whole + usize::from(more) {
                let (from, to) = if self.rng.chance(0.5) { (a, b) } else { (b, a) };
                self.request(from, to)?;
                self.deliver()?;
            }
        }
        self.give_up_late()?;
        let balanced = self.wires.iter().all(|wire| wire.account.balances());
        if balanced { Ok(()) } else { Err("an account does not balance".to_owned()) }
    }

    fn link_up(&self, link: usize) -> bool {
        let (a, b) = self.links[link].ends;
        self.states[link].up && self.nodes[a].up && self.nodes[b].up
    }

    fn break_and_mend(&mut self) -> Result<(), String> {
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

    fn lose(&mut self, transfer: TransferId) {
        self.truth.forget(transfer);
        if let Some(ours) = self.sent.remove(&transfer) {
            self.summary.lost += 1;
            ours.split.into_iter().for_each(|split| self.splits.lost(split));
        }
    }

    fn fill(&mut self) {
        for link in 0..self.links.len() {
            let Link { rate_bps, without_qkd, .. } = self.links[link];
            let bytes = rate_bps * self.plan.step_s / 16;
            if (without_qkd || self.states[link].makes_keys()) && self.link_up(link) {
                for wire in [2 * link, 2 * link + 1] {
                    self.wires[wire].fill(bytes, self.plan.pool_bytes);
                }
            }
        }
    }

    /// Reports to the controller, and its routes; none while it is away.
    fn control(&mut self) -> Result<(), String> {
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

    fn request(&mut self, from: usize, to: usize) -> Result<(), String> {
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

    /// Carries all messages until none is left.
    fn deliver(&mut self) -> Result<(), String> {
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

    fn carry_out(&mut self, at: usize, step: Step) -> Result<(), String> {
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

    /// Steps are longer than any wait: what was not answered is lost.
    fn give_up_late(&mut self) -> Result<(), String> {
        let late = self.now() + ALL_LATE;
        for at in 0..self.nodes.len() {
            for step in self.nodes[at].transfers.tick(late) {
                self.carry_out(at, step)?;
            }
        }
        self.deliver()?;
        let left: Vec<TransferId> = self.sent.keys().copied().collect();
        for transfer in left {
            let from = self.sent[&transfer].from;
            self.nodes[from].transfers.forget(transfer);
            self.lose(transfer);
        }
        for wire in &mut self.wires {
            wire.out.end_idle(late);
            wire.settle()?;
        }
        self.deliver()
    }

    pub(crate) fn end(mut self) -> Result<Summary, String> {
        for wire in &mut self.wires {
            wire.cut()?;
            let account = wire.account;
            if account.lent != 0 || !account.balances() {
                return Err(format!("an account does not balance at the end: {account:?}"));
            }
            self.summary.made_bytes += account.made;
            self.summary.pad_bytes += account.pad;
            self.summary.tag_bytes += account.tag;
            self.summary.burned_bytes += account.burned;
        }
        let satellites = self.links.iter().zip(&self.over).filter(|(link, _)| link.passes);
        self.summary.satellite_bytes = satellites.map(|(_, bytes)| *bytes).max().unwrap_or(0);
        Ok(self.summary)
    }
}

/// What a hop really was, whatever the code that is looked at calls it.
fn real(said: HopCipher, grade: Grade) -> HopCipher {
    match said {
        HopCipher::Aes256Gcm => said,
        _ if grade == Grade::ItsRelay => HopCipher::Otp,
        _ => HopCipher::OtpComputational,
    }
}
