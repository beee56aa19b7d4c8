//! Which session threads are at one job for too long. Enter through [`Watch::thread`].
//!
//! A call of a library that hangs cannot be ended, and keeps its session: where one session does all the
//! short work, nothing is sealed any more while signatures go on. Only its process can be ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::queue::Work;

/// Deadlines that long work may take. Nobody waits for it any more after one, but a slow token makes key
/// pairs so, in a session that no short work needs.
const LONG: u32 = 4;

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

    /// Half a deadline beyond the one that was promised is for a token that is merely busy.
    fn patience(&self, work: Work) -> Duration {
        match work {
            Work::Short => self.deadline + self.deadline / 2,
            Work::Long => self.deadline * LONG,
        }
    }

    fn ms(&self, from_now: Duration) -> u64 {
        u64::try_from((self.start.elapsed() + from_now).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Watched {
    /// Does a job that is watched. The time is that of the one job: others of its batch have their own.
    pub(crate) fn during<T>(&self, work: Work, job: impl FnOnce() -> T) -> T {
        let until = self.watch.ms(self.watch.patience(work)).max(1);
        self.until_ms.store(until, Ordering::Relaxed);
        let done = job();
        self.until_ms.store(0, Ordering::Relaxed);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_hangs_when_its_own_time_is_over() {
        let watch = Arc::new(Watch::new(Duration::from_millis(200)));
        let (one, other) = (watch.thread(), watch.thread());
        let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
        other.during(Work::Long, || {
            for _ in 0..4 {
                one.during(Work::Short, || pause(80));
            }
            assert!(!watch.hangs(), "many short jobs, and one that may take longer");
            one.during(Work::Short, || {
                pause(301);
                assert!(watch.hangs());
            });
            assert!(!watch.hangs());
            pause(800);
            assert!(watch.hangs());
        });
        assert!(!watch.hangs());
    }
}
