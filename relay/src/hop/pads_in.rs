//! Spans of blocks the peer lends for the relay: the receiver's side of a link, without I/O.
//! Enter through [`PadsIn::open`].
//!
//! Bytes are spent before they are used: a frame that names bytes at or before those of an earlier
//! one, of a span that is not lent here, or of an earlier connection, opens nothing.

use std::collections::{BTreeMap, BTreeSet};

use km_core::{
    ids::LinkId,
    material::ClearBytes,
    pad::Pad,
    provenance::{Grade, HopCipher, Origin},
    run::RunId,
};

use super::{
    cipher::{self, HopKey},
    link_key::LinkKey,
    message::{HopFault, HopFrame, Lock, MAX_MATERIAL, Piece, TAG_KEY},
};

/// Most spans of one connection at a time.
pub const MAX_SPANS: usize = 64;

struct Span {
    pad: Pad,
    cursor: u16,
}

/// Spans the peer lent over this connection, and its hop key.
#[derive(Default)]
pub struct PadsIn {
    spans: BTreeMap<RunId, Span>,
    /// Not open yet.
    opening: BTreeSet<RunId>,
    hop_key: Option<(Piece, HopKey)>,
    link_key: Option<LinkKey>,
}

/// An opened batch.
#[derive(Debug)]
pub struct Opened {
    /// Its bytes.
    pub material: ClearBytes,
    /// How it was hidden.
    pub cipher: HopCipher,
}

impl PadsIn {
    /// Takes batches under keys of the connection too: the pool beside it has no QKD link.
    pub fn set_link_key(&mut self, key: Option<LinkKey>) {
        self.link_key = key;
    }

    /// Whether another span can be lent.
    pub fn has_room(&self) -> bool {
        self.spans.len() + self.opening.len() < MAX_SPANS
    }

    /// The peer lends a span; it takes a while until it is open.
    pub fn expect(&mut self, id: RunId) {
        self.opening.insert(id);
    }

    /// Adds an expected span, unless the peer is through with it already; `None`: it does not open.
    pub fn opened(&mut self, id: RunId, pad: Option<Pad>) {
        if self.opening.remove(&id)
            && let Some(pad) = pad
        {
            self.add(pad);
        }
    }

    /// Adds a span that is durable here as lent.
    pub fn add(&mut self, pad: Pad) {
        self.spans.insert(pad.span.id, Span { pad, cursor: 0 });
    }

    /// The peer is through with a span.
    pub fn remove(&mut self, id: RunId) {
        self.spans.remove(&id);
        self.opening.remove(&id);
    }

    /// Opens a frame. What it names is spent, whether it opens or not.
    pub fn open(&mut self, frame: &HopFrame) -> Result<Opened, HopFault> {
        match &frame.lock {
            Lock::Otp(pieces) => {
                let (pad, grade, _) = self.spend(pieces, TAG_KEY + frame.body.len())?;
                let material = cipher::open_otp(frame, &pad).ok_or(HopFault::BadTag)?;
                Ok(Opened { material, cipher: of_pad(HopCipher::Otp, grade) })
            }
            Lock::Given(pieces) => {
                let total: usize = pieces.iter().map(|piece| usize::from(piece.len)).sum();
                if !(TAG_KEY + 1..=TAG_KEY + MAX_MATERIAL).contains(&total) {
                    return Err(HopFault::Refused);
                }
                let (pad, grade, origin) = self.spend(pieces, total)?;
                if origin.as_ref() != Some(&frame.head.origin) {
                    return Err(HopFault::Refused);
                }
                let material = cipher::open_otp(frame, &pad).ok_or(HopFault::BadTag)?;
                Ok(Opened { material, cipher: of_pad(HopCipher::Shared, grade) })
            }
            Lock::Aes { key, .. } => {
                let material = self.key_at(*key)?.open(frame).ok_or(HopFault::BadTag)?;
                Ok(Opened { material, cipher: HopCipher::Aes256Gcm })
            }
            Lock::Link { key, .. } => {
                let key = self.link_key.as_mut().and_then(|keys| keys.at(*key));
                let opened = key.ok_or(HopFault::Refused)?.open(frame);
                let material = opened.ok_or(HopFault::BadTag)?;
                Ok(Opened { material, cipher: HopCipher::KmLink })
            }
        }
    }

    /// The bytes of the pieces, `total` of them, the lowest grade among their blocks, and the one QKD link
    /// they came over, if it is one.
    fn spend(
        &mut self,
        pieces: &[Piece],
        total: usize,
    ) -> Result<(ClearBytes, Grade, Option<Origin>), HopFault> {
        let sum: usize = pieces.iter().map(|piece| usize::from(piece.len)).sum();
        if sum != total {
            return Err(HopFault::Refused);
        }
        let (mut bytes, mut grade) = (Vec::with_capacity(total), Grade::ItsRelay);
        let mut links = Vec::new();
        for piece in pieces {
            let found = self.spend_one(piece, &mut bytes);
            let Some((found, link)) = found else {
                drop(ClearBytes::from_vec(bytes));
                return Err(HopFault::BadPad);
            };
            grade = grade.min(found);
            links.push(link);
        }
        links.dedup();
        let link = if links.len() == 1 { links.pop().flatten() } else { None };
        Ok((ClearBytes::from_vec(bytes), grade, link.map(Origin::Qkd)))
    }

    fn spend_one(&mut self, piece: &Piece, into: &mut Vec<u8>) -> Option<(Grade, Option<LinkId>)> {
        let span = self.spans.get_mut(&piece.span)?;
        let end = piece.at.checked_add(piece.len).filter(|end| *end <= span.pad.span.len)?;
        if piece.at < span.cursor || piece.len == 0 {
            return None;
        }
        span.cursor = end;
        let range = usize::from(piece.at)..usize::from(end);
        span.pad.bytes.expose(|all| into.extend_from_slice(&all[range.clone()]));
        // What was passed over belongs to a frame that was lost, and goes with it.
        span.pad.bytes.wipe(0..range.end);
        Some((span.pad.grade, span.pad.link.clone()))
    }

    fn key_at(&mut self, piece: Piece) -> Result<&mut HopKey, HopFault> {
        if self.hop_key.as_ref().is_none_or(|(at, _)| *at != piece) {
            let (bytes, ..) = self.spend(&[piece], 32)?;
            let key = HopKey::new(&bytes).ok_or(HopFault::Refused)?;
            self.hop_key = Some((piece, key));
        }
        self.hop_key.as_mut().map(|(_, key)| key).ok_or(HopFault::BadPad)
    }
}

/// The cipher as it is announced: bits that are computational themselves hide nothing better.
pub(super) fn of_pad(cipher: HopCipher, grade: Grade) -> HopCipher {
    match grade {
        Grade::ItsRelay => cipher,
        Grade::Computational => HopCipher::OtpComputational,
    }
}
