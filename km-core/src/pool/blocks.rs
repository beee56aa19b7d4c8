//! Blocks of the pool: taken in, confirmed, given to the other end, erased.

use std::sync::atomic::Ordering;

use super::{
    Pool, PoolError, keys,
    tables::{MIN_KEY, Tables},
};
use crate::{
    block::{BlockHeader, BlockState, MAX_BLOCK, Phase, Step, TAG_KEYS},
    clock::now_ms,
    ids::{BlockId, ClusterId},
    journal::Change,
    ledger::{Ledger, bits},
    material::ClearBytes,
    peer::GivenBlock,
    provenance::{Grade, Provenance},
};

/// An agreed block on its way into the pool.
#[derive(Debug)]
pub struct NewBlock {
    /// Its number, the same at both ends and never used before.
    pub number: u64,
    /// The end that will assign from it.
    pub owner: ClusterId,
    /// How the bits came to be.
    pub provenance: Provenance,
    /// The module they came from.
    pub module: String,
    /// The usable bits, without the tag keys.
    pub clear: ClearBytes,
    /// Whether the other end is known to have it stored.
    pub confirmed: bool,
}

/// Most blocks given away at once.
const MOST_GIVEN: u16 = 32;

impl Pool {
    /// Seals and stores a block. On return it is durable. The number must be fresh.
    pub async fn admit(&self, block: NewBlock) -> Result<(), PoolError> {
        let number = block.number;
        let len = u16::try_from(block.clear.len())
            .ok()
            .filter(|len| usize::from(*len) <= MAX_BLOCK && *len >= MIN_KEY);
        let len = len.ok_or(PoolError::Block(number, "has a length no block can have"))?;
        let grade = block.provenance.grade();
        let header = BlockHeader {
            id: BlockId { pool: self.tag, number },
            len,
            provenance: block.provenance,
            module: block.module,
            received_ms: now_ms(),
        };
        let known = header.clone();
        let sealed = self.vault.seal_block(header, &block.clear, self.config.storage).await?;
        drop(block.clear);
        let phase = if block.confirmed { Phase::Stored } else { Phase::Agreed };
        let object = sealed.payload().object().map(str::to_owned);
        let in_token = object.is_some();
        let owner = block.owner;
        let state = BlockState { phase, owner, transfers: 0, len, cursor: 0, in_token, grade };
        let ticket = {
            let mut tables = self.tables();
            if !tables.claim_number(number) {
                tables.doomed.extend(object);
                return Err(PoolError::Block(number, "was used before, or is too large"));
            }
            tables.kept.extend(object.map(|name| (number, name)));
            let payload_key = keys::payload(self.tag, number);
            let payload = self.records.encode(&payload_key, &sealed);
            let high_key = keys::high(self.tag);
            let high = self.records.encode(&high_key, &tables.high);
            let tag = bits(TAG_KEYS as u64);
            let mut change = Change {
                records: vec![(payload_key, Some(payload)), (high_key, Some(high))],
                ledger: Ledger { absorbed: bits(len) + tag, tag, ..Ledger::default() },
            };
            self.remember_block(&mut tables, &known, &mut change);
            self.put_block(&mut tables, number, state, &mut change);
            self.journal.append(change)
        };
        self.durable(ticket).await?;
        self.count(&self.counters.blocks_admitted, 1);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Whether this end has the block, in any phase.
    pub fn has_block(&self, number: u64) -> bool {
        self.tables().blocks().contains_key(&number)
    }

    /// Blocks of which the other end has not said yet that it kept them.
    pub fn unconfirmed(&self) -> Vec<u64> {
        let tables = self.tables();
        let agreed = tables.blocks().iter().filter(|(_, s)| s.phase == Phase::Agreed);
        agreed.map(|(number, _)| *number).collect()
    }

    /// Blocks of which it is not known whether the other end has them: [`Pool::unconfirmed`], and those
    /// that are its own to assign from. It may have used them up in runs that never came here; nothing
    /// else would ever erase them, and they would take the room of new ones.
    pub fn doubtful(&self) -> Vec<u64> {
        let mut doubtful = self.unconfirmed();
        let tables = self.tables();
        // One that is used up stays until its keys are collected, and there may be many of them.
        let theirs = tables.blocks().iter().filter(|(_, state)| {
            state.owner == self.config.peer && state.phase != Phase::Agreed && state.remaining() > 0
        });
        doubtful.extend(theirs.map(|(number, _)| *number));
        doubtful
    }

    /// The other end has stored these blocks; idempotent.
    pub fn confirm(&self, numbers: &[u64]) {
        let mut tables = self.tables();
        for number in numbers {
            if tables.block(*number).is_some_and(|state| state.phase == Phase::Agreed) {
                self.step_block(&mut tables, *number, Step::Confirm);
            }
        }
        drop(tables);
        self.changed.notify_waiters();
    }

    /// Stops the use of a block at this end (6.2f) for good.
    pub fn hold(&self, number: u64) {
        self.step_block(&mut self.tables(), number, Step::Hold);
    }

    /// The other end does not have these blocks and never will: burns what is left of them here. A
    /// confirmed block of ours stays; the next assignment tells.
    pub fn burn_lacking(&self, numbers: &[u64]) {
        let mut tables = self.tables();
        for number in numbers {
            let lost = |state: &BlockState| {
                state.remaining() > 0
                    && (state.phase == Phase::Agreed || state.owner == self.config.peer)
            };
            let Some(state) = tables.block(*number).filter(lost) else { continue };
            tracing::info!(block = number, "burning a block the other end does not have");
            let mut change = Change::default();
            self.burn_rest(&mut tables, *number, state, &mut change);
            self.journal.append(change);
        }
    }

    /// The other end lost this block: burns what is left of ours.
    pub(super) fn burn_block(&self, number: u64) {
        let mut tables = self.tables();
        let Some(state) = tables.block(number) else { return };
        tracing::warn!(alarm = "block-lost", block = number, "the peer lost a block; burning it");
        let mut change = Change::default();
        self.burn_rest(&mut tables, number, state, &mut change);
        self.journal.append(change);
    }

    /// Accounts for bits that came in but were refused.
    pub fn rejected(&self, bytes: u64) {
        let refused = bits(bytes);
        let ledger = Ledger { absorbed: refused, rejected: refused, ..Ledger::default() };
        let _tables = self.tables();
        self.journal.append(Change { records: Vec::new(), ledger });
        self.counters.blocks_rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives up to `count` untouched blocks of ours that claim at least `grade` to the other end: at most half of what we have
    /// more than it, or the ends would hand the last blocks back and forth.
    pub async fn give(&self, count: u16, grade: Grade) -> Result<(), PoolError> {
        let (given, ticket) = {
            let mut tables = self.tables();
            let mut change = Change::default();
            let mut given = Vec::new();
            let (own, peer) = (tables.own.at_least(grade), tables.peer.at_least(grade));
            let mut spare = own.saturating_sub(peer) / 2;
            for number in tables.givable() {
                if given.len() >= usize::from(count.min(MOST_GIVEN)) {
                    break;
                }
                let fits = tables.block(number).filter(|state| state.grade >= grade);
                let Some(mut state) = fits else { continue };
                let Some(left) = spare.checked_sub(u64::from(state.len)) else { continue };
                // A block that changed hands that often stays where it is.
                let Some(transfers) = state.transfers.checked_add(1) else { continue };
                spare = left;
                state.owner = self.config.peer.clone();
                state.transfers = transfers;
                given.push(GivenBlock { number, transfers: state.transfers });
                self.put_block(&mut tables, number, state, &mut change);
            }
            (given, self.journal.append(change))
        };
        if given.is_empty() {
            // The other end needs what this one does not have.
            self.miss(u64::from(MIN_KEY), grade);
        }
        // Ours no longer, durably, before the other end may take them.
        self.durable(ticket).await?;
        self.announce_given(given);
        Ok(())
    }

    /// Repeats which untouched blocks were given away; for a new connection.
    pub fn given_blocks(&self) -> Vec<GivenBlock> {
        let tables = self.tables();
        let mine_no_more = tables.blocks().iter().filter(|(_, state)| {
            state.owner == self.config.peer && state.transfers > 0 && state.cursor == 0
        });
        mine_no_more
            .map(|(number, state)| GivenBlock { number: *number, transfers: state.transfers })
            .take(1000)
            .collect()
    }

    fn announce_given(&self, given: Vec<GivenBlock>) {
        if let (false, Some(peer)) = (given.is_empty(), self.peer.get()) {
            peer.blocks_given(given);
        }
    }

    /// Takes blocks the other end gave. An older claim, or a block in use, is left alone.
    pub fn take_given(&self, given: &[GivenBlock]) {
        let mut tables = self.tables();
        for claim in given {
            let Some(mut state) = tables.block(claim.number) else { continue };
            let theirs = state.owner == self.config.peer && state.cursor == 0;
            // Only a stored block can be given, so the other end has it.
            let confirmed = state.phase.after(Step::Confirm);
            if theirs
                && claim.transfers > state.transfers
                && let Ok(Some(phase)) = confirmed
            {
                state.phase = phase;
                state.owner = self.config.here.clone();
                state.transfers = claim.transfers;
                let mut change = Change::default();
                self.put_block(&mut tables, claim.number, state, &mut change);
                self.journal.append(change);
            }
        }
        drop(tables);
        self.changed.notify_waiters();
    }

    /// The lowest block of ours that may still be assigned from, now or later.
    pub fn floor(&self) -> u64 {
        self.tables().floor()
    }

    /// The other end assigns from no block of its own below `floor` any more.
    pub fn peer_floor(&self, floor: u64) {
        let mut tables = self.tables();
        let stale: Vec<(u64, BlockState)> = tables
            .blocks()
            .range(..floor)
            .filter(|(_, state)| state.owner == self.config.peer && state.phase.usable())
            // One given away untouched may not have been taken yet.
            .filter(|(_, state)| {
                state.remaining() > 0 && (state.transfers == 0 || state.cursor > 0)
            })
            .map(|(number, state)| (*number, state.clone()))
            .collect();
        for (number, state) in stale {
            let mut change = Change::default();
            self.burn_rest(&mut tables, number, state, &mut change);
            self.journal.append(change);
        }
    }

    fn step_block(&self, tables: &mut Tables, number: u64, step: Step) {
        let Some(state) = tables.block(number) else { return };
        match state.phase.after(step) {
            Ok(Some(phase)) if phase != state.phase => {
                let mut change = Change::default();
                self.put_block(tables, number, BlockState { phase, ..state }, &mut change);
                self.journal.append(change);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(block = number, %error, "step refused"),
        }
    }

    pub(super) fn put_block(
        &self,
        tables: &mut Tables,
        number: u64,
        state: BlockState,
        change: &mut Change,
    ) {
        let key = keys::state(self.tag, number);
        change.records.push((key.clone(), Some(self.records.encode(&key, &state))));
        tables.set_block(number, Some(state));
    }

    /// Moves the cursor to `to`; what it passes over is accounted for by the caller. Burns a tail
    /// too short for any key.
    pub(super) fn advance(
        &self,
        tables: &mut Tables,
        number: u64,
        mut state: BlockState,
        to: u16,
        change: &mut Change,
    ) {
        state.cursor = to;
        if state.remaining() < MIN_KEY {
            change.ledger.burned += bits(state.remaining());
            state.cursor = state.len;
        }
        self.put_block(tables, number, state, change);
    }

    pub(super) fn burn_rest(
        &self,
        tables: &mut Tables,
        number: u64,
        state: BlockState,
        change: &mut Change,
    ) {
        change.ledger.burned += bits(state.remaining());
        let end = state.len;
        self.advance(tables, number, state, end, change);
        self.erase_if_finished(tables, number, change);
    }

    /// Deletes a block with nothing left to promise, deliver or collect.
    pub(super) fn erase_if_finished(&self, tables: &mut Tables, number: u64, change: &mut Change) {
        let id = BlockId { pool: self.tag, number };
        let finished = tables.block(number).filter(|state| state.remaining() == 0);
        let erased = finished.map(|state| state.phase.after(Step::Erase));
        if matches!(erased, Some(Ok(None))) && !tables.has_runs(id) {
            tables.set_block(number, None);
            let object = tables.kept.remove(&number);
            tables.doomed.extend(object);
            let state_key = keys::state(self.tag, number);
            change.records.retain(|(key, _)| *key != state_key);
            change.records.push((state_key, None));
            change.records.push((keys::payload(self.tag, number), None));
        }
    }
}
