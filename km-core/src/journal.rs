//! One ordered stream of durable changes. Enter through [`Journal::append`].
//!
//! State is changed in memory first, under its own lock, and the change is appended under that
//! same lock. A flusher commits the queue in order, many changes to one sync. Hence the
//! invariant everything above rests on: **what is durable is always a prefix of what happened in
//! memory**. Who must not answer before its change is durable waits for its [`Ticket`].
//!
//! The flusher repeats a commit until the store says `Committed`. Each commit checks the version of
//! the account, which every commit of this journal writes and nobody else, so it happens once
//! however often it is sent. With a [`Fence`] it also checks that this KM still leads; when another
//! does, the journal is over, and nothing appended since is ever durable. So it is when the account turns
//! out to be older than this journal left it: somebody put an older copy of the store back. And when this KM
//! was taken out of its cluster.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, watch};

use crate::{
    ledger::Ledger,
    records::Records,
    store::{Commit, MAX_COMMIT_BYTES, MAX_OPS, Outcome, StoreError, Version},
};

/// The record that says who leads, as it was when this KM took the lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Its key.
    pub key: Vec<u8>,
    /// Its version.
    pub version: Version,
}

/// The account as stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    /// What it says.
    pub ledger: Ledger,
    /// Its version; `None` when there is none yet.
    pub version: Option<Version>,
}

/// Why the journal is over: nothing that is not durable yet will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Another KM leads.
    Deposed,
    /// The store was replaced by an older copy of itself.
    SetBack,
    /// This KM was taken out of its cluster.
    Barred,
}

/// How far the journal is durable.
#[derive(Clone, Copy, Default)]
struct Reach {
    done: u64,
    over: Option<Over>,
}

/// Most records of one [`Change`]: each commit also writes and checks the account, and checks the
/// fence.
pub const MAX_CHANGE: usize = MAX_OPS - 3;

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
    fence: Option<Fence>,
    queue: Mutex<Queue>,
    wake: Notify,
    durable: watch::Sender<Reach>,
}

const RETRY: Duration = Duration::from_millis(200);

impl Journal {
    /// Opens the stream whose account is kept at `ledger_key`, and starts its flusher.
    pub fn start(
        records: Records,
        ledger_key: Vec<u8>,
        Account { ledger, version }: Account,
        fence: Option<Fence>,
    ) -> Arc<Self> {
        let journal = Arc::new(Self {
            records,
            ledger_key,
            fence,
            queue: Mutex::new(Queue { taken: ledger, live: ledger, ..Queue::default() }),
            wake: Notify::new(),
            durable: watch::Sender::new(Reach::default()),
        });
        tokio::spawn(flush_until_deposed(Arc::downgrade(&journal), version));
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
    ///
    /// # Errors
    /// It will never be.
    pub async fn durable(&self, ticket: Ticket) -> Result<(), Over> {
        let mut reached = self.durable.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let reached =
            reached.wait_for(|reach| reach.over.is_some() || reach.done >= ticket.0).await;
        match reached.map(|reach| *reach) {
            Ok(reach) if reach.done >= ticket.0 => Ok(()),
            Ok(Reach { over: Some(over), .. }) => Err(over),
            Ok(Reach { over: None, .. }) | Err(_) => Err(Over::Deposed),
        }
    }

    /// Whether all that happened in memory is durable, and this KM still leads: only then is what it does not
    /// have nowhere.
    ///
    /// # Errors
    /// The store does not say.
    pub async fn is_true(&self) -> Result<bool, StoreError> {
        if self.settled().await.is_err() {
            return Ok(false);
        }
        let Some(fence) = &self.fence else { return Ok(true) };
        let leads = self.records.store().get(&fence.key).await?;
        Ok(leads.is_some_and(|found| found.version == fence.version))
    }

    /// The place of the change appended last.
    pub fn last(&self) -> Ticket {
        Ticket(self.queue().appended)
    }

    /// Waits until everything appended so far is durable.
    ///
    /// # Errors
    /// It will never be.
    pub async fn settled(&self) -> Result<(), Over> {
        self.durable(self.last()).await
    }

    /// Ends when nothing more will be durable.
    pub async fn over(&self) -> Over {
        let mut reached = self.durable.subscribe();
        loop {
            if let Some(over) = reached.borrow_and_update().over {
                return over;
            }
            // The sender lives in `self`.
            let _ = reached.changed().await;
        }
    }

    /// Takes as many changes as one commit holds, with the account after them.
    fn next_batch(&self) -> Option<(Commit, u64)> {
        let mut queue = self.queue();
        let mut merged: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        let (mut ops, mut bytes, mut taken) = (MAX_OPS - MAX_CHANGE, 2048, 0);
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
async fn flush_until_deposed(journal: std::sync::Weak<Journal>, mut account: Option<Version>) {
    loop {
        let Some(strong) = journal.upgrade() else { return };
        let Some((commit, taken)) = strong.next_batch() else {
            let woken = tokio::time::timeout(Duration::from_secs(1), strong.wake.notified());
            let _ = woken.await;
            continue;
        };
        match until_committed(&strong, commit, account).await {
            Ok(version) => account = Some(version),
            Err(over) => {
                match over {
                    Over::Deposed => tracing::warn!(
                        "another key manager leads; what is not durable here is given up"
                    ),
                    Over::SetBack => tracing::error!(
                        alarm = "store-set-back",
                        "an older copy of the store was put back under this key manager"
                    ),
                    Over::Barred => tracing::warn!(
                        "this key manager was taken out of its cluster; what is not durable is given up"
                    ),
                }
                strong.durable.send_modify(|reach| reach.over = Some(over));
                return;
            }
        }
        strong.durable.send_modify(|reach| reach.done += taken);
    }
}

/// The account's version after it.
async fn until_committed(
    journal: &Journal,
    mut commit: Commit,
    account: Option<Version>,
) -> Result<Version, Over> {
    commit = match account {
        Some(version) => commit.unchanged(journal.ledger_key.clone(), version),
        None => commit.absent(journal.ledger_key.clone()),
    };
    if let Some(fence) = &journal.fence {
        commit = commit.unchanged(fence.key.clone(), fence.version);
    }
    loop {
        match journal.records.store().commit(commit.clone()).await {
            Ok(Outcome::Committed(version)) => return Ok(version),
            Ok(Outcome::Conflict) => match journal.why_conflict(account).await {
                Ok(Conflict::Done(version)) => return Ok(version),
                Ok(Conflict::Over(over)) => return Err(over),
                Ok(Conflict::None) => {
                    tracing::warn!("a commit conflicts with nothing; repeating it")
                }
                Err(error) => tracing::error!(%error, alarm = "store", "cannot read; retrying"),
            },
            Ok(Outcome::Unknown) => tracing::warn!("store did not confirm a commit; repeating it"),
            Err(StoreError::Barred) => return Err(Over::Barred),
            Err(error) => tracing::error!(%error, alarm = "store", "cannot write; retrying"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Why a commit of a journal met a conflict.
enum Conflict {
    /// An earlier sending of it was carried out.
    Done(Version),
    /// There will be no further one.
    Over(Over),
    /// Neither.
    None,
}

impl Journal {
    /// The account first: while this KM leads nobody else writes it, so if it still does afterwards,
    /// what changed the account was this journal.
    async fn why_conflict(&self, account: Option<Version>) -> Result<Conflict, StoreError> {
        let store = self.records.store();
        let found = store.get(&self.ledger_key).await?.map(|record| record.version);
        if let Some(fence) = &self.fence {
            let leads = store.get(&fence.key).await?.map(|record| record.version);
            if leads != Some(fence.version) {
                return Ok(Conflict::Over(Over::Deposed));
            }
        }
        Ok(match found {
            Some(version) if found > account => Conflict::Done(version),
            _ if found < account => Conflict::Over(Over::SetBack),
            _ => Conflict::None,
        })
    }
}
