//! Leasing runs from blocks this end owns, and ending them.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use super::{
    OpenRun, Pool, PoolError, SuppliedKey, keys, order::Place, past::Ended, tables::Tables,
};
use crate::{
    clock::now_ms,
    hsm::HsmError,
    ids::{BlockId, SaeId},
    journal::{Change, Ticket},
    ledger::bits,
    peer::AssignError,
    provenance::Grade,
    records::RecordError,
    run::{MAX_RUN_KEYS, RunId, RunRecord, RunSpec, Side},
};

/// A run in the hand of the owner end: durable at both ends, clear bytes in memory.
///
/// Dropping it without [`Pool::end_run`] leaves the rest burned at the next start.
#[derive(Debug)]
pub struct IssuerRun {
    spec: RunSpec,
    open: OpenRun,
    next: u16,
    stale_at: Instant,
}

impl IssuerRun {
    /// Whether its keys would expire at the other end before they can be collected in peace.
    pub fn stale(&self) -> bool {
        Instant::now() >= self.stale_at
    }

    /// Keys not handed out yet.
    pub fn left(&self) -> u16 {
        self.spec.count - self.next
    }

    /// Hands out the next key; its bytes here are overwritten. `None` when none is left.
    pub fn take(&mut self) -> Option<SuppliedKey> {
        if self.left() == 0 {
            return None;
        }
        let key_len = usize::from(self.spec.key_len);
        let start = usize::from(self.next) * key_len;
        let id = self.spec.key_id(self.next);
        self.next += 1;
        let bytes = self.open.clear.slice(start..start + key_len)?;
        self.open.clear.wipe(start..start + key_len);
        Some(SuppliedKey { id, bytes, provenance: self.open.provenance.clone() })
    }
}

impl Pool {
    /// Reserves up to `want` keys of `key_len` bytes for `master` and `slaves` (sorted), durably
    /// at both ends. Fewer come back when the block has no room for more.
    ///
    /// Run it in a task of its own: dropped half-way it leaves the run burned.
    pub async fn lease(
        self: &Arc<Self>,
        master: &SaeId,
        slaves: &[SaeId],
        key_len: u16,
        want: u16,
    ) -> Result<IssuerRun, PoolError> {
        self.lease_of(Grade::Computational, master, slaves, key_len, want).await
    }

    /// The same, of keys that claim at least `grade`.
    pub async fn lease_of(
        self: &Arc<Self>,
        grade: Grade,
        master: &SaeId,
        slaves: &[SaeId],
        key_len: u16,
        want: u16,
    ) -> Result<IssuerRun, PoolError> {
        // What is reserved while nobody can be told is burned: a cut must not drain the pool.
        if !self.link_up() {
            let down = AssignError::Unavailable("not connected".into());
            return Err(PoolError::Peer(down));
        }
        // Before the other end starts to count.
        let stale_at = Instant::now() + self.key_ttl() / 2;
        let (spec, ticket, place) = self.reserve_run(grade, master, slaves, key_len, want)?;
        match self.make_ready(&spec, ticket, place).await {
            Ok(open) => {
                self.count(&self.counters.runs_leased, 1);
                Ok(IssuerRun { spec, open, next: 0, stale_at })
            }
            Err(error) => {
                match unknown_to_peer(&error) {
                    true => self.close_run(&mut self.tables(), &spec, 0, Some(0)),
                    false => self.finish(&spec, 0),
                }
                Err(self.judged(spec.id.block.number, error))
            }
        }
    }

    /// Takes a block that failed a run out of use, if it was the block that failed, and steps over
    /// what the peer knows to be used: the next run must not fail the same way.
    pub(super) fn judged(&self, number: u64, error: PoolError) -> PoolError {
        match error {
            PoolError::Peer(AssignError::NoBlock(_)) => {
                self.burn_block(number);
                return error;
            }
            PoolError::Peer(AssignError::Behind(_, cursor)) => {
                self.catch_up(number, cursor);
                return error;
            }
            PoolError::Peer(AssignError::Refused(_)) => {
                self.tables().set_aside(number);
                return error;
            }
            _ => {}
        }
        if !spoiled(&error) {
            return error;
        }
        tracing::error!(block = number, %error, alarm = "block-damaged",
            "a block does not open; it is held");
        self.hold(number);
        PoolError::Block(number, "does not open and is held; see the log")
    }

    /// The peer is at byte `cursor` of the block: this end was put back to an older state. What the
    /// peer may have delivered in between is burned here.
    fn catch_up(&self, number: u64, cursor: u16) {
        let mut tables = self.tables();
        let Some(state) = tables.block(number).filter(|s| s.owner == self.config.here) else {
            return;
        };
        let to = cursor.min(state.len);
        let Some(passed) = to.checked_sub(state.cursor).filter(|passed| *passed > 0) else {
            return;
        };
        tracing::warn!(
            block = number,
            bytes = passed,
            alarm = "block-behind",
            "the peer is past these bytes; was this end put back to an older state? Burning them"
        );
        let mut change = Change::default();
        change.ledger.burned += bits(passed);
        self.advance(&mut tables, number, state, to, &mut change);
        self.erase_if_finished(&mut tables, number, &mut change);
        self.journal.append(change);
    }

    fn reserve_run(
        &self,
        grade: Grade,
        master: &SaeId,
        slaves: &[SaeId],
        key_len: u16,
        want: u16,
    ) -> Result<(RunSpec, Ticket, Place), PoolError> {
        let mut tables = self.tables();
        let (number, state) = tables.block_for(key_len, grade).ok_or(PoolError::NoKeys)?;
        let fits = state.remaining() / key_len;
        let spec = RunSpec {
            id: RunId { block: BlockId { pool: self.tag, number }, offset: state.cursor },
            key_len,
            count: want.clamp(1, MAX_RUN_KEYS).min(fits),
            master: master.clone(),
            slaves: slaves.to_vec(),
        };
        if !spec.sound() {
            return Err(PoolError::Block(number, "cannot carry a run with these sizes"));
        }
        let expires_ms = now_ms() + self.key_ttl().as_millis() as u64;
        let record = RunRecord { spec: spec.clone(), side: Side::Issuer, expires_ms };
        let key = keys::run(spec.id);
        let mut change = Change::default();
        change.records.push((key.clone(), Some(self.records.encode(&key, &record))));
        self.advance(&mut tables, number, state, spec.end() as u16, &mut change);
        tables.issuing.insert(spec.id, spec.clone());
        // Rests that only smaller keys would fit must not pile up.
        if let Some((tail, state)) = tables.surplus_tail() {
            self.burn_rest(&mut tables, tail, state, &mut change);
        }
        let ticket = self.journal.append(change);
        Ok((spec, ticket, self.order.place(ticket)))
    }

    /// Reserve before send: durable here, then at the peer, then the bytes may be handed out.
    async fn make_ready(
        &self,
        spec: &RunSpec,
        ticket: Ticket,
        place: Place,
    ) -> Result<OpenRun, PoolError> {
        self.durable(ticket).await?;
        let Some(peer) = self.peer.get() else { return Err(PoolError::NoKeys) };
        place.turn().await;
        let mut assigning = pin!(peer.assign(spec));
        // The first poll sends it; the answer may take its time while others send theirs.
        let sent = poll_fn(|cx: &mut Context<'_>| Poll::Ready(assigning.as_mut().poll(cx))).await;
        drop(place);
        let answered = async {
            match sent {
                Poll::Ready(answer) => answer,
                Poll::Pending => assigning.await,
            }
        };
        let (assigned, open) = tokio::join!(answered, self.open_run(spec));
        assigned?;
        open
    }

    /// Ends a run: what was not handed out is burned at both ends.
    pub fn end_run(&self, run: IssuerRun) {
        self.finish(&run.spec, run.next);
    }

    fn finish(&self, spec: &RunSpec, handed_out: u16) {
        let mut tables = self.tables();
        self.close_run(&mut tables, spec, handed_out, Some(handed_out));
        drop(tables);
        if let Some(peer) = self.peer.get() {
            peer.run_ended(spec, handed_out);
        }
    }

    /// `known`: how many of its keys were handed out, where somebody knows.
    pub(super) fn close_run(
        &self,
        tables: &mut Tables,
        spec: &RunSpec,
        handed_out: u16,
        known: Option<u16>,
    ) {
        if tables.issuing.remove(&spec.id).is_none() {
            return;
        }
        let mut change = Change::default();
        let delivered = u32::from(handed_out) * u32::from(spec.key_len);
        change.ledger.delivered = bits(delivered);
        change.ledger.burned = bits(spec.bytes() - delivered);
        change.records.push((keys::run(spec.id), None));
        let ended = Ended { spec: spec.clone(), handed_out: known, collected: Vec::new() };
        self.remember_run(tables, ended, &mut change);
        self.erase_if_finished(tables, spec.id.block.number, &mut change);
        self.journal.append(change);
    }
}

/// Whether the peer certainly does not have the run: it was not sent, or refused. To tell its end
/// then is not only needless. While what is reserved is not durable, the same bytes may be
/// reserved anew after a crash, and the peer would refuse them; and an end that was put back to an
/// older state would end an earlier run of that name.
pub(super) fn unknown_to_peer(error: &PoolError) -> bool {
    use AssignError::{Behind, BelowGrade, NoBlock, NotPaired, Refused};
    matches!(
        error,
        PoolError::NotDurable
            | PoolError::NoKeys
            | PoolError::Peer(BelowGrade(_) | Behind(..) | NoBlock(_) | NotPaired | Refused(_))
    )
}

/// Whether the block itself does not open, as opposed to a store or token that is away.
pub(super) fn spoiled(error: &PoolError) -> bool {
    matches!(
        error,
        PoolError::Block(..)
            | PoolError::Hsm(HsmError::Refused(_))
            | PoolError::Record(RecordError::Damaged { .. } | RecordError::Newer { .. })
    )
}
