//! Runs the peer owns: accepted from the link, collected by ID, ended, expired.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::OwnedMutexGuard;

use super::{
    OpenRun, Pool, PoolError, SuppliedKey,
    issue::spoiled,
    keys,
    past::Ended,
    tables::{Collecting, Tables},
};
use crate::{
    block::{BlockState, Step},
    clock::now_ms,
    ids::SaeId,
    journal::{Change, Ticket},
    key_id::KeyId,
    ledger::bits,
    run::{Bitmap, RunId, RunRecord, RunSpec, Side},
};

/// Clear bytes of a run nobody collects from are dropped after this.
const CLEAR_IDLE: Duration = Duration::from_secs(2);

/// Why keys were not collected. Nothing was delivered.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum CollectError {
    /// Never assigned, already collected by this application, expired, or burned.
    #[error("not here (never assigned, collected before, or expired): {}", listed(.0))]
    NotFound(Vec<KeyId>),
    /// Assigned to other applications, or by another master.
    #[error("key {0} was assigned to other applications")]
    NotYours(KeyId),
    /// Temporary: HSM or store.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl CollectError {
    /// One refusal for several keys: that a key is another's outweighs that others are missing.
    pub(crate) fn join(self, other: Option<Self>) -> Self {
        match (other, self) {
            (Some(Self::NotFound(mut ids)), Self::NotFound(more)) => {
                ids.extend(more);
                Self::NotFound(ids)
            }
            (None | Some(Self::NotFound(_)), error) => error,
            (Some(graver), _) => graver,
        }
    }
}

fn listed(ids: &[KeyId]) -> String {
    ids.iter().map(KeyId::to_string).collect::<Vec<_>>().join(", ")
}

/// A run taken in memory, on its way to disk.
pub struct Accepted {
    pool: Arc<Pool>,
    ticket: Ticket,
}

impl Accepted {
    pub(super) fn of(pool: Arc<Pool>, ticket: Ticket) -> Self {
        Self { pool, ticket }
    }

    /// Waits until the run is durable here.
    pub async fn durable(self) -> Result<(), PoolError> {
        self.pool.durable(self.ticket).await
    }
}

/// Keys set aside for one application: no second request gets them. Deliver it, or drop it and
/// they are free again.
pub struct Reservation {
    pool: Arc<Pool>,
    slave: SaeId,
    keys: Vec<(KeyId, RunId, u16)>,
    /// Who was issued them: each master with one of its keys.
    masters: BTreeMap<SaeId, KeyId>,
    armed: bool,
}

impl Pool {
    /// Takes a run the peer assigned, in the order the runs came. Confirm it to the peer only
    /// after [`Accepted::durable`]. An owner never repeats a run, so one that comes again is
    /// refused: its end was put back to an older state.
    ///
    /// The caller has checked that the applications may share keys.
    pub fn accept_run(self: &Arc<Self>, spec: RunSpec) -> Result<Accepted, PoolError> {
        let mut tables = self.tables();
        let number = spec.id.block.number;
        let state = self.run_assignable(&tables, &spec)?;
        let mut change = Change::default();
        // The peer passed over these bytes: a run of which we never heard.
        change.ledger.burned += bits(spec.id.offset - state.cursor);
        let collected = vec![Bitmap::new(spec.count); spec.slaves.len()];
        let side = Side::Collector { collected, limit: spec.count };
        let expires_ms = now_ms() + self.config.key_ttl.as_millis() as u64;
        let end = spec.end() as u16;
        let record = RunRecord { spec, side, expires_ms };
        let key = keys::run(record.spec.id);
        change.records.push((key.clone(), Some(self.records.encode(&key, &record))));
        tables.insert_collecting(record, self.config.key_ttl);
        self.advance(&mut tables, number, state, end, &mut change);
        Ok(Accepted { pool: self.clone(), ticket: self.journal.append(change) })
    }

    fn run_assignable(&self, tables: &Tables, spec: &RunSpec) -> Result<BlockState, PoolError> {
        match spec.sound() {
            true => self.assignable_by_peer(tables, spec.id, spec.end()),
            false => Err(PoolError::Block(spec.id.block.number, "the run does not make sense")),
        }
    }

    /// The block of which the peer may assign the bytes from `id` to `end`.
    pub(super) fn assignable_by_peer(
        &self,
        tables: &Tables,
        id: RunId,
        end: u32,
    ) -> Result<BlockState, PoolError> {
        let number = id.block.number;
        let refuse = |why| Err(PoolError::Block(number, why));
        if id.block.pool != self.tag {
            return refuse("is of another pool");
        }
        let Some(mut state) = tables.block(number) else { return Err(PoolError::NoBlock(number)) };
        if state.owner != self.config.peer {
            return refuse("is not the peer's to assign from");
        }
        if end > u32::from(state.len) {
            return refuse("the run passes its end");
        }
        if id.offset < state.cursor {
            return Err(PoolError::Passed(number, state.cursor));
        }
        // The owner assigns only from blocks it has stored, so this confirms ours.
        match state.phase.after(Step::Confirm) {
            Ok(Some(phase)) => state.phase = phase,
            _ => return refuse("is held"),
        }
        Ok(state)
    }

    /// Sets `ids` aside for `slave`, all or none. With `master`, only keys that master was
    /// issued count.
    pub fn reserve(
        self: &Arc<Self>,
        slave: &SaeId,
        master: Option<&SaeId>,
        ids: &[KeyId],
    ) -> Result<Reservation, CollectError> {
        let mut tables = self.tables();
        let mut reservation = Reservation {
            pool: self.clone(),
            slave: slave.clone(),
            keys: Vec::with_capacity(ids.len()),
            masters: BTreeMap::new(),
            armed: false,
        };
        let mut refused = None;
        for id in ids {
            match reserve_one(&mut tables, slave, master, *id) {
                Ok((run, index)) => {
                    reservation.keys.push((*id, run, index));
                    if let Some(run) = tables.collecting.get(&run) {
                        reservation.masters.insert(run.spec.master.clone(), *id);
                    }
                }
                Err(error) => refused = Some(error.join(refused)),
            }
        }
        if let Some(error) = refused {
            reservation.undo(&mut tables);
            return Err(error);
        }
        reservation.armed = true;
        Ok(reservation)
    }

    /// The owner end is through with a run: keys it never handed out are burned here too.
    pub fn run_ended(&self, spec: &RunSpec, handed_out: u16) {
        let mut tables = self.tables();
        if tables.collecting.contains_key(&spec.id) {
            self.limit_run(&mut tables, spec.id, handed_out);
        } else if let Ok(state) = self.run_assignable(&tables, spec) {
            // A run that never reached us: pass over its bytes.
            let mut change = Change::default();
            change.ledger.burned += bits(spec.end() - u32::from(state.cursor));
            let number = spec.id.block.number;
            self.advance(&mut tables, number, state, spec.end() as u16, &mut change);
            self.erase_if_finished(&mut tables, number, &mut change);
            self.journal.append(change);
        }
    }

    pub(super) fn limit_run(&self, tables: &mut Tables, id: RunId, limit: u16) {
        let Some(run) = tables.collecting.get_mut(&id) else { return };
        let before = run.untouched();
        run.limit = run.limit.min(limit);
        let cut = u64::from(before - run.untouched()) * u64::from(run.spec.key_len);
        tables.settle_run_bytes(cut);
        let mut change = Change::default();
        change.ledger.burned += bits(cut);
        self.save_run(tables, id, &mut change);
        self.journal.append(change);
    }

    /// Burns what nobody collected in time and drops idle clear bytes. Call about once a second.
    ///
    /// The other end hands keys out by a clock that does not jump, so that is what counts here too: a
    /// clock set forward must not burn keys that are being issued.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut tables = self.tables();
        let expired: Vec<RunId> = tables
            .collecting
            .values()
            .filter(|run| run.until <= now)
            .map(|run| run.spec.id)
            .collect();
        for id in expired {
            tracing::info!(block = %id.block, offset = id.offset, "burning uncollected keys");
            self.limit_run(&mut tables, id, 0);
        }
        for run in tables.collecting.values() {
            if run.used.elapsed() > CLEAR_IDLE
                && let Ok(mut open) = run.open.try_lock()
            {
                *open = None;
            }
        }
    }

    /// Writes the run's record, or erases it when nobody can collect from it any more.
    fn save_run(&self, tables: &mut Tables, id: RunId, change: &mut Change) {
        let Some(run) = tables.collecting.get(&id) else { return };
        let key = keys::run(id);
        if run.finished() {
            if let Some(run) = tables.collecting.remove(&id) {
                let (spec, collected) = (run.spec, run.collected);
                self.remember_run(tables, Ended { spec, handed_out: None, collected }, change);
            }
            change.records.push((key, None));
            self.erase_if_finished(tables, id.block.number, change);
        } else {
            let value = self.records.encode(&key, &run.record());
            change.records.push((key, Some(value)));
        }
    }
}

fn reserve_one(
    tables: &mut Tables,
    slave: &SaeId,
    master: Option<&SaeId>,
    id: KeyId,
) -> Result<(RunId, u16), CollectError> {
    let missing = || CollectError::NotFound(vec![id]);
    let (run_id, index) = tables.find_collecting(id.slice()).ok_or_else(missing)?;
    let run = tables.collecting.get_mut(&run_id).ok_or_else(missing)?;
    let wrong_master = master.is_some_and(|master| *master != run.spec.master);
    let place = run.spec.slaves.iter().position(|named| named == slave);
    let Some(place) = place.filter(|_| !wrong_master) else {
        return Err(CollectError::NotYours(id));
    };
    run.used = Instant::now();
    match run.reserved(place, index) {
        true => Ok((run_id, index)),
        false => Err(missing()),
    }
}

impl Collecting {
    /// Marks key `index` as given to the slave at `place`; `false` when it was before.
    fn reserved(&mut self, place: usize, index: u16) -> bool {
        let fresh = !self.pending.contains(&(place, index))
            && !self.collected.get(place).is_none_or(|bitmap| bitmap.has(index));
        if fresh {
            self.pending.insert((place, index));
        }
        fresh
    }
}

impl Reservation {
    fn undo(&self, tables: &mut Tables) {
        for (_, run_id, index) in &self.keys {
            if let Some(run) = tables.collecting.get_mut(run_id)
                && let Some(place) = run.spec.slaves.iter().position(|s| *s == self.slave)
            {
                run.pending.remove(&(place, *index));
            }
        }
    }

    /// The masters the keys were issued to, each with one of its keys.
    pub fn masters(&self) -> impl Iterator<Item = (&SaeId, KeyId)> {
        self.masters.iter().map(|(master, id)| (master, *id))
    }

    /// Reads the bytes; nothing is delivered yet.
    pub async fn open(&self) -> Result<Vec<SuppliedKey>, PoolError> {
        let mut opened = Vec::with_capacity(self.keys.len());
        let mut held: Option<(RunId, OwnedMutexGuard<Option<OpenRun>>)> = None;
        for (id, run_id, _) in &self.keys {
            if held.as_ref().is_none_or(|(at, _)| at != run_id) {
                drop(held.take());
                held = Some((*run_id, self.pool.clear_run(*run_id).await?));
            }
            let offset = usize::from(id.slice().offset - run_id.offset);
            let range = offset..offset + usize::from(id.slice().len);
            let run = held.as_ref().and_then(|(_, open)| open.as_ref());
            let key = run.and_then(|run| {
                let (bytes, provenance) = (run.clear.slice(range)?, run.provenance.clone());
                Some(SuppliedKey { id: *id, bytes, provenance })
            });
            opened.push(key.ok_or(gone(*run_id))?);
        }
        Ok(opened)
    }

    /// Marks the keys as collected, durably, together with `also`; then the bytes may leave.
    ///
    /// Refused when one of them was burned meanwhile. On [`PoolError::NotDurable`] they stay
    /// marked: burned on doubt.
    pub async fn deliver(mut self, also: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), PoolError> {
        let ticket = self.mark_all(also)?;
        self.pool.durable(ticket).await?;
        self.pool.count(&self.pool.counters.keys_collected, self.keys.len() as u64);
        Ok(())
    }

    /// One change for each run: a run of keys taken one by one may be as short as one key, and all
    /// of them together more than one commit holds.
    fn mark_all(&mut self, also: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<Ticket, PoolError> {
        let mut tables = self.pool.tables();
        let burned = |(_, run, index): &&(KeyId, RunId, u16)| {
            tables.collecting.get(run).is_none_or(|run| *index >= run.limit)
        };
        if let Some((_, run, _)) = self.keys.iter().find(burned) {
            return Err(gone(*run));
        }
        self.armed = false;
        let mut delivered: BTreeMap<RunId, u64> = BTreeMap::new();
        for (_, run, index) in &self.keys {
            *delivered.entry(*run).or_default() += mark(&mut tables, &self.slave, *run, *index);
        }
        self.wipe_spent(&mut tables);
        let mut change = Change { records: also, ..Change::default() };
        for (run, bytes) in delivered {
            tables.settle_run_bytes(bytes);
            change.ledger.delivered = bits(bytes);
            self.pool.save_run(&mut tables, run, &mut change);
            self.pool.journal.append(std::mem::take(&mut change));
        }
        Ok(self.pool.journal.last())
    }

    /// Overwrites the bytes of keys every slave has.
    fn wipe_spent(&self, tables: &mut Tables) {
        for (id, run_id, index) in &self.keys {
            let Some(run) = tables.collecting.get(run_id) else { continue };
            if run.spent(*index)
                && let Ok(mut open) = run.open.try_lock()
                && let Some(open) = open.as_mut()
            {
                let start = usize::from(id.slice().offset - run_id.offset);
                open.clear.wipe(start..start + usize::from(id.slice().len));
            }
        }
    }
}

/// Marks one key; returns the bytes that are no longer outstanding.
fn mark(tables: &mut Tables, slave: &SaeId, run_id: RunId, index: u16) -> u64 {
    let Some(run) = tables.collecting.get_mut(&run_id) else { return 0 };
    let Some(place) = run.spec.slaves.iter().position(|named| named == slave) else { return 0 };
    let first = !run.touched(index) && index < run.limit;
    run.pending.remove(&(place, index));
    if let Some(bitmap) = run.collected.get_mut(place) {
        bitmap.insert(index);
    }
    if first { u64::from(run.spec.key_len) } else { 0 }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.armed {
            let pool = self.pool.clone();
            self.undo(&mut pool.tables());
        }
    }
}

impl Pool {
    /// The clear bytes of a run, opened once for all who collect from it.
    async fn clear_run(&self, id: RunId) -> Result<OwnedMutexGuard<Option<OpenRun>>, PoolError> {
        let (cell, spec) = {
            let tables = self.tables();
            let run = tables.collecting.get(&id).ok_or(gone(id))?;
            (run.open.clone(), run.spec.clone())
        };
        let mut open = cell.lock_owned().await;
        if open.is_none() {
            let number = id.block.number;
            let opened = self.open_run(&spec).await;
            if let Err(error) = &opened
                && spoiled(error)
            {
                tracing::error!(block = number, %error, alarm = "block-damaged",
                    "keys wait to be collected from a block that does not open");
            }
            *open = Some(opened?);
        }
        Ok(open)
    }
}

fn gone(id: RunId) -> PoolError {
    PoolError::Block(id.block.number, "has no such run any more")
}
