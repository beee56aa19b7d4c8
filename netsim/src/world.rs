//! All clusters, links and the time. A step: what breaks, what the QKD links made, what the
//! controller says, what pairs ask for, and all messages until none is left.

mod batches;
mod controlled;
mod faults;
mod messages;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use control::{
    Controller,
    policy::{Policy, Ration, Rule},
    settings::Settings,
};
use km_core::{
    ids::ClusterId,
    provenance::{Grade, HopCipher},
};
use relay::hop::TransferId;

use crate::{
    check::Truth,
    faults::{Fault, LinkState},
    network::{Link, Network},
    node::{Node, Sent},
    plan::Plan,
    requests::Splits,
    rng::Rng,
    summary::Summary,
    wire::Wire,
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
