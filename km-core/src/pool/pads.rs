//! Spans of blocks for the relay: lent by their owner end, borrowed by the other. See
//! [`crate::pad`].

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    Accepted, Pool, PoolError,
    issue::{spoiled, unknown_to_peer},
    keys,
    order::Place,
    tables::Tables,
};
use crate::{
    ids::{BlockId, PoolTag},
    journal::{Change, Ticket},
    ledger::{Ledger, bits},
    pad::{Pad, PadRecord, PadSpan, PadUse},
    peer::AssignError,
    provenance::{Grade, Origin, Provenance},
    records::{RecordError, Records},
    run::RunId,
};

/// Most spans the peer may have lent us without telling what became of them.
const MAX_BORROWED: usize = 1024;
/// Most spans accounted for in one message.
const MAX_TOLD: usize = 1024;
/// Spans in one change of the journal: each may take four records with it.
const SPANS_A_CHANGE: usize = 16;

impl Pool {
    /// Sets apart up to `want` bytes of one block of ours, durably at both ends. Fewer come when
    /// the block has no more.
    ///
    /// Run it in a task of its own: dropped half-way it leaves the span burned at the next start.
    pub async fn lend(self: &Arc<Self>, want: u16) -> Result<Pad, PoolError> {
        if !self.link_up() {
            return Err(PoolError::Peer(AssignError::Unavailable("not connected".into())));
        }
        let (span, ticket, place) = self.reserve_pad(want)?;
        match self.make_pad_ready(span, ticket, place).await {
            Ok(pad) => Ok(pad),
            Err(error) => {
                match unknown_to_peer(&error) {
                    true => self.forget_lent(span),
                    false => self.pad_used(PadUse::burned(span)),
                }
                Err(self.judged(span.id.block.number, error))
            }
        }
    }

    fn reserve_pad(&self, want: u16) -> Result<(PadSpan, Ticket, Place), PoolError> {
        let mut tables = self.tables();
        // Any rest of a block will do: pad is taken in pieces.
        let (number, state) = tables.block_for(1, Grade::Computational).ok_or(PoolError::NoKeys)?;
        let id = RunId { block: BlockId { pool: self.tag, number }, offset: state.cursor };
        let span = PadSpan { id, len: want.clamp(1, state.remaining()) };
        let mut change = Change::default();
        self.put_pad(&mut tables, PadRecord::Lent(span), &mut change);
        self.advance(&mut tables, number, state, span.end() as u16, &mut change);
        let ticket = self.journal.append(change);
        Ok((span, ticket, self.order.place(ticket)))
    }

    /// Durable here, then at the peer; the bytes are opened meanwhile.
    async fn make_pad_ready(
        &self,
        span: PadSpan,
        ticket: Ticket,
        place: Place,
    ) -> Result<Pad, PoolError> {
        self.durable(ticket).await?;
        let Some(peer) = self.peer.get() else { return Err(PoolError::NoKeys) };
        place.turn().await;
        let mut lending = pin!(peer.lend(span));
        // The first poll sends it.
        let sent = poll_fn(|cx: &mut Context<'_>| Poll::Ready(lending.as_mut().poll(cx))).await;
        drop(place);
        let answered = async {
            match sent {
                Poll::Ready(answer) => answer,
                Poll::Pending => lending.await,
            }
        };
        let (lent, opened) = tokio::join!(answered, self.open_pad(span));
        lent?;
        opened
    }

    /// Opens a span of either end.
    pub async fn open_pad(&self, span: PadSpan) -> Result<Pad, PoolError> {
        let range = usize::from(span.id.offset)..span.end() as usize;
        let opened = self.open_range(span.id.block.number, range).await;
        let pad = |(bytes, came): (_, Provenance)| {
            let grade = came.grade();
            let link = match came.origin {
                Origin::Qkd(link) if came.path.is_empty() => Some(link),
                _ => None,
            };
            Pad { span, bytes, grade, link }
        };
        let opened = opened.map(pad);
        opened.inspect_err(|error| {
            if spoiled(error) {
                self.hold(span.id.block.number);
            }
        })
    }

    /// A span of ours is through; tells the peer once that is durable. Once for each span.
    pub fn pad_used(self: &Arc<Self>, used: PadUse) {
        let mut tables = self.tables();
        if !used.sound() || tables.lent.remove(&used.span.id).is_none() {
            return;
        }
        let mut change = Change { ledger: account(&used), ..Change::default() };
        self.put_pad(&mut tables, PadRecord::Through(used), &mut change);
        self.erase_if_finished(&mut tables, used.span.id.block.number, &mut change);
        let ticket = self.journal.append(change);
        drop(tables);
        self.tell_when_durable(ticket, vec![used]);
    }

    /// Told before, it could be forgotten here in a crash, and burned, but not there.
    fn tell_when_durable(self: &Arc<Self>, ticket: Ticket, used: Vec<PadUse>) {
        let pool = self.clone();
        tokio::spawn(async move {
            if pool.durable(ticket).await.is_ok()
                && let Some(peer) = pool.peer.get()
            {
                used.chunks(MAX_TOLD).for_each(|some| peer.pads_used(some.to_vec()));
            }
        });
    }

    /// The peer certainly does not have the span: it burns it when it comes to the next bytes.
    fn forget_lent(&self, span: PadSpan) {
        let mut tables = self.tables();
        if tables.lent.remove(&span.id).is_none() {
            return;
        }
        let mut change = Change { ledger: account(&PadUse::burned(span)), ..Change::default() };
        change.records.push((keys::pad(span.id), None));
        self.erase_if_finished(&mut tables, span.id.block.number, &mut change);
        self.journal.append(change);
    }

    /// Tells the peer again what became of spans of ours, of which it has not said that it knows;
    /// for a new connection.
    pub fn tell_pads(self: &Arc<Self>) {
        let (through, ticket) = {
            let tables = self.tables();
            (tables.through.values().copied().collect::<Vec<_>>(), self.journal.last())
        };
        if !through.is_empty() {
            self.tell_when_durable(ticket, through);
        }
    }

    /// Spans of ours of which the peer has not said yet that it knows what became of them.
    pub fn pads_untold(&self) -> usize {
        self.tables().through.len()
    }

    /// The peer knows what became of these spans.
    pub fn pads_known(&self, spans: &[RunId]) {
        let mut tables = self.tables();
        *self.told() = None;
        for some in spans.chunks(SPANS_A_CHANGE) {
            let mut change = Change::default();
            for id in some {
                if tables.through.remove(id).is_some() {
                    change.records.push((keys::pad(*id), None));
                }
            }
            self.journal.append(change);
        }
    }

    /// Takes a span the peer lends. Confirm it only after [`Accepted::durable`].
    pub fn borrow_pad(self: &Arc<Self>, span: PadSpan) -> Result<Accepted, PoolError> {
        let mut tables = self.tables();
        let number = span.id.block.number;
        let state = self.lendable_by_peer(&tables, span)?;
        if tables.borrowed.len() >= MAX_BORROWED {
            return Err(PoolError::TooManySpans);
        }
        let mut change = Change::default();
        // Bytes the peer passed over.
        change.ledger.burned += bits(span.id.offset - state.cursor);
        self.put_pad(&mut tables, PadRecord::Borrowed(span), &mut change);
        self.advance(&mut tables, number, state, span.end() as u16, &mut change);
        let ticket = self.journal.append(change);
        Ok(Accepted::of(self.clone(), ticket))
    }

    /// The peer tells what became of spans of its own; the ticket is the moment to say we know.
    pub fn pads_told(self: &Arc<Self>, told: &[PadUse]) -> Accepted {
        let mut tables = self.tables();
        *self.told() = None;
        for some in told.chunks(SPANS_A_CHANGE) {
            let mut change = Change::default();
            for used in some.iter().filter(|used| used.sound()) {
                self.take_told(&mut tables, used, &mut change);
            }
            self.journal.append(change);
        }
        Accepted::of(self.clone(), self.journal.last())
    }

    fn take_told(&self, tables: &mut Tables, used: &PadUse, change: &mut Change) {
        let number = used.span.id.block.number;
        if tables.borrowed.get(&used.span.id) == Some(&used.span) {
            tables.borrowed.remove(&used.span.id);
            change.ledger.add(&account(used));
            change.records.push((keys::pad(used.span.id), None));
            self.erase_if_finished(tables, number, change);
        } else if let Ok(state) = self.lendable_by_peer(tables, used.span) {
            // One that never reached us: pass over its bytes.
            change.ledger.burned += bits(used.span.end() - u32::from(state.cursor));
            self.advance(tables, number, state, used.span.end() as u16, change);
            self.erase_if_finished(tables, number, change);
        }
    }

    fn lendable_by_peer(
        &self,
        tables: &Tables,
        span: PadSpan,
    ) -> Result<crate::block::BlockState, PoolError> {
        match span.sound() {
            true => self.assignable_by_peer(tables, span.id, span.end()),
            false => Err(PoolError::Block(span.id.block.number, "the span does not make sense")),
        }
    }

    fn put_pad(&self, tables: &mut Tables, record: PadRecord, change: &mut Change) {
        let id = tables.set_pad(record);
        let key = keys::pad(id);
        let value = self.records.encode(&key, &record);
        change.records.push((key, Some(value)));
    }
}

/// Reads the spans back; those in use by an earlier start come last.
pub(super) async fn read(
    records: &Records,
    tag: PoolTag,
    tables: &mut Tables,
) -> Result<(), RecordError> {
    records
        .each(&keys::pads(tag), |_, record: PadRecord| {
            tables.set_pad(record);
        })
        .await
}

fn account(used: &PadUse) -> Ledger {
    Ledger {
        pad: bits(used.pad),
        tag: bits(used.tag),
        burned: bits(used.rest()),
        ..Ledger::default()
    }
}
