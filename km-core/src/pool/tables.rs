//! What a pool holds in memory: the state of its blocks and runs, never key bits of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex as AsyncMutex;

use super::{OpenRun, past::Remembered};
use crate::{
    block::BlockState,
    ids::{ClusterId, MAX_BLOCK_NUMBER},
    key_id::Slice,
    pad::{PadRecord, PadSpan, PadUse},
    provenance::Grade,
    run::{Bitmap, RunId, RunRecord, RunSpec, Side},
};

/// Shortest key anyone may ask for, in bytes; a block's tail below this is burned.
pub(super) const MIN_KEY: u16 = 8;

/// Most begun blocks kept for smaller keys to come.
const MAX_TAILS: usize = 8;
/// A block the peer refused, because it is held there or both ends think it theirs, is not tried
/// again before this is over: each try burns a run.
const SET_ASIDE: Duration = Duration::from_secs(30);
/// How far out of order block numbers may come.
const REORDER: u64 = 1024;

/// A run the peer owns.
pub(super) struct Collecting {
    pub(super) spec: RunSpec,
    pub(super) collected: Vec<Bitmap>,
    pub(super) limit: u16,
    /// Keys set aside for a slave (by its place) whose delivery is not durable yet.
    pub(super) pending: BTreeSet<(usize, u16)>,
    pub(super) expires_ms: u64,
    /// When that is by a clock that never jumps.
    pub(super) until: Instant,
    /// The run's clear bytes once the first key was asked for; dropped when nobody asks.
    pub(super) open: Arc<AsyncMutex<Option<OpenRun>>>,
    pub(super) used: Instant,
}

impl Collecting {
    pub(super) fn record(&self) -> RunRecord {
        let side = Side::Collector { collected: self.collected.clone(), limit: self.limit };
        RunRecord { spec: self.spec.clone(), side, expires_ms: self.expires_ms }
    }

    /// Whether any slave was given key `index`.
    pub(super) fn touched(&self, index: u16) -> bool {
        self.collected.iter().any(|bitmap| bitmap.has(index))
    }

    /// Whether every slave was given key `index`.
    pub(super) fn spent(&self, index: u16) -> bool {
        self.collected.iter().all(|bitmap| bitmap.has(index))
    }

    /// Whether nobody can collect from it any more.
    pub(super) fn finished(&self) -> bool {
        self.collected.iter().all(|bitmap| bitmap.is_full_below(self.limit))
    }

    /// Keys below the limit that nobody was given.
    pub(super) fn untouched(&self) -> u32 {
        (0..self.limit).filter(|index| !self.touched(*index)).count() as u32
    }
}

/// Bytes of a run that are neither delivered nor burned.
pub(super) fn outstanding(run: &RunRecord) -> u32 {
    match &run.side {
        Side::Issuer => run.spec.bytes(),
        Side::Collector { collected, limit } => {
            let open = (0..*limit).filter(|index| !collected.iter().any(|b| b.has(*index)));
            open.count() as u32 * u32::from(run.spec.key_len)
        }
    }
}

/// Bytes in usable blocks, by what these claim.
#[derive(Default)]
pub(super) struct ByGrade([u64; Grade::ALL.len()]);

impl ByGrade {
    fn of(&mut self, grade: Grade) -> &mut u64 {
        &mut self.0[grade as usize]
    }

    pub(super) fn all(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(super) fn at_least(&self, grade: Grade) -> u64 {
        self.0[grade as usize..].iter().sum()
    }
}

pub(super) struct Tables {
    here: ClusterId,
    blocks: BTreeMap<u64, BlockState>,
    /// Blocks this end may assign from.
    assignable: BTreeSet<u64>,
    pub(super) own: ByGrade,
    pub(super) peer: ByGrade,
    /// Remaining bytes of blocks that are not usable now (agreed or held).
    idle_bytes: u64,
    /// Outstanding bytes of all open runs.
    run_bytes: u64,
    /// The highest block number ever used.
    pub(super) high: u64,
    /// What it was when the pool was opened: numbers up to it are never taken again.
    high_at_open: u64,
    /// Numbers taken since, as far back as [`REORDER`].
    taken: BTreeSet<u64>,
    /// Blocks the peer refused lately, and when.
    aside: BTreeMap<u64, Instant>,
    /// Names of the objects in the token, by block.
    pub(super) kept: BTreeMap<u64, String>,
    /// Names of objects to be destroyed.
    pub(super) doomed: Vec<String>,
    pub(super) issuing: BTreeMap<RunId, RunSpec>,
    pub(super) collecting: BTreeMap<RunId, Collecting>,
    /// What is remembered of others.
    pub(super) past: Remembered,
    /// Spans of ours in use by the relay.
    pub(super) lent: BTreeMap<RunId, PadSpan>,
    /// Spans of ours that are through, until the peer knows.
    pub(super) through: BTreeMap<RunId, PadUse>,
    /// Spans of the peer's in use by the relay.
    pub(super) borrowed: BTreeMap<RunId, PadSpan>,
}

impl Tables {
    pub(super) fn new(here: ClusterId) -> Self {
        Self {
            here,
            blocks: BTreeMap::new(),
            assignable: BTreeSet::new(),
            own: ByGrade::default(),
            peer: ByGrade::default(),
            idle_bytes: 0,
            run_bytes: 0,
            high: 0,
            high_at_open: 0,
            taken: BTreeSet::new(),
            aside: BTreeMap::new(),
            kept: BTreeMap::new(),
            doomed: Vec::new(),
            issuing: BTreeMap::new(),
            collecting: BTreeMap::new(),
            past: Remembered::default(),
            lent: BTreeMap::new(),
            through: BTreeMap::new(),
            borrowed: BTreeMap::new(),
        }
    }

    /// Sets the highest block number used before this start.
    pub(super) fn start_after(&mut self, high: u64) {
        self.high = self.high.max(high);
        self.high_at_open = self.high;
    }

    /// Takes a block number for good; `false` when it was used before or cannot be told apart
    /// from one that was. Blocks in flight at once may come out of order.
    pub(super) fn claim_number(&mut self, number: u64) -> bool {
        let fresh = number <= MAX_BLOCK_NUMBER
            && number > self.high_at_open
            && number + REORDER > self.high
            && self.taken.insert(number);
        if fresh {
            self.high = self.high.max(number);
            self.taken = self.taken.split_off(&self.high.saturating_sub(REORDER));
        }
        fresh
    }

    pub(super) fn blocks(&self) -> &BTreeMap<u64, BlockState> {
        &self.blocks
    }

    pub(super) fn block(&self, number: u64) -> Option<BlockState> {
        self.blocks.get(&number).cloned()
    }

    /// Bytes in blocks and runs. What is handed out of open runs of ours counts until they end.
    pub(super) fn stored_bytes(&self) -> u64 {
        let issuing: u64 = self.issuing.values().map(|spec| u64::from(spec.bytes())).sum();
        let spans = self.lent.values().chain(self.borrowed.values());
        let padded: u64 = spans.map(|span| u64::from(span.len)).sum();
        self.own.all() + self.peer.all() + self.idle_bytes + self.run_bytes + issuing + padded
    }

    /// The only way a block's state changes, so that the counters follow.
    pub(super) fn set_block(&mut self, number: u64, state: Option<BlockState>) {
        if let Some(old) = self.blocks.remove(&number) {
            *self.counter_of(&old) -= u64::from(old.remaining());
            self.assignable.remove(&number);
        }
        if let Some(new) = state {
            *self.counter_of(&new) += u64::from(new.remaining());
            if new.phase.usable() && new.owner == self.here && new.remaining() >= MIN_KEY {
                self.assignable.insert(number);
            }
            self.blocks.insert(number, new);
        }
    }

    fn counter_of(&mut self, state: &BlockState) -> &mut u64 {
        match (state.phase.usable(), state.owner == self.here) {
            (false, _) => &mut self.idle_bytes,
            (true, true) => self.own.of(state.grade),
            (true, false) => self.peer.of(state.grade),
        }
    }

    /// Passes over a block the peer refused to take a run of, until [`SET_ASIDE`] is over.
    pub(super) fn set_aside(&mut self, number: u64) {
        self.aside.retain(|_, since| since.elapsed() < SET_ASIDE);
        self.aside.insert(number, Instant::now());
    }

    /// The lowest block of ours with room for a key of `key_len` bytes that claims at least `grade`.
    pub(super) fn block_for(&self, key_len: u16, grade: Grade) -> Option<(u64, BlockState)> {
        let aside = |number| self.aside.get(number).is_some_and(|s| s.elapsed() < SET_ASIDE);
        self.assignable
            .iter()
            .filter(|number| !aside(*number))
            .filter_map(|number| Some((*number, self.blocks.get(number)?)))
            .find(|(_, state)| state.remaining() >= key_len && state.grade >= grade)
            .map(|(number, state)| (number, state.clone()))
    }

    /// The lowest block of ours that larger keys passed over, once there are more than
    /// [`MAX_TAILS`] of them.
    pub(super) fn surplus_tail(&self) -> Option<(u64, BlockState)> {
        let begun = |number: &&u64| self.blocks.get(number).is_some_and(|s| s.cursor > 0);
        let mut tails = self.assignable.iter().take(MAX_TAILS + 2).take_while(begun);
        let lowest = *tails.next()?;
        tails.nth(MAX_TAILS)?;
        Some((lowest, self.block(lowest)?))
    }

    /// The lowest block of ours that is still here: what is not confirmed yet may be assigned from
    /// later, and the runs of one that is used up may still be on their way.
    pub(super) fn floor(&self) -> u64 {
        let ours = self.blocks.iter().find(|(_, state)| state.owner == self.here);
        ours.map_or(self.high + 1, |(number, _)| *number)
    }

    /// Untouched blocks of ours, newest first.
    pub(super) fn givable(&self) -> Vec<u64> {
        let untouched =
            |number: &&u64| self.blocks.get(number).is_some_and(|state| state.cursor == 0);
        self.assignable.iter().rev().filter(untouched).copied().collect()
    }

    /// `left`: how long its keys wait still.
    pub(super) fn insert_collecting(&mut self, record: RunRecord, left: Duration) {
        self.run_bytes += u64::from(outstanding(&record));
        let RunRecord { spec, side, expires_ms } = record;
        let Side::Collector { collected, limit } = side else { return };
        let open = Arc::new(AsyncMutex::new(None));
        let pending = BTreeSet::new();
        let used = Instant::now();
        let until = used + left;
        let run = Collecting { spec, collected, limit, pending, expires_ms, until, open, used };
        self.collecting.insert(run.spec.id, run);
    }

    /// Counts `bytes` of open runs as delivered or burned.
    pub(super) fn settle_run_bytes(&mut self, bytes: u64) {
        self.run_bytes -= bytes;
    }

    /// The open run `slice` is a key of, and which.
    pub(super) fn find_collecting(&self, slice: Slice) -> Option<(RunId, u16)> {
        let at = RunId { block: slice.block, offset: slice.offset };
        let (id, run) = self.collecting.range(..=at).next_back()?;
        let index = run.spec.index_of(slice)?;
        (index < run.limit).then_some((*id, index))
    }

    /// Takes a span in; one that is through replaces its earlier self.
    pub(super) fn set_pad(&mut self, record: PadRecord) -> RunId {
        match record {
            PadRecord::Lent(span) => {
                self.lent.insert(span.id, span);
                span.id
            }
            PadRecord::Through(used) => {
                self.through.insert(used.span.id, used);
                used.span.id
            }
            PadRecord::Borrowed(span) => {
                self.borrowed.insert(span.id, span);
                span.id
            }
        }
    }

    /// Whether any open run or span lies in the block.
    pub(super) fn has_runs(&self, id: crate::ids::BlockId) -> bool {
        let all = RunId { block: id, offset: 0 }..=RunId { block: id, offset: u16::MAX };
        self.issuing.range(all.clone()).next().is_some()
            || self.collecting.range(all.clone()).next().is_some()
            || self.lent.range(all.clone()).next().is_some()
            || self.borrowed.range(all).next().is_some()
    }

    /// Blocks with nothing left to promise.
    pub(super) fn finished_blocks(&self) -> Vec<u64> {
        let done = |state: &BlockState| state.remaining() == 0;
        self.blocks.iter().filter(|(_, s)| done(s)).map(|(number, _)| *number).collect()
    }
}
