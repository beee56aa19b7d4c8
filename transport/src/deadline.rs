//! Deadlines that cost nothing while they are kept. Enter through [`Deadline`].
//!
//! One timer serves a whole connection: it is re-armed when it fires early or when an earlier
//! deadline is set, so a busy connection does not touch the timer wheel for every request.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// A reusable deadline for one connection's steps, for handlers given to [`crate::serve`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// # use std::time::Duration;
/// let mut deadline = transport::Deadline::new();
/// let read = deadline.run(Duration::from_secs(60), async { 7 }).await;
/// assert_eq!(read, Some(7));
/// # });
/// ```
pub struct Deadline(Alarm);

impl Deadline {
    /// Not yet armed.
    pub fn new() -> Self {
        Self(Alarm::new(Instant::now() + Duration::from_secs(3600)))
    }

    /// Runs `step`; `None` when it did not end within `limit` (it is dropped then).
    pub async fn run<F: Future>(&mut self, limit: Duration, step: F) -> Option<F::Output> {
        let due = Instant::now() + limit;
        let mut step = pin!(step);
        poll_fn(|cx| match step.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.0.poll(|| due, cx).map(|()| None),
        })
        .await
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Self::new()
    }
}

/// A timer that follows a moving deadline.
pub(crate) struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    pub(crate) fn new(due: Instant) -> Self {
        Self(Box::pin(sleep_until(due)))
    }

    /// Ready when the moment that `due` names has passed.
    pub(crate) fn poll(&mut self, due: impl Fn() -> Instant, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let deadline = due();
            if deadline < self.0.deadline() {
                self.0.as_mut().reset(deadline);
            }
            if self.0.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if due() <= self.0.deadline() {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(due());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn one_timer_serves_deadlines_that_move_both_ways() {
        let mut deadline = Deadline::new();
        for _ in 0..2 {
            assert_eq!(deadline.run(LONG, async { 1 }).await, Some(1));
            assert_eq!(deadline.run(SHORT, pending::<()>()).await, None);
            // The timer still stands at the short one and must not fire for the long one.
            let slow = tokio::time::sleep(3 * SHORT);
            assert_eq!(deadline.run(LONG, slow).await, Some(()));
        }
    }
}
