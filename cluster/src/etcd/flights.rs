//! Requests that come while others are under way leave together, as one transaction of the engine: what
//! one costs (a round of all members, and for a change their disks) is paid once for many. Enter through
//! [`Flights::get`] and [`Flights::commit`].
//!
//! A request leaves at once while no transaction is under way, so that alone it takes as long as ever.
//! Others wait for that one's end, unless they are many: what a transaction costs the members hardly
//! depends on how much is in it. Nothing is answered from before it was asked: a transaction is made of
//! requests that wait, and then sent.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use km_core::store::{Check, Commit, MAX_COMMIT_BYTES, Outcome, Record, SessionId, StoreError};
use tokio::sync::oneshot;

use super::Engine;

/// Transactions that read, and others that commit, under way at the same time.
const AT_ONCE: usize = 2;
/// Requests that wait for nobody.
const CROWD: usize = 32;
/// Records read with one: each may be a block of 64 KiB.
const MOST_READS: usize = 64;

/// Bytes of a commit that goes alone: to wait for others would gain it nothing.
const LARGE: usize = 32 << 10;
/// Checks, and changes, of a transaction: the engine takes 128 of each.
const MOST_OPS: usize = 120;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What waits to be asked of the engine.
pub(super) struct Flights {
    engine: Arc<Engine>,
    reads: Mutex<Waiting<Vec<u8>, Option<Record>>>,
    commits: Mutex<Waiting<Commit, Outcome>>,
}

struct Waiting<Q, A> {
    line: VecDeque<(Q, Answer<A>)>,
    under_way: usize,
}

impl<Q, A> Default for Waiting<Q, A> {
    fn default() -> Self {
        Self { line: VecDeque::new(), under_way: 0 }
    }
}

impl<Q, A> Waiting<Q, A> {
    /// Whether whoever asked is to see to a transaction more.
    fn join(&mut self, request: Q, answer: Answer<A>) -> bool {
        self.line.push_back((request, answer));
        let is_free = self.under_way == 0;
        let starts = is_free || (self.under_way < AT_ONCE && self.line.len() >= CROWD);
        self.under_way += usize::from(starts);
        starts
    }

    /// Those at the front that `fit` together; `None` if nobody waits.
    fn take(&mut self, mut fits: impl FnMut(&Q) -> bool) -> Option<(Vec<Q>, Vec<Answer<A>>)> {
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        while let Some((request, answer)) = self.line.pop_front() {
            if answer.is_closed() {
                continue;
            }
            if !fits(&request) && !requests.is_empty() {
                self.line.push_front((request, answer));
                break;
            }
            requests.push(request);
            answers.push(answer);
        }
        (!requests.is_empty()).then_some((requests, answers))
    }
}

/// A task that sees to transactions until nobody waits. One that ends in the midst counts no longer, and
/// when it was the last, those who wait are told so, since nobody else would.
struct Flight<'a, Q, A> {
    waiting: &'a Mutex<Waiting<Q, A>>,
    is_over: bool,
}

impl<'a, Q, A> Flight<'a, Q, A> {
    fn of(waiting: &'a Mutex<Waiting<Q, A>>) -> Self {
        Self { waiting, is_over: false }
    }

    /// The requests of the next transaction; `None` ends the task.
    fn next(&mut self, fits: impl FnMut(&Q) -> bool) -> Option<(Vec<Q>, Vec<Answer<A>>)> {
        let mut waiting = locked(self.waiting);
        let next = waiting.take(fits);
        if next.is_none() {
            // Under the same lock: whoever joins after this starts a task.
            waiting.under_way -= 1;
            self.is_over = true;
        }
        next
    }
}

impl<Q, A> Drop for Flight<'_, Q, A> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut waiting = locked(self.waiting);
        waiting.under_way -= 1;
        if waiting.under_way == 0 {
            waiting.line.clear();
        }
    }
}

impl Flights {
    pub(super) fn new(engine: Arc<Engine>) -> Arc<Self> {
        Arc::new(Self { engine, reads: Mutex::default(), commits: Mutex::default() })
    }

    /// The record at `key`, linearizable.
    pub(super) async fn get(self: &Arc<Self>, key: Vec<u8>) -> Result<Option<Record>, StoreError> {
        let (answer, coming) = oneshot::channel();
        if locked(&self.reads).join(key, answer) {
            tokio::spawn(Self::read(Arc::clone(self)));
        }
        let ended = || StoreError::Unavailable("the key manager is stopping".to_owned());
        coming.await.map_err(|_| ended())?
    }

    /// As [`km_core::store::Store::commit`].
    pub(super) async fn commit(self: &Arc<Self>, commit: Commit) -> Result<Outcome, StoreError> {
        commit.within_limits()?;
        if commit.bytes() > LARGE {
            return self.engine.commit_once(&[commit]).await;
        }
        let (answer, coming) = oneshot::channel();
        if locked(&self.commits).join(commit, answer) {
            tokio::spawn(Self::write(Arc::clone(self)));
        }
        // Whoever carried it out ended in the midst: it may be done.
        coming.await.unwrap_or(Ok(Outcome::Unknown))
    }

    async fn read(self: Arc<Self>) {
        let mut flight = Flight::of(&self.reads);
        loop {
            let mut reads = 0;
            let fits = |_: &Vec<u8>| {
                reads += 1;
                reads <= MOST_READS
            };
            let Some((keys, answers)) = flight.next(fits) else { return };
            match self.read_all(&keys).await {
                Ok(found) => {
                    let each = answers.into_iter().zip(found);
                    each.for_each(|(answer, found)| drop(answer.send(Ok(found))));
                }
                Err(error) => tell(answers, Err(error)),
            }
        }
    }

    /// The records at `keys`, all of one moment; each is asked for once.
    async fn read_all(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Record>>, StoreError> {
        let once: BTreeSet<&Vec<u8>> = keys.iter().collect();
        let once: Vec<Vec<u8>> = once.into_iter().cloned().collect();
        let found = self.engine.read(&once).await?;
        let at = |key| once.binary_search(key).ok().and_then(|at| found.get(at)?.clone());
        Ok(keys.iter().map(at).collect())
    }

    async fn write(self: Arc<Self>) {
        let mut flight = Flight::of(&self.commits);
        loop {
            let mut group = Group::default();
            let taken = flight.next(|commit| group.takes(commit));
            let Some((commits, answers)) = taken else { return };
            self.carry_out(commits, answers).await;
        }
    }

    /// Commits that are one, as far as what they expect holds.
    async fn carry_out(&self, mut commits: Vec<Commit>, mut answers: Vec<Answer<Outcome>>) {
        loop {
            let outcome = self.engine.commit_once(&commits).await;
            if outcome != Ok(Outcome::Conflict) || commits.len() == 1 {
                return tell(answers, outcome);
            }
            // All that they look at, at one moment after they were asked for.
            let looked_at = commits.iter().flat_map(|commit| &commit.checks);
            let keys: Vec<_> = looked_at.map(|check| check.key().to_vec()).collect();
            let mut found = match self.read_all(&keys).await {
                Ok(found) => found.into_iter(),
                Err(error) => return tell(answers, Err(error)),
            };
            let before = commits.len();
            let all = std::mem::take(&mut commits).into_iter().zip(std::mem::take(&mut answers));
            for (commit, answer) in all {
                let stand = commit.checks.iter().map(|c| holds(c, found.next().flatten().as_ref()));
                match stand.fold(true, |all, one| all & one) {
                    true => {
                        commits.push(commit);
                        answers.push(answer);
                    }
                    false => drop(answer.send(Ok(Outcome::Conflict))),
                }
            }
            if commits.is_empty() {
                return;
            }
            if commits.len() == before {
                // It is a session that ended, or has changed since.
                for (commit, answer) in commits.into_iter().zip(answers) {
                    drop(answer.send(self.engine.commit_once(&[commit]).await));
                }
                return;
            }
        }
    }
}

fn holds(check: &Check, found: Option<&Record>) -> bool {
    match check {
        Check::Absent(_) => found.is_none(),
        Check::Is(_, version) => found.is_some_and(|record| record.version == *version),
    }
}

fn tell<T: Clone>(answers: Vec<Answer<T>>, what: Result<T, StoreError>) {
    // Whoever left needs no answer.
    answers.into_iter().for_each(|answer| drop(answer.send(what.clone())));
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Commits that may be one: they change nothing that another of them looks at, so that their order makes
/// no difference, and together they are no larger than one may be.
#[derive(Default)]
struct Group {
    checks: HashSet<Check>,
    sessions: HashSet<SessionId>,
    looked_at: HashSet<Vec<u8>>,
    changed: HashSet<Vec<u8>>,
    bytes: usize,
}

impl Group {
    /// Adds `commit` if it fits.
    fn takes(&mut self, commit: &Commit) -> bool {
        let puts = commit.puts.iter().map(|(key, _)| key);
        let changes: Vec<_> = puts.chain(&commit.deletes).collect();
        let looks = || commit.checks.iter().map(Check::key);
        let is_new = |key: &[u8]| !self.changed.contains(key);
        let apart = looks().all(is_new)
            && changes.iter().all(|key| is_new(key) && !self.looked_at.contains(*key));
        let more = commit.checks.iter().filter(|check| !self.checks.contains(check)).count()
            + commit.session.iter().filter(|one| !self.sessions.contains(one)).count();
        // And whether this KM is still of the cluster.
        let checks = self.checks.len() + self.sessions.len() + more + 1;
        let bytes = self.bytes + commit.bytes();
        let room = checks <= MOST_OPS
            && self.changed.len() + changes.len() <= MOST_OPS
            && bytes <= MAX_COMMIT_BYTES;
        if apart && room {
            self.bytes = bytes;
            self.checks.extend(commit.checks.iter().cloned());
            self.sessions.extend(commit.session);
            self.changed.extend(changes.into_iter().cloned());
            self.looked_at.extend(looks().map(<[u8]>::to_vec));
        }
        apart && room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_ends_in_the_midst_holds_nobody_up() {
        let waiting = Mutex::new(Waiting::<u32, ()>::default());
        let mut join = |request| {
            let (answer, coming) = oneshot::channel();
            (locked(&waiting).join(request, answer), coming)
        };
        let (starts, mut first) = join(1);
        let ends = std::panic::AssertUnwindSafe(|| {
            let taken = Flight::of(&waiting).next(|_| true);
            panic!("in the midst of {}", taken.unwrap().0.len());
        });
        assert!(starts && std::panic::catch_unwind(ends).is_err() && first.try_recv().is_err());
        let mut others: Vec<_> = (0..=CROWD as u32).map(&mut join).collect();
        let starts = others.iter().enumerate().filter(|(_, (starts, _))| *starts);
        let starts: Vec<_> = starts.map(|(at, _)| at).collect();
        assert_eq!(starts, [0, CROWD - 1], "the first, and one more when many wait");
        drop(Flight::of(&waiting));
        assert_eq!(locked(&waiting).line.len(), others.len(), "another task sees to them");
        drop(Flight::of(&waiting));
        others.iter_mut().for_each(|(_, coming)| {
            assert_eq!(coming.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        });
    }

    #[test]
    fn commits_go_together_only_if_their_order_makes_no_difference() {
        let put = |key: &str| Commit::new().put(key, "value");
        let together = |commits: &[Commit]| {
            let mut group = Group::default();
            commits.iter().all(|commit| group.takes(commit))
        };
        assert!(together(&[put("a").absent("x"), put("b").absent("x"), put("c").delete("d")]));
        assert!(!together(&[put("a"), put("a")]));
        assert!(!together(&[put("a"), Commit::new().delete("a")]));
        assert!(!together(&[put("a"), put("b").absent("a")]), "the first would make it wrong");
        assert!(!together(&[put("b").absent("a"), put("a")]), "the second would not be seen");
        let many = |count: usize| (0..count).map(|n| put(&n.to_string())).collect::<Vec<_>>();
        assert!(together(&many(MOST_OPS)) && !together(&many(MOST_OPS + 1)));
        let looking = |count: usize| (0..count).map(|n| Commit::new().absent(n.to_string()));
        assert!(!together(&looking(MOST_OPS).collect::<Vec<_>>()));
        let alike = put("new").absent("closed").fenced(SessionId(1));
        let alike = |n: usize| Commit { puts: vec![(vec![n as u8], Vec::new())], ..alike.clone() };
        assert!(together(&(0..MOST_OPS).map(alike).collect::<Vec<_>>()), "one check does for all");
        let large = |key: &str| Commit::new().put(key, vec![0; MAX_COMMIT_BYTES / 2]);
        assert!(!together(&[large("a"), large("b"), large("c")]));
    }
}
