//! One direction of a KM link: what its sending end may assign from, what is lent for the relay at
//! both ends, and the account of it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use km_core::{
    ids::{BlockId, ClusterId, LinkId, PoolTag},
    material::ClearBytes,
    pad::{Pad, PadSpan, PadUse},
    provenance::Grade,
    run::RunId,
};
use relay::{
    hop::{
        HopAnswer, HopFault, HopFrame, HopHead, Lock, Piece, TransferName, pads_in::PadsIn,
        pads_out::PadsOut, receive::received,
    },
    session::Feed,
};

use crate::{network::Link, rng::Rng};

/// What one KM says to its neighbour about the relay.
pub(crate) enum Message {
    Hop(Box<HopFrame>),
    Answer(TransferName, HopAnswer),
    /// The sender is through with a span.
    Through(RunId),
}

/// Everything in bytes; what a QKD link made is in exactly one of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) made: u64,
    pub(crate) stock: u64,
    pub(crate) lent: u64,
    pub(crate) pad: u64,
    pub(crate) tag: u64,
    pub(crate) burned: u64,
}

impl Account {
    pub(crate) fn balances(&self) -> bool {
        let Self { made, stock, lent, pad, tag, burned } = *self;
        made == stock + lent + pad + tag + burned
    }
}

pub(crate) struct Wire {
    tag: PoolTag,
    /// The link whose bits these are.
    link: LinkId,
    feed: Feed,
    next_block: u64,
    pub(crate) out: PadsOut,
    pub(crate) inner: PadsIn,
    lent: BTreeMap<RunId, u16>,
    pub(crate) account: Account,
    pub(crate) queue: VecDeque<Message>,
    /// For each span, up to which byte frames have named it: none may be named twice.
    named: BTreeMap<RunId, u16>,
    /// The hop key in use, and its last counter: none may come again.
    counted: Option<(Piece, u64)>,
}

impl Wire {
    /// From one to the other of `ends` beside `link`. `higher`: it is the second direction of that pool.
    pub(crate) fn new(ends: [&ClusterId; 2], link: &Link, higher: bool, now: Instant) -> Self {
        let [from, to] = ends;
        Self {
            link: link.id.clone(),
            feed: match link.without_qkd {
                true => Feed::KmLink,
                false => Feed::Qkd(vec![link.id.clone()]),
            },
            tag: PoolTag::of_pair(from, to),
            // The two directions never name the same block.
            next_block: u64::from(higher),
            out: PadsOut::new(now),
            inner: PadsIn::default(),
            lent: BTreeMap::new(),
            account: Account::default(),
            queue: VecDeque::new(),
            named: BTreeMap::new(),
            counted: None,
        }
    }

    /// The QKD link made bytes, of which this end has room for some.
    pub(crate) fn fill(&mut self, bytes: u64, room: u64) {
        let taken = bytes.min(room.saturating_sub(self.account.stock));
        self.account.made += taken;
        self.account.stock += taken;
    }

    /// Lends until `need` bytes are there; false when the pool has too few.
    pub(crate) fn lend(&mut self, need: usize, grade: Grade, rng: &mut Rng) -> bool {
        while self.out.available() < need {
            for want in self.out.next_spans(need) {
                let len = u64::from(want).min(self.account.stock) as u16;
                if len == 0 || !self.inner.has_room() {
                    return false;
                }
                self.lend_one(len, grade, rng);
            }
        }
        true
    }

    fn lend_one(&mut self, len: u16, grade: Grade, rng: &mut Rng) {
        let block = BlockId { pool: self.tag, number: self.next_block };
        self.next_block += 2;
        let span = PadSpan { id: RunId { block, offset: 0 }, len };
        let bytes = rng.bytes(usize::from(len));
        let copy = ClearBytes::copy_from(&bytes);
        let link = Some(self.link.clone());
        self.inner.add(Pad { span, bytes: copy, grade, link: link.clone() });
        self.out.add(Pad { span, bytes: ClearBytes::from_vec(bytes), grade, link });
        self.lent.insert(span.id, len);
        self.account.stock -= u64::from(len);
        self.account.lent += u64::from(len);
    }

    /// Puts a frame on the wire, if there is one, and settles what its sealing finished.
    pub(crate) fn send<T>(
        &mut self,
        sealed: Result<(HopFrame, T), HopFault>,
    ) -> Result<Result<T, HopFault>, String> {
        let sent = match sealed {
            Ok((frame, what)) => {
                self.note(&frame.lock)?;
                self.queue.push_back(Message::Hop(Box::new(frame)));
                Ok(what)
            }
            Err(why) => Err(why),
        };
        self.settle()?;
        Ok(sent)
    }

    /// What the receiving end makes of a frame; `ends` are it and the sending one.
    pub(crate) fn receive(
        &mut self,
        ends: [&ClusterId; 2],
        frame: HopFrame,
    ) -> Result<(HopHead, ClearBytes), HopAnswer> {
        received(&mut self.inner, Some(&self.feed), ends, frame).map_err(|(_, answer)| answer)
    }

    /// Notes what the sender is through with, and tells the receiver.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        for used in self.out.take_through() {
            self.used(used)?;
            self.queue.push_back(Message::Through(used.span.id));
        }
        Ok(())
    }

    fn used(&mut self, used: PadUse) -> Result<(), String> {
        let id = used.span.id;
        if !used.sound() || self.lent.remove(&id) != Some(used.span.len) {
            return Err(format!("span {id:?} was accounted for twice, or for more than it had"));
        }
        self.named.remove(&id);
        self.account.lent -= u64::from(used.span.len);
        self.account.pad += u64::from(used.pad);
        self.account.tag += u64::from(used.tag);
        self.account.burned += u64::from(used.rest());
        Ok(())
    }

    /// A frame goes out: no byte of pad may have been named before, and no hop key with that counter.
    fn note(&mut self, lock: &Lock) -> Result<(), String> {
        match lock {
            Lock::Otp(pieces) | Lock::Given(pieces) => self.note_pieces(pieces),
            Lock::Aes { key, counter } => {
                let under = self.counted.filter(|(same, _)| same == key);
                self.counted = Some((*key, *counter));
                match under {
                    None => self.note_pieces(&[*key]),
                    Some((_, last)) if last < *counter => Ok(()),
                    Some(_) => Err(format!("hop key {key:?} was used twice with {counter}")),
                }
            }
            Lock::Link { .. } => Err("a key of a connection where there is none".to_owned()),
        }
    }

    fn note_pieces(&mut self, pieces: &[Piece]) -> Result<(), String> {
        for piece in pieces {
            let mark = self.named.entry(piece.span).or_insert(0);
            if piece.at < *mark {
                return Err(format!("pad {:?} at {} was used twice", piece.span, piece.at));
            }
            *mark = piece.at + piece.len;
        }
        Ok(())
    }

    /// The connection broke: what is under way is lost, what is lent is given up.
    pub(crate) fn cut(&mut self) -> Result<(), String> {
        self.out.end();
        self.settle()?;
        self.queue.clear();
        self.inner = PadsIn::default();
        Ok(())
    }

    /// The sending end crashed: nobody knows what of its spans was used, so all is burned.
    pub(crate) fn crash(&mut self, now: Instant) {
        self.out = PadsOut::new(now);
        self.inner = PadsIn::default();
        self.queue.clear();
        self.named.clear();
        let left: u64 = std::mem::take(&mut self.lent).values().map(|len| u64::from(*len)).sum();
        self.account.lent -= left;
        self.account.burned += left;
    }
}
