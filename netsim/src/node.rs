//! One KM of the simulation: its transfers, and what it decides at each hop as the KMs do.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use km_core::{
    ids::ClusterId,
    material::ClearBytes,
    provenance::{Hop, HopCipher, Origin},
    route::{CipherPolicy, RoutingTable},
};
use relay::hop::{
    HopAnswer, HopFault, HopHead, Lock, TransferId, cipher,
    message::TAG_KEY,
    transfers::{Transfers, with_hop},
};

use crate::wire::{Message, Wire};

/// With less than this, a hop that may use AES spares its stock.
const LOW_STOCK: u64 = 256 << 10;

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
    pub(crate) route: Vec<ClusterId>,
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

/// Seals a batch for the next hop and puts it on the wire, as its policy says.
pub(crate) fn send(
    wire: &mut Wire,
    head: HopHead,
    material: &ClearBytes,
    lend: &mut dyn FnMut(&mut Wire, usize) -> bool,
    now: Instant,
) -> Result<Result<HopCipher, HopFault>, String> {
    let need = TAG_KEY + material.len();
    let aes = match head.policy {
        CipherPolicy::OtpOnly => false,
        CipherPolicy::AesOnly => true,
        CipherPolicy::OtpElseAes => wire.account.stock < LOW_STOCK.max(2 * need as u64),
    };
    let sealed = match aes {
        true => {
            if !lend(wire, TAG_KEY) {
                return Ok(Err(HopFault::NoPad));
            }
            let Some((piece, key)) = wire.out.hop_key(now) else {
                return Ok(Err(HopFault::NoPad));
            };
            let Some(counter) = key.next() else { return Ok(Err(HopFault::NoPad)) };
            let frame = key.seal(head, Lock::Aes { key: piece, counter }, material);
            if counter == 0 {
                wire.note_pieces(&[piece])?;
            }
            frame.map(|frame| (frame, HopCipher::Aes256Gcm))
        }
        false => {
            let taken = match lend(wire, need) {
                true => wire.out.take(material.len(), now),
                false => None,
            };
            let Some(taken) = taken else { return Ok(Err(HopFault::NoPad)) };
            wire.note_pieces(&taken.pieces)?;
            let cipher = of_grade(HopCipher::Otp, taken.grade);
            cipher::seal_otp(head, Lock::Otp(taken.pieces), &taken.bytes, material)
                .map(|frame| (frame, cipher))
        }
    };
    let Some((frame, cipher)) = sealed else { return Ok(Err(HopFault::Refused)) };
    wire.queue.push_back(Message::Hop(Box::new(frame)));
    wire.settle()?;
    Ok(Ok(cipher))
}

/// Begins a batch with `len` bytes that both ends of the first hop hold.
pub(crate) fn give(
    wire: &mut Wire,
    head: HopHead,
    len: usize,
    lend: &mut dyn FnMut(&mut Wire, usize) -> bool,
    now: Instant,
) -> Result<Option<(ClearBytes, HopCipher)>, String> {
    if !lend(wire, TAG_KEY + len) {
        return Ok(None);
    }
    let Some(taken) = wire.out.take_alike(len, len, now) else { return Ok(None) };
    wire.note_pieces(&taken.pieces)?;
    let cipher = of_grade(HopCipher::Shared, taken.grade);
    let Some((frame, material)) = cipher::seal_given(head, Lock::Given(taken.pieces), &taken.bytes)
    else {
        return Ok(None);
    };
    wire.queue.push_back(Message::Hop(Box::new(frame)));
    wire.settle()?;
    Ok(Some((material, cipher)))
}

fn of_grade(cipher: HopCipher, grade: km_core::provenance::Grade) -> HopCipher {
    match grade {
        km_core::provenance::Grade::ItsRelay => cipher,
        km_core::provenance::Grade::Computational => HopCipher::OtpComputational,
    }
}

/// What a node makes of a frame: the head with this hop on it and the bytes, or why not.
pub(crate) fn open(
    wire: &mut Wire,
    here: &ClusterId,
    frame: &relay::hop::HopFrame,
) -> Result<(HopHead, ClearBytes), HopAnswer> {
    match wire.inner.open(frame) {
        Ok(opened) => {
            let mut head = frame.head.clone();
            head.path = with_hop(head.path, here, opened.cipher);
            Ok((head, opened.material))
        }
        Err(why) => Err(HopAnswer::Failed { at: here.clone(), why }),
    }
}

/// The path both ends agree on, the worse of what they say of the first hop.
pub(crate) fn agreed(ours: &Ours, mut seen: Vec<Hop>) -> Option<Vec<Hop>> {
    if !seen.iter().map(|hop| &hop.to).eq(&ours.route) {
        return None;
    }
    if ours.sent == HopCipher::OtpComputational {
        seen.first_mut()?.cipher = ours.sent;
    }
    Some(seen)
}

/// Batches on their way, by name.
pub(crate) type Sent = BTreeMap<TransferId, Ours>;
