//! Operations a second. What comes faster waits its turn, so that a client that is too fast becomes
//! slow and not broken; who would wait too long is refused.

use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What may come at once after a pause: the operations of so long.
const BURST: Duration = Duration::from_secs(1);
/// Longest wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pace of one application, over all its connections.
#[derive(Debug)]
pub(crate) struct Pace {
    gap: Duration,
    /// When the operations taken so far would be done at the even pace.
    due: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn of(per_second: NonZeroU32) -> Self {
        Self { gap: Duration::from_secs(1) / per_second.get(), due: Mutex::new(Instant::now()) }
    }

    /// Waits until `operations` more may be done; `false` when that would take too long.
    pub(crate) async fn wait(&self, operations: usize) -> bool {
        let Some(wait) = self.take(operations, Instant::now()) else { return false };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        true
    }

    fn take(&self, operations: usize, now: Instant) -> Option<Duration> {
        let operations = u32::try_from(operations).unwrap_or(u32::MAX);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let from = (*due).max(now.checked_sub(BURST).unwrap_or(now));
        let until = from.checked_add(self.gap.saturating_mul(operations))?;
        let wait = until.saturating_duration_since(now);
        // The first batch after a pause passes whatever its size, or it never would.
        if wait > PATIENCE && from > now {
            return None;
        }
        *due = until;
        Some(wait.min(PATIENCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_pace_holds_then_it_is_refused() {
        let pace = Pace::of(NonZeroU32::new(10).unwrap());
        let now = Instant::now() + BURST;
        for _ in 0..10 {
            assert_eq!(pace.take(1, now), Some(Duration::ZERO));
        }
        for waits in 1..=50u32 {
            assert_eq!(pace.take(1, now), Some(Duration::from_millis(100) * waits));
        }
        assert_eq!(pace.take(1, now), None);
        assert_eq!(pace.take(1, now + PATIENCE), Some(Duration::from_millis(100)));
    }

    #[test]
    fn a_large_batch_passes_after_a_pause_and_is_paid_for_later() {
        let pace = Pace::of(NonZeroU32::MIN);
        let now = Instant::now() + 2 * BURST;
        assert_eq!(pace.take(128, now), Some(PATIENCE));
        assert_eq!(pace.take(1, now + PATIENCE), None);
    }
}
