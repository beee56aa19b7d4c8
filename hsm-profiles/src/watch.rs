//! Which session threads are at one job for too long. Enter through [`Watch::thread`].
//!
//! A call of a library that hangs cannot be ended, and keeps its session: where one session does all the
//! short work, nothing is sealed any more while signatures go on. Only its process can be ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::request::Request;

/// Deadlines that long work may take: nobody waits for it any more after one, but it comes to be.
const LONG: u32 = 4;
/// What no call of a library is faster to be judged by, however short deadlines are.
const LEAST: Duration = Duration::from_secs(1);
/// How long a slow token may look for the primes of an RSA pair.
const PRIMES: Duration = Duration::from_secs(120);

/// The session threads of one token.
pub(crate) struct Watch {
    start: Instant,
    deadline: Duration,
    threads: Mutex<Vec<Arc<AtomicU64>>>,
}

/// One of them.
pub(crate) struct Watched {
    watch: Arc<Watch>,
    /// When its job is said to hang, in ms since `start`; 0: it has none.
    until_ms: Arc<AtomicU64>,
}

impl Watch {
    pub(crate) fn new(deadline: Duration) -> Self {
        Self { start: Instant::now(), deadline, threads: Mutex::default() }
    }

    pub(crate) fn thread(self: &Arc<Self>) -> Watched {
        let until_ms = Arc::<AtomicU64>::default();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(Arc::clone(&until_ms));
        Watched { watch: Arc::clone(self), until_ms }
    }

    /// Whether a thread is at a job that hangs, or ended in one.
    pub(crate) fn hangs(&self) -> bool {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.ms(Duration::ZERO);
        threads.iter().any(|until| (1..=now).contains(&until.load(Ordering::Relaxed)))
    }

    /// How long a request may take. Half a deadline beyond the one that was promised is for a token that is
    /// merely busy; each further operation of one request has an eighth of its own.
    fn patience(&self, request: Option<&Request>) -> Duration {
        let long = request.is_some_and(Request::takes_long);
        let one = if long { self.deadline * LONG } else { self.deadline + self.deadline / 2 };
        let more = request.map_or(0, |request| request.operations().saturating_sub(1));
        let all = one + self.deadline / 8 * u32::try_from(more).unwrap_or(u32::MAX);
        let least = match request.is_some_and(Request::finds_primes) {
            true => PRIMES,
            false => LEAST,
        };
        all.max(least)
    }

    fn ms(&self, from_now: Duration) -> u64 {
        u64::try_from((self.start.elapsed() + from_now).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Watched {
    /// How long a job may take: that of `request`, or of none.
    pub(crate) fn patience(&self, request: Option<&Request>) -> Duration {
        self.watch.patience(request)
    }

    /// Does a job that is watched, of a request or by itself. The time is that of the one job: others of its
    /// batch have their own.
    pub(crate) fn during<T>(&self, patience: Duration, job: impl FnOnce() -> T) -> T {
        let until = self.watch.ms(patience).max(1);
        self.until_ms.store(until, Ordering::Relaxed);
        let done = job();
        self.until_ms.store(0, Ordering::Relaxed);
        done
    }
}

#[cfg(test)]
mod tests {
    use km_core::usage::KeyKind;

    use super::*;

    #[test]
    fn a_job_hangs_when_its_own_time_is_over() {
        let watch = Arc::new(Watch::new(Duration::from_millis(40)));
        let (one, other) = (watch.thread(), watch.thread());
        let (short, long) = (Duration::from_millis(60), Duration::from_millis(160));
        let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
        other.during(long, || {
            for _ in 0..4 {
                one.during(short, || pause(20));
            }
            assert!(!watch.hangs(), "many short jobs, and one that may take longer");
            one.during(short, || {
                pause(61);
                assert!(watch.hangs());
            });
            assert!(!watch.hangs());
            pause(160);
            assert!(watch.hangs());
        });
        assert!(!watch.hangs());
    }

    #[test]
    fn a_request_has_the_time_of_what_it_asks() {
        let make = |kind| Request::MakeKey { aad: Vec::new(), kind, bits: 2048 };
        let of = |deadline, request: &Request| {
            Watch::new(Duration::from_millis(deadline)).patience(Some(request)).as_millis()
        };
        assert_eq!(of(5000, &Request::Probe), 7500);
        assert_eq!(of(10, &Request::Probe), 1000);
        assert_eq!(of(5000, &make(KeyKind::Ed25519)), 20_000);
        assert_eq!(of(5000, &make(KeyKind::Rsa)), 120_000);
        assert_eq!(of(5000, &Request::KekReceiver), 120_000);
    }
}
