//! What passes through this KM and what arrived for it; without I/O. Enter through
//! [`Transfers::opened`] and [`Transfers::answered`].

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use km_core::{ids::ClusterId, material::ClearBytes, provenance::Provenance};

use super::message::{HopAnswer, HopFault, HopHead, SupplyAsk, TransferId, TransferName};

/// Most batches passing through at once.
pub const MAX_PASSING: usize = 256;
/// Most batches waiting here to be agreed on; with the largest batches 16 MiB.
pub const MAX_ARRIVED: usize = 256;
/// Of these, most from one cluster, so that none keeps the others out.
pub const MAX_ARRIVED_FROM_ONE: usize = 64;
/// How long a node waits for the answer to what it passed on.
pub const PASS_WITHIN: Duration = Duration::from_secs(10);
/// How long what arrived waits to be collected.
pub const COLLECT_WITHIN: Duration = Duration::from_secs(30);

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Seal it for the next cluster.
    Forward {
        /// That cluster.
        to: ClusterId,
        /// The head for it.
        head: HopHead,
        /// The batch.
        material: ClearBytes,
    },
    /// Tell a neighbour what became of a batch.
    Answer {
        /// The neighbour.
        to: ClusterId,
        /// The batch.
        name: TransferName,
        /// What became of it.
        answer: HopAnswer,
    },
    /// A batch of ours was answered.
    Done {
        /// The batch.
        transfer: TransferId,
        /// What became of it.
        answer: HopAnswer,
    },
}

struct Passing {
    back: ClusterId,
    on: ClusterId,
    since: Instant,
}

struct Arrived {
    material: ClearBytes,
    provenance: Provenance,
    since: Instant,
}

/// The batches of one KM.
pub struct Transfers {
    here: ClusterId,
    passing: BTreeMap<TransferName, Passing>,
    arrived: BTreeMap<TransferName, Arrived>,
    /// Ours that are on their way, and over which neighbour.
    ours: BTreeMap<TransferId, ClusterId>,
}

impl Transfers {
    /// None yet.
    pub fn new(here: ClusterId) -> Self {
        let (passing, arrived, ours) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { here, passing, arrived, ours }
    }

    /// A batch of ours goes out over the neighbour `on`.
    pub fn begin(&mut self, transfer: TransferId, on: ClusterId) {
        self.ours.insert(transfer, on);
    }

    /// Nobody waits for it any more.
    pub fn forget(&mut self, transfer: TransferId) {
        self.ours.remove(&transfer);
    }

    /// The neighbour `back` sent a batch, which was opened; `head.path` has that hop in it.
    pub fn opened(
        &mut self,
        back: ClusterId,
        mut head: HopHead,
        material: ClearBytes,
        now: Instant,
    ) -> Step {
        let name = (head.from.clone(), head.transfer);
        let (here, told, batch) = (self.here.clone(), back.clone(), name.clone());
        let refuse = |why| Step::Answer {
            to: told,
            name: batch,
            answer: HopAnswer::Failed { at: here, why },
        };
        let known = self.passing.contains_key(&name) || self.arrived.contains_key(&name);
        if known || head.from == self.here || head.route.contains(&self.here) {
            return refuse(HopFault::Refused);
        }
        if head.route.is_empty() {
            return match self.keep(&name, &head, material, now) {
                false => refuse(HopFault::Busy),
                true => Step::Answer { to: back, name, answer: HopAnswer::Arrived(head.path) },
            };
        }
        if self.passing.len() >= MAX_PASSING {
            return refuse(HopFault::Busy);
        }
        let on = head.route.remove(0);
        self.passing.insert(name, Passing { back, on: on.clone(), since: now });
        Step::Forward { to: on, head, material }
    }

    fn keep(
        &mut self,
        name: &TransferName,
        head: &HopHead,
        material: ClearBytes,
        now: Instant,
    ) -> bool {
        let from_it = self.arrived.keys().filter(|(from, _)| *from == name.0).count();
        if self.arrived.len() >= MAX_ARRIVED || from_it >= MAX_ARRIVED_FROM_ONE {
            return false;
        }
        let provenance = Provenance::relayed(head.origin.clone(), head.path.clone());
        self.arrived.insert(name.clone(), Arrived { material, provenance, since: now });
        true
    }

    /// The neighbour `asker` asks for a batch, which begins here in its name. The answer, where that is
    /// refused.
    pub fn supply(&mut self, asker: &ClusterId, ask: &SupplyAsk, now: Instant) -> Option<Step> {
        let name = (asker.clone(), ask.transfer);
        let loops = ask.route.contains(&self.here) || ask.route.contains(asker);
        let full = self.passing.contains_key(&name) || self.passing.len() >= MAX_PASSING;
        match ask.route.first().filter(|_| !loops && !full) {
            Some(on) => {
                let passing = Passing { back: asker.clone(), on: on.clone(), since: now };
                self.passing.insert(name, passing);
                None
            }
            None => {
                let why = if full { HopFault::Busy } else { HopFault::Refused };
                let answer = HopAnswer::Failed { at: self.here.clone(), why };
                Some(Step::Answer { to: asker.clone(), name, answer })
            }
        }
    }

    /// The neighbour `from` says what became of a batch. Only the one it was passed to may.
    pub fn answered(
        &mut self,
        from: &ClusterId,
        name: TransferName,
        answer: HopAnswer,
    ) -> Option<Step> {
        if name.0 == self.here {
            let transfer = name.1;
            self.ours.get(&transfer).filter(|on| *on == from)?;
            self.ours.remove(&transfer);
            return Some(Step::Done { transfer, answer });
        }
        self.passing.get(&name).filter(|passing| passing.on == *from)?;
        let passing = self.passing.remove(&name)?;
        Some(Step::Answer { to: passing.back, name, answer })
    }

    /// It could not be passed on.
    pub fn not_passed(&mut self, name: TransferName, why: HopFault) -> Option<Step> {
        let passing = self.passing.remove(&name)?;
        let answer = HopAnswer::Failed { at: self.here.clone(), why };
        Some(Step::Answer { to: passing.back, name, answer })
    }

    /// What arrived from `from` under this name; once.
    pub fn collect(&mut self, name: &TransferName) -> Option<(ClearBytes, Provenance)> {
        let arrived = self.arrived.remove(name)?;
        Some((arrived.material, arrived.provenance))
    }

    /// Time passed: what waited too long is dropped and its sender told.
    pub fn tick(&mut self, now: Instant) -> Vec<Step> {
        self.arrived.retain(|_, arrived| now.duration_since(arrived.since) < COLLECT_WITHIN);
        let late = |passing: &Passing| now.duration_since(passing.since) >= PASS_WITHIN;
        let overdue: Vec<TransferName> =
            self.passing.iter().filter(|(_, p)| late(p)).map(|(name, _)| name.clone()).collect();
        overdue.into_iter().filter_map(|name| self.not_passed(name, HopFault::Late)).collect()
    }

    /// Batches passing through, and batches that wait here.
    pub fn counts(&self) -> (usize, usize) {
        (self.passing.len(), self.arrived.len())
    }
}
