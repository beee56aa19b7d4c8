//! How much may be relayed to one cluster now, where the controller rations a scarce link (9.4). Without
//! I/O. Enter through [`Ration::allowed`].

use std::time::{Duration, Instant};

use km_core::block::TAG_KEYS;

use super::message::TAG_KEY;

/// What may be made up for after a pause.
const BURST: Duration = Duration::from_secs(5);

/// What a batch costs beside its keys: the keys of its block's tags and of one hop's.
const OVERHEAD: u64 = (TAG_KEYS + TAG_KEY) as u64;
/// No smaller batches, overhead included.
const LEAST: u64 = 2048;

/// The bytes still allowed.
#[derive(Debug, Default)]
pub struct Ration {
    credit: f64,
    looked: Option<Instant>,
}

impl Ration {
    /// Bytes of keys that may be relayed in one batch now, at most `bits_per_s` bits in a second with
    /// all it costs on one hop; `None`: as many as wanted. Too few for a batch add up.
    pub fn allowed(&mut self, bits_per_s: Option<u64>, now: Instant) -> Option<u64> {
        let passed = self.looked.replace(now).map_or(Duration::ZERO, |t| now.duration_since(t));
        let Some(bits_per_s) = bits_per_s else {
            *self = Self::default();
            return None;
        };
        let per_s = bits_per_s as f64 / 8.0;
        let most = (per_s * BURST.as_secs_f64()).max(LEAST as f64);
        self.credit = (self.credit + per_s * passed.as_secs_f64()).min(most);
        Some(self.credit as u64).map(|bytes| if bytes < LEAST { 0 } else { bytes - OVERHEAD })
    }

    /// A batch of so many bytes of keys was relayed, or lost on the way.
    pub fn spent(&mut self, bytes: u64) {
        self.credit -= (bytes + OVERHEAD) as f64;
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
            if let Some(bytes @ 1..) = ration.allowed(Some(8_000), now) {
                ration.spent(bytes);
                passed += bytes + OVERHEAD;
            }
        }
        assert!((3_590_000..=3_600_000).contains(&passed), "{passed}");
        now += Duration::from_secs(3600);
        let saved = ration.allowed(Some(8_000), now);
        assert_eq!(saved, Some(5000 - OVERHEAD), "a pause saves up little");
        assert_eq!(ration.allowed(None, now), None);
        assert_eq!(ration.allowed(Some(8), now), Some(0), "a slow one waits for a batch");
    }
}
