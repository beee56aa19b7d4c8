//! One ordered stream of durable changes. Enter through [`Journal::append`].
//!
//! State is changed in memory first, under its own lock, and the change is appended under that
//! same lock. A flusher commits the queue in order, many changes to one sync. Hence the
//! invariant everything above rests on: **what is durable is always a prefix of what happened in
//! memory**. Who must not answer before its change is durable waits for its [`Ticket`].
//!
//! The flusher repeats a commit until the store says `Committed`. Values are final when appended
//! and one KM alone writes these keys, so repeating one that may have happened is harmless.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, watch};

use crate::{
    ledger::Ledger,
    records::Records,
    store::{Commit, MAX_COMMIT_BYTES, MAX_OPS, Outcome},
};

/// One atomic change: either all of it is durable, or none.
#[derive(Debug, Default)]
pub struct Change {
    /// Records written (`Some`) or deleted (`None`), already encoded.
    pub records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// What the change moves in the account.
    pub ledger: Ledger,
}

impl Change {
    fn bytes(&self) -> usize {
        self.records.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Vec::len)).sum()
    }
}

/// A place in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

#[cfg(test)]
pub(crate) fn ticket(place: u64) -> Ticket {
    Ticket(place)
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Change>,
    appended: u64,
    /// The account as far as commits were made of it.
    taken: Ledger,
    /// The account of everything appended.
    live: Ledger,
}

/// The journal of one pool.
pub struct Journal {
    records: Records,
    ledger_key: Vec<u8>,
    queue: Mutex<Queue>,
    wake: Notify,
    durable: watch::Sender<u64>,
}

const RETRY: Duration = Duration::from_millis(200);

impl Journal {
    /// Opens the stream whose account is kept at `ledger_key`, and starts its flusher.
    pub fn start(records: Records, ledger_key: Vec<u8>, ledger: Ledger) -> Arc<Self> {
        let journal = Arc::new(Self {
            records,
            ledger_key,
            queue: Mutex::new(Queue { taken: ledger, live: ledger, ..Queue::default() }),
            wake: Notify::new(),
            durable: watch::Sender::new(0),
        });
        tokio::spawn(flush_forever(Arc::downgrade(&journal)));
        journal
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a change. Call it while holding the lock of the state the change was made in.
    pub fn append(&self, change: Change) -> Ticket {
        let mut queue = self.queue();
        queue.live.add(&change.ledger);
        queue.waiting.push_back(change);
        queue.appended += 1;
        let ticket = Ticket(queue.appended);
        drop(queue);
        self.wake.notify_one();
        ticket
    }

    /// The account of everything appended. Under the lock of the state it fits that state.
    pub fn account(&self) -> Ledger {
        self.queue().live
    }

    /// Waits until the change is durable. Bound the wait: while the store is away it does not end.
    pub async fn durable(&self, ticket: Ticket) {
        let mut reached = self.durable.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = reached.wait_for(|done| *done >= ticket.0).await;
    }

    /// The place of the change appended last.
    pub fn last(&self) -> Ticket {
        Ticket(self.queue().appended)
    }

    /// Waits until everything appended so far is durable.
    pub async fn settled(&self) {
        self.durable(self.last()).await;
    }

    /// Takes as many changes as one commit holds, with the account after them.
    fn next_batch(&self) -> Option<(Commit, u64)> {
        let mut queue = self.queue();
        let mut merged: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        let (mut ops, mut bytes, mut taken) = (1, 1024, 0);
        while let Some(change) = queue.waiting.front() {
            let fits =
                ops + change.records.len() <= MAX_OPS && bytes + change.bytes() <= MAX_COMMIT_BYTES;
            if taken > 0 && !fits {
                break;
            }
            ops += change.records.len();
            bytes += change.bytes();
            taken += 1;
            let Some(change) = queue.waiting.pop_front() else { break };
            queue.taken.add(&change.ledger);
            merged.extend(change.records);
        }
        let ledger = queue.taken;
        drop(queue);
        (taken > 0).then(|| (self.commit_of(merged, &ledger), taken))
    }

    fn commit_of(&self, merged: BTreeMap<Vec<u8>, Option<Vec<u8>>>, ledger: &Ledger) -> Commit {
        let account = self.records.encode(&self.ledger_key, ledger);
        let mut commit = Commit::new().put(self.ledger_key.clone(), account);
        for (key, value) in merged {
            commit = match value {
                Some(value) => commit.put(key, value),
                None => commit.delete(key),
            };
        }
        commit
    }
}

/// Ends when the journal is dropped, with what is in its hand but not with what still waits: who
/// stops in order waits for [`Journal::settled`] first.
async fn flush_forever(journal: std::sync::Weak<Journal>) {
    loop {
        let Some(strong) = journal.upgrade() else { return };
        let Some((commit, taken)) = strong.next_batch() else {
            let woken = tokio::time::timeout(Duration::from_secs(1), strong.wake.notified());
            let _ = woken.await;
            continue;
        };
        until_committed(&strong, commit).await;
        strong.durable.send_modify(|done| *done += taken);
    }
}

async fn until_committed(journal: &Journal, commit: Commit) {
    loop {
        match journal.records.store().commit(commit.clone()).await {
            Ok(Outcome::Committed(_)) => return,
            Ok(outcome) => tracing::warn!(?outcome, "store did not confirm a commit; repeating it"),
            Err(error) => tracing::error!(%error, alarm = "store", "cannot write; retrying"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
