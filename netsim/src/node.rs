//! One KM of the simulation: its transfers, and what it sends as the KMs do.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use km_core::{
    ids::ClusterId,
    material::ClearBytes,
    provenance::{HopCipher, Origin},
    route::{Route, RoutingTable},
};
use relay::hop::{
    HopFault, HopHead, TransferId,
    message::TAG_KEY,
    seal::{Choice, Given},
    transfers::Transfers,
};

use crate::wire::Wire;

pub(crate) struct Node {
    pub(crate) name: ClusterId,
    pub(crate) up: bool,
    pub(crate) transfers: Transfers,
    /// The routes it goes by.
    pub(crate) table: Arc<RoutingTable>,
}

/// A batch of ours on its way, and what its beginning knows of it.
pub(crate) struct Ours {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) route: Route,
    pub(crate) material: ClearBytes,
    pub(crate) origin: Origin,
    pub(crate) sent: HopCipher,
    pub(crate) split: Option<u64>,
}

impl Node {
    pub(crate) fn new(name: ClusterId) -> Self {
        let transfers = Transfers::new(name.clone());
        Self { name, up: true, transfers, table: Arc::default() }
    }

    /// A crash: all that was under way is forgotten.
    pub(crate) fn crash(&mut self) {
        self.transfers = Transfers::new(self.name.clone());
    }
}

/// What a lender brings until so many bytes are there; false when the pool has too few.
pub(crate) type Lend<'a> = dyn FnMut(&mut Wire, usize) -> bool + 'a;

/// Seals a batch for the next hop and puts it on the wire, as its policy says.
pub(crate) fn send(
    wire: &mut Wire,
    head: HopHead,
    material: &ClearBytes,
    lend: &mut Lend<'_>,
    now: Instant,
) -> Result<Result<HopCipher, HopFault>, String> {
    let choice = Choice::of(head.policy, wire.account.stock, material.len());
    let need = wire.out.need(choice, material.len());
    if !lend(wire, need) {
        return Ok(Err(HopFault::NoPad));
    }
    let sealed = wire.out.seal(choice, head, material, now);
    wire.send(sealed)
}

/// Begins a batch with `len` bytes that both ends of the first hop hold.
pub(crate) fn give(
    wire: &mut Wire,
    head: HopHead,
    len: usize,
    lend: &mut Lend<'_>,
    now: Instant,
) -> Result<Result<Given, HopFault>, String> {
    if !lend(wire, TAG_KEY + len) {
        return Ok(Err(HopFault::NoPad));
    }
    let given = wire.out.give(head, len, now);
    wire.send(given)
}

/// Batches on their way, by name.
pub(crate) type Sent = BTreeMap<TransferId, Ours>;
