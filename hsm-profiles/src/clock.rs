//! Deadlines of many requests for the price of one timer. Enter through [`Clock::past`].
//!
//! A timer of the runtime costs a system call when no other timer is due earlier, so nearly every
//! request would pay one, for a deadline that nearly none of them meets. Here one thread ticks a
//! few times within each deadline, and only requests that still wait look at the time.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A deadline is noticed late by at most its eighth, and by at most a quarter of a second.
const TICKS_PER_DEADLINE: u32 = 8;
const LONGEST_TICK: Duration = Duration::from_millis(250);

#[derive(Default)]
pub(crate) struct Clock {
    ticks: Notify,
    stopped: Mutex<bool>,
    stop: Condvar,
}

impl Clock {
    /// Returns once `deadline` is over.
    pub(crate) async fn past(&self, deadline: Instant) {
        loop {
            // Hears every tick from here on, also those before it is first polled.
            let tick = self.ticks.notified();
            if Instant::now() >= deadline {
                return;
            }
            tick.await;
        }
    }

    /// Ticks for requests that take at most `deadline`, until [`Clock::stop`].
    pub(crate) fn run(&self, deadline: Duration) {
        let period = (deadline / TICKS_PER_DEADLINE).min(LONGEST_TICK);
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        while !*stopped {
            let waited = self.stop.wait_timeout(stopped, period);
            stopped = waited.unwrap_or_else(PoisonError::into_inner).0;
            self.ticks.notify_waiters();
        }
    }

    pub(crate) fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.notify_all();
    }
}
