//! Runs assigned ahead of need, one queue for each application pair and key size.
//! Enter through [`Ahead::draw`].
//!
//! The more often a pair asks, the longer its runs: from exactly what was asked, doubling while
//! the demand lasts. A pair that stops asking gets its rest burned after [`IDLE`].

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::refusals::{Refusal, Refusals};
use crate::{
    ids::SaeId,
    payload::Storage,
    peer::AssignError,
    pool::{IssuerRun, Pool, PoolError, SuppliedKey},
    provenance::Grade,
    run::MAX_RUN_KEYS,
};

/// A queue nobody drew from for this long is ended.
const IDLE: Duration = Duration::from_secs(5);
/// Most queues (slaves and key sizes) one master may have open.
const MAX_QUEUES_PER_MASTER: usize = 64;
/// A run takes at most this share of what the end may assign, unless one request needs more.
const STOCK_SHARE: u64 = 8;
/// Blocks a request passes over because they are lost, damaged or refused, before it gives up.
const MAX_PASSED_OVER: u32 = 3;
/// How long a request waits for blocks from the other end when ours ran out.
const BORROW: Duration = Duration::from_millis(500);

/// Who draws from what.
#[derive(Clone)]
pub(super) struct Pairing {
    pub(super) pool: Arc<Pool>,
    pub(super) master: SaeId,
    pub(super) slaves: Vec<SaeId>,
    pub(super) key_len: u16,
    /// The least the keys must claim.
    pub(super) grade: Grade,
}

type Name = (SaeId, Vec<SaeId>, u16);
/// The right to lease for a queue.
type Turn = tokio::sync::OwnedMutexGuard<()>;

#[derive(Default)]
pub(super) struct Ahead {
    queues: Mutex<HashMap<Name, Arc<Queue>>>,
    refusals: Arc<Refusals>,
}

struct Queue {
    pairing: Pairing,
    state: Mutex<State>,
    /// One lease at a time for each queue.
    leasing: Arc<tokio::sync::Mutex<()>>,
    refusals: Arc<Refusals>,
}

struct State {
    runs: VecDeque<IssuerRun>,
    run_keys: u16,
    used: Instant,
    fetching: bool,
    ended: bool,
    /// When a request last waited in vain for blocks from the other end.
    dry: Option<Instant>,
}

impl Ahead {
    /// `count` keys, from memory when a run has them.
    pub(super) async fn draw(
        &self,
        pairing: Pairing,
        count: u16,
    ) -> Result<Vec<SuppliedKey>, PoolError> {
        let mut queue = self.queue(&pairing);
        loop {
            if let Some(keys) = queue.take(count) {
                queue.fetch_ahead();
                return Ok(keys);
            }
            // Waited for here: a caller that gives up leaves the line.
            let turn = queue.turn().await;
            // In a task of its own: a caller that goes away must not leave a lease half-made.
            let (leasing, need) = (queue.clone(), count);
            let leased = tokio::spawn(async move { leasing.lease(need, turn).await });
            leased.await.map_err(|_| PoolError::NotDurable)??;
            let ended = queue.state().ended;
            if ended {
                queue = self.queue(&pairing);
            }
        }
    }

    /// The least that its keys must claim, at both ends as far as is known here.
    pub(super) fn least(&self, pairing: &Pairing) -> Grade {
        least(&self.refusals, pairing)
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<Name, Arc<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, pairing: &Pairing) -> Arc<Queue> {
        let name = (pairing.master.clone(), pairing.slaves.clone(), pairing.key_len);
        let mut queues = self.queues();
        if let Some(queue) = queues.get(&name)
            && !queue.state().ended
        {
            return queue.clone();
        }
        let of_master = || queues.iter().filter(|((master, ..), _)| *master == name.0);
        // One that a request draws from is left alone; so there may be as many more as requests.
        let idle = || of_master().filter(|(_, queue)| Arc::strong_count(queue) == 1);
        if of_master().count() >= MAX_QUEUES_PER_MASTER
            && let Some(oldest) = idle().min_by_key(|(_, queue)| queue.state().used)
        {
            let oldest = oldest.0.clone();
            if let Some(queue) = queues.remove(&oldest) {
                queue.end();
            }
        }
        let queue = Arc::new(Queue::new(pairing.clone(), self.refusals.clone()));
        queues.insert(name, queue.clone());
        queue
    }

    /// Ends queues nobody drew from lately.
    pub(super) fn end_idle(&self) {
        self.queues().retain(|_, queue| {
            let idle = queue.state().used.elapsed() > IDLE && Arc::strong_count(queue) == 1;
            if idle {
                queue.end();
            }
            !idle
        });
    }

    /// Ends all queues.
    pub(super) fn end_all(&self) {
        for (_, queue) in self.queues().drain() {
            queue.end();
        }
    }
}

impl Queue {
    fn new(pairing: Pairing, refusals: Arc<Refusals>) -> Self {
        let state = State {
            runs: VecDeque::new(),
            run_keys: 1,
            used: Instant::now(),
            fetching: false,
            ended: false,
            dry: None,
        };
        Self { pairing, state: Mutex::new(state), leasing: Arc::default(), refusals }
    }

    async fn turn(&self) -> Turn {
        self.leasing.clone().lock_owned().await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All `count` keys or none.
    fn take(&self, count: u16) -> Option<Vec<SuppliedKey>> {
        let mut state = self.state();
        state.used = Instant::now();
        while state.runs.front().is_some_and(IssuerRun::stale) {
            self.pairing.pool.end_run(state.runs.pop_front()?);
        }
        if state.left() < u32::from(count) {
            return None;
        }
        let mut keys = Vec::with_capacity(usize::from(count));
        while keys.len() < usize::from(count) {
            match state.runs.front_mut().and_then(IssuerRun::take) {
                Some(key) => keys.push(key),
                None => self.pairing.pool.end_run(state.runs.pop_front()?),
            }
        }
        if state.runs.front().is_some_and(|run| run.left() == 0)
            && let Some(run) = state.runs.pop_front()
        {
            self.pairing.pool.end_run(run);
        }
        Some(keys)
    }

    /// Starts the next run while the current one still has keys.
    fn fetch_ahead(self: &Arc<Self>) {
        let mut state = self.state();
        let low = state.left() < u32::from(state.run_keys) / 2;
        if !low || state.run_keys < 4 || state.fetching || state.ended {
            return;
        }
        state.fetching = true;
        drop(state);
        let queue = self.clone();
        tokio::spawn(async move {
            let turn = queue.turn().await;
            if let Err(error) = queue.lease(0, turn).await {
                tracing::debug!(%error, "no run ahead");
            }
            queue.state().fetching = false;
        });
    }

    /// Leases until `need` keys are there; with `need` 0, one run ahead.
    async fn lease(&self, need: u16, _one_at_a_time: Turn) -> Result<(), PoolError> {
        let enough = need > 0 && self.state().left() >= u32::from(need);
        if enough || self.state().ended {
            return Ok(());
        }
        let Pairing { master, slaves, .. } = &self.pairing;
        if self.refusals.of(master, slaves) == Some(Refusal::NotPaired) {
            return Err(PoolError::Peer(AssignError::NotPaired));
        }
        let mut first = true;
        while first || self.state().left() < u32::from(need) {
            first = false;
            let want = self.next_size(need);
            let run = self.lease_or_borrow(want).await?;
            let mut state = self.state();
            if state.ended {
                drop(state);
                self.pairing.pool.end_run(run);
                return Ok(());
            }
            state.runs.push_back(run);
        }
        Ok(())
    }

    async fn lease_or_borrow(&self, want: u16) -> Result<IssuerRun, PoolError> {
        let Pairing { pool, master, slaves, key_len, .. } = &self.pairing;
        // What one waited for in vain, those behind it in the line need not wait for again.
        let mut borrowed = self.state().dry.is_some_and(|since| since.elapsed() < BORROW);
        let mut passed_over = 0;
        loop {
            match pool.lease_of(self.least(), master, slaves, *key_len, want).await {
                Err(PoolError::NoKeys) if !borrowed && self.may_come(want) => {
                    borrowed = true;
                    self.borrow_blocks().await;
                }
                // That block is burned, held, set aside or stepped forward now; what comes next may do.
                Err(
                    PoolError::Block(..)
                    | PoolError::Peer(
                        AssignError::NoBlock(_) | AssignError::Behind(..) | AssignError::Refused(_),
                    ),
                ) if passed_over < MAX_PASSED_OVER => passed_over += 1,
                Err(PoolError::Peer(AssignError::NotPaired)) => {
                    self.refusals.remember(master, slaves, Refusal::NotPaired);
                    return Err(PoolError::Peer(AssignError::NotPaired));
                }
                // From now on it is asked for no less; nothing is wrong with the block.
                Err(PoolError::Peer(AssignError::BelowGrade(least)))
                    if passed_over < MAX_PASSED_OVER =>
                {
                    passed_over += 1;
                    self.refusals.remember(master, slaves, Refusal::BelowGrade(least));
                }
                leased => return leased,
            }
        }
    }

    /// The least that its keys must claim, at both ends.
    fn least(&self) -> Grade {
        least(&self.refusals, &self.pairing)
    }

    /// Whether the other end has blocks to give, or the relay brings some.
    fn may_come(&self, want: u16) -> bool {
        let Pairing { pool, key_len, .. } = &self.pairing;
        let least = self.least();
        let fed = pool.miss(u64::from(*key_len) * u64::from(want), least);
        fed || pool.peer_bytes_of(least) >= u64::from(*key_len)
    }

    /// Asks the other end for blocks and waits for some, not for any change of the pool.
    async fn borrow_blocks(&self) {
        let Pairing { pool, key_len, .. } = &self.pairing;
        let until = tokio::time::Instant::now() + BORROW;
        let mut changed = pool.changed();
        let least = self.least();
        pool.ask_blocks(super::ASK_BLOCKS, least);
        while tokio::time::timeout_at(until, changed).await.is_ok() {
            if pool.own_bytes_of(least) >= u64::from(*key_len) {
                return;
            }
            changed = pool.changed();
        }
        self.state().dry = Some(Instant::now());
    }

    fn next_size(&self, need: u16) -> u16 {
        let mut state = self.state();
        let missing = u32::from(need).saturating_sub(state.left()) as u16;
        // Keys sealed one by one are opened when somebody asks for them.
        if matches!(self.pairing.pool.config().storage, Storage::Each(_)) {
            return missing.clamp(1, MAX_RUN_KEYS);
        }
        let stock = self.pairing.pool.own_bytes_of(self.least());
        let stock = stock / u64::from(self.pairing.key_len) / STOCK_SHARE;
        let ahead = state.run_keys.min(stock.min(u64::from(MAX_RUN_KEYS)) as u16);
        state.run_keys = state.run_keys.saturating_mul(2).max(missing).min(MAX_RUN_KEYS);
        ahead.max(missing).clamp(1, MAX_RUN_KEYS)
    }

    fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        for run in state.runs.drain(..) {
            self.pairing.pool.end_run(run);
        }
    }
}

fn least(refusals: &Refusals, pairing: &Pairing) -> Grade {
    match refusals.of(&pairing.master, &pairing.slaves) {
        Some(Refusal::BelowGrade(grade)) => pairing.grade.max(grade),
        _ => pairing.grade,
    }
}

impl State {
    fn left(&self) -> u32 {
        self.runs.iter().map(|run| u32::from(run.left())).sum()
    }
}
