//! The bounded queue between the asynchronous callers and the session threads.
//! Callers [`Queue::push`], workers [`Queue::take`].
//!
//! A worker that has just finished takes the next jobs without sleeping, a push wakes a thread
//! only when one sleeps, and the answers of one batch leave together: under load few system
//! calls are spent on hand-over. In a worker process nobody pushes: a session thread that finds
//! nothing to do reads the socket itself, one at a time.
//!
//! Short work is done by so many sessions at a time as the profile says, where the library's locks
//! make more of them slower; long work (signatures, new key pairs, whole blocks) by all. As long as
//! there is only short work, the other threads sleep.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use km_core::hsm::HsmError;
use tokio::sync::oneshot;

use crate::process::inside::{Back, Fetched, Incoming};
use crate::request::Request;
use crate::response::Response;

const MAX_JOBS: usize = 1024;
/// Bounds the memory of waiting messages.
const MAX_BYTES: usize = 32 << 20;
/// Jobs that one worker takes at a time.
const MAX_BATCH: usize = 16;
/// Operations and bytes after which it takes no more. Their answers leave together, so this is also what an
/// answer may wait for others: about 1 ms. Each batch of answers costs the KM a wake-up, and under load
/// it waits for a processor. Yet of many operations it leaves half: whoever asked for the first has its
/// answers, and can ask for more, while the worker is at the rest.
const MOST_SHORT: Most = Most { operations: (32, 64), bytes: 128 << 10 };
const MOST_LONG: Most = Most { operations: (16, 16), bytes: 32 << 10 };

/// Where the answer to a request goes.
pub(crate) enum Reply {
    /// To a task of this process.
    Caller(oneshot::Sender<Result<Response, HsmError>>),
    /// To the KM whose worker process this is.
    Socket { id: u64, back: Arc<Back> },
}

/// Hands over the answers of a batch. A caller that left loses nothing but the answer.
pub(crate) fn deliver(answers: impl Iterator<Item = (Reply, Result<Response, HsmError>)>) {
    let mut socket = None;
    for (reply, answer) in answers {
        match reply {
            Reply::Caller(caller) => drop(caller.send(answer)),
            Reply::Socket { id, back } => {
                back.put(id, answer);
                socket = Some(back);
            }
        }
    }
    if let Some(back) = socket {
        back.flush();
    }
}

/// One request with the time after which nobody waits for it.
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) reply: Reply,
    pub(crate) deadline: Instant,
}

impl Job {
    /// Whether nobody waits for it any more.
    pub(crate) fn is_late(&self) -> bool {
        let left = matches!(&self.reply, Reply::Caller(caller) if caller.is_closed());
        left || Instant::now() >= self.deadline
    }
}

struct Most {
    /// However few wait, and however many.
    operations: (usize, usize),
    bytes: usize,
}

/// How long a job keeps its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Short,
    Long,
}

#[derive(Default)]
struct State {
    short: VecDeque<Job>,
    long: VecDeque<Job>,
    bytes: usize,
    /// Workers at short work.
    at_short: usize,
    sleeping: usize,
    closed: bool,
}

impl State {
    fn add(&mut self, jobs: impl Iterator<Item = Job>) {
        for job in jobs {
            self.bytes += job.request.bytes();
            match job.request.work() {
                Work::Short => self.short.push_back(job),
                Work::Long => self.long.push_back(job),
            }
        }
    }

    fn len(&self) -> usize {
        self.short.len() + self.long.len()
    }

    /// The work that one more worker may do now, which did `done` last. Neither kind waits for as long as
    /// the other comes.
    fn next(&self, most_at_short: usize, done: Option<Work>) -> Option<Work> {
        match (self.short.is_empty(), self.long.is_empty()) {
            (_, false) if done == Some(Work::Short) => Some(Work::Long),
            (false, _) if self.at_short < most_at_short => Some(Work::Short),
            (_, false) => Some(Work::Long),
            _ => None,
        }
    }

    fn share(&mut self, work: Work, batch: &mut Vec<Job>, workers: usize) {
        let (jobs, most) = match work {
            Work::Short => (&mut self.short, MOST_SHORT),
            Work::Long => (&mut self.long, MOST_LONG),
        };
        let share = (jobs.len() / workers).clamp(1, MAX_BATCH);
        let (least, most_operations) = most.operations;
        // No more of them make a difference, since each has an operation at least.
        let waiting = jobs.iter().take(2 * most_operations).map(|job| job.request.operations());
        let most_operations = (waiting.sum::<usize>() / 2).clamp(least, most_operations);
        let (mut operations, mut bytes) = (0, 0);
        while batch.len() < share && operations < most_operations && bytes < most.bytes {
            let Some(job) = jobs.pop_front() else { break };
            bytes += job.request.bytes();
            operations += job.request.operations();
            batch.push(job);
        }
        self.bytes -= bytes;
    }
}

/// What [`Queue::take`] came back with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Jobs(Work),
    /// The nap was over before a job came.
    Nap,
    Closed,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    workers: usize,
    /// Workers at short work at the same time, at most.
    most_at_short: usize,
    /// Locked by the worker that reads it. Given free only under the lock of `state`, so that
    /// nobody goes to sleep because of a reader that has just stopped.
    incoming: Option<Mutex<Incoming>>,
}

impl Queue {
    /// Jobs are pushed, or read from `incoming`.
    pub(crate) fn new(
        workers: usize,
        most_at_short: Option<usize>,
        incoming: Option<Incoming>,
    ) -> Self {
        let (incoming, workers) = (incoming.map(Mutex::new), workers.max(1));
        let most_at_short = most_at_short.unwrap_or(workers).clamp(1, workers);
        Self { state: Mutex::default(), wake: Condvar::new(), workers, most_at_short, incoming }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job, or refuses it at once when the queue is full.
    pub(crate) fn push(&self, job: Job) -> Result<(), HsmError> {
        let bytes = job.request.bytes();
        let mut state = self.lock();
        if state.closed {
            return Err(HsmError::Unavailable("the HSM connection is shutting down".to_owned()));
        }
        if state.len() >= MAX_JOBS || state.bytes + bytes > MAX_BYTES {
            return Err(HsmError::Unavailable(format!(
                "{} requests are waiting for the HSM already: send fewer at once, or raise \
                 hsm.sessions",
                state.len()
            )));
        }
        state.add(std::iter::once(job));
        let wake = state.sleeping > 0;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Moves a fair share of the waiting jobs into `batch`; sleeps when there are none for one more
    /// worker. `done`: what this worker took last, and has done.
    pub(crate) fn take(
        &self,
        batch: &mut Vec<Job>,
        done: Option<Work>,
        nap: Option<Duration>,
    ) -> Taken {
        let mut state = self.lock();
        if done == Some(Work::Short) {
            state.at_short -= 1;
        }
        let work = loop {
            if let Some(work) = state.next(self.most_at_short, done) {
                break work;
            }
            let over;
            if state.closed {
                return Taken::Closed;
            } else if let Some(mut incoming) =
                self.incoming.as_ref().and_then(|i| i.try_lock().ok())
            {
                drop(state);
                let fetched = incoming.fetch(nap);
                state = self.lock();
                state.add(incoming.jobs());
                drop(incoming);
                if fetched == Fetched::End {
                    state.closed = true;
                    self.wake.notify_all();
                }
                over = fetched == Fetched::Nap;
            } else {
                (state, over) = self.sleep(state, nap);
            }
            if over && state.next(self.most_at_short, done).is_none() {
                return Taken::Nap;
            }
        };
        let workers = match work {
            Work::Short => self.most_at_short,
            Work::Long => self.workers,
        };
        state.share(work, batch, workers);
        if work == Work::Short {
            state.at_short += 1;
        }
        // What is left is for others. So is reading on, unless what comes is likely to be short work
        // that nobody else may do now.
        let reads_on = self.incoming.is_some() && state.at_short < self.most_at_short;
        if state.sleeping > 0 && (reads_on || state.next(self.most_at_short, None).is_some()) {
            drop(state);
            self.wake.notify_one();
        }
        Taken::Jobs(work)
    }

    /// Whether the nap was over comes with the lock.
    fn sleep<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        nap: Option<Duration>,
    ) -> (MutexGuard<'a, State>, bool) {
        state.sleeping += 1;
        wiped::clear_registers();
        let (mut state, over) = match nap {
            None => (self.wake.wait(state).unwrap_or_else(PoisonError::into_inner), false),
            Some(nap) => {
                let woken =
                    self.wake.wait_timeout(state, nap).unwrap_or_else(PoisonError::into_inner);
                (woken.0, woken.1.timed_out())
            }
        };
        state.sleeping -= 1;
        (state, over)
    }

    /// Lets the workers finish what waits, and takes nothing more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use km_core::hsm::{KekId, SealMethod, Sealed, TokenKey};
    use km_core::material::ClearBytes;
    use km_core::usage::kem::KemSet;
    use km_core::usage::{Action, Cipher, Curve, Hash, KeyKind, KeyUse, Scheme};

    use super::*;

    fn job(len: usize) -> Job {
        let deadline = Instant::now() + Duration::from_secs(60);
        let request = Request::Random { len: u32::try_from(len).unwrap() };
        Job { request, reply: Reply::Caller(oneshot::channel().0), deadline }
    }

    #[test]
    fn jobs_and_bytes_are_bounded() {
        let queue = Queue::new(1, None, None);
        for _ in 0..MAX_JOBS {
            queue.push(job(1)).unwrap();
        }
        assert!(matches!(queue.push(job(1)), Err(HsmError::Unavailable(_))));
        let queue = Queue::new(1, None, None);
        queue.push(job(MAX_BYTES - job(0).request.bytes())).unwrap();
        assert!(queue.push(job(1)).is_err());
        assert_eq!(queue.take(&mut Vec::new(), None, None), Taken::Jobs(Work::Short));
        queue.push(job(1)).unwrap();
    }

    #[test]
    fn a_worker_takes_its_share_and_no_more() {
        let queue = Queue::new(4, None, None);
        for _ in 0..12 {
            queue.push(job(1)).unwrap();
        }
        let mut batch = Vec::new();
        queue.take(&mut batch, None, None);
        assert_eq!(batch.len(), 3);
        let queue = Queue::new(1, None, None);
        for _ in 0..12 {
            queue.push(job(MOST_SHORT.bytes / 2)).unwrap();
        }
        batch.clear();
        queue.take(&mut batch, None, None);
        assert_eq!(batch.len(), 2);
    }

    /// A part of a KMIP batch: eight uses of one key.
    fn part(kind: KeyKind, action: &Action) -> Job {
        let sealed = Sealed::new(KekId("aa".into()), SealMethod::TokenGcm, vec![], vec![]);
        let key = Box::new(TokenKey { name: vec![], kind, wrapped: true, aad: vec![], sealed });
        let one = || KeyUse { action: action.clone(), input: ClearBytes::copy_from(&[1; 1024]) };
        Job { request: Request::UseKey { key, uses: (0..8).map(|_| one()).collect() }, ..job(1) }
    }

    #[test]
    fn answers_wait_for_many_short_uses_and_few_long_ones() {
        let encrypt = Action::Encrypt(Cipher::Ecb { padded: false });
        let sign = Action::Sign(Scheme::Ecdsa(Hash::Sha256));
        let sign = (KeyKind::Ec(Curve::P256), sign, Work::Long);
        let encrypt = (KeyKind::Aes, encrypt, Work::Short);
        // Of many short ones half, however many long ones wait: that many parts wait, so many are taken.
        let cases = [(&sign, 12, 2), (&encrypt, 3, 3), (&encrypt, 8, 4), (&encrypt, 20, 8)];
        for ((kind, action, work), waiting, most) in cases {
            let queue = Queue::new(1, None, None);
            (0..waiting).for_each(|_| queue.push(part(*kind, action)).unwrap());
            (0..20).for_each(|_| queue.push(part(sign.0, &sign.1)).unwrap());
            let mut batch = Vec::new();
            assert_eq!(queue.take(&mut batch, None, None), Taken::Jobs(*work));
            assert_eq!(batch.len(), most, "of {waiting} parts of {work:?} work");
        }
    }

    #[test]
    fn closing_drains_then_ends() {
        let queue = Queue::new(1, None, None);
        queue.push(job(1)).unwrap();
        queue.close();
        assert!(queue.push(job(1)).is_err());
        assert_eq!(queue.take(&mut Vec::new(), None, None), Taken::Jobs(Work::Short));
        assert_eq!(queue.take(&mut Vec::new(), Some(Work::Short), None), Taken::Closed);
    }

    fn long() -> Job {
        Job { request: Request::KemKeyPair { set: KemSet::MlKem768 }, ..job(1) }
    }

    #[test]
    fn neither_kind_waits_for_as_long_as_the_other_comes() {
        let queue = Queue::new(1, None, None);
        let (mut done, mut all) = (None, Vec::new());
        for _ in 0..6 {
            [job(1), long()].into_iter().for_each(|job| queue.push(job).unwrap());
            let Taken::Jobs(work) = queue.take(&mut Vec::new(), done, None) else { panic!() };
            all.push(work);
            done = Some(work);
        }
        let in_turn = [Work::Short, Work::Long].repeat(3);
        assert_eq!(all, in_turn);
    }

    #[test]
    fn short_work_is_done_by_few_and_long_work_by_all() {
        let queue = Queue::new(3, Some(1), None);
        let nap = Some(Duration::from_millis(1));
        let take = |done| queue.take(&mut Vec::new(), done, nap);
        let push = |jobs: [Job; 2]| jobs.into_iter().for_each(|job| queue.push(job).unwrap());
        push([job(1), long()]);
        assert_eq!(take(None), Taken::Jobs(Work::Short));
        push([job(1), long()]);
        assert_eq!(take(None), Taken::Jobs(Work::Long));
        assert_eq!(take(None), Taken::Jobs(Work::Long));
        assert_eq!(take(Some(Work::Long)), Taken::Nap, "the short one is not for a second worker");
        assert_eq!(take(Some(Work::Short)), Taken::Jobs(Work::Short));
        assert_eq!(take(Some(Work::Short)), Taken::Nap);
        push([job(1), job(1)]);
        queue.close();
        assert_eq!(take(None), Taken::Jobs(Work::Short));
        assert_eq!(take(Some(Work::Short)), Taken::Closed);
    }
}
