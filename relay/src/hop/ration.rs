//! How much may be relayed to one cluster now, where the controller rations a scarce link (9.4). Without
//! I/O. Enter through [`Ration::allowed`].

use std::time::{Duration, Instant};

/// What may be made up for after a pause.
const BURST: Duration = Duration::from_secs(5);

/// The bytes still allowed.
#[derive(Debug, Default)]
pub struct Ration {
    credit: f64,
    looked: Option<Instant>,
}

impl Ration {
    /// Bytes that may be relayed now, at most `bits_per_s` bits in a second; `None`: as many as wanted.
    /// Below `least` it gives none, and lets them add up.
    pub fn allowed(&mut self, bits_per_s: Option<u64>, least: u64, now: Instant) -> Option<u64> {
        let passed = self.looked.replace(now).map_or(Duration::ZERO, |t| now.duration_since(t));
        let Some(bits_per_s) = bits_per_s else {
            *self = Self::default();
            return None;
        };
        let per_s = bits_per_s as f64 / 8.0;
        let most = (per_s * BURST.as_secs_f64()).max(least as f64);
        self.credit = (self.credit + per_s * passed.as_secs_f64()).min(most);
        Some(self.credit as u64).map(|bytes| if bytes < least { 0 } else { bytes })
    }

    /// Bytes were relayed, or lost on the way.
    pub fn spent(&mut self, bytes: u64) {
        self.credit -= bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_an_hour_no_more_passes_than_the_ration() {
        let (mut ration, mut now) = (Ration::default(), Instant::now());
        let mut passed = 0;
        for _ in 0..36_000 {
            now += Duration::from_millis(100);
            if let Some(bytes @ 1..) = ration.allowed(Some(8_000), 2048, now) {
                ration.spent(bytes);
                passed += bytes;
            }
        }
        assert!((3_590_000..=3_600_000).contains(&passed), "{passed}");
        now += Duration::from_secs(3600);
        assert_eq!(ration.allowed(Some(8_000), 2048, now), Some(5000), "a pause saves up little");
        assert_eq!(ration.allowed(None, 2048, now), None);
        assert_eq!(ration.allowed(Some(8), 2048, now), Some(0), "a slow one waits for a batch");
    }
}
