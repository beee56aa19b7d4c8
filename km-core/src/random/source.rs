//! One source of random bytes with its health. Enter through [`Source::draw`].

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{Context, SHA512};
use wiped::Wiped;

use super::{
    RandomError, SourceStatus,
    device::Device,
    health::{Cutoffs, HealthTests, START_UP},
};
use crate::{hsm::Hsm, material::ClearBytes};

/// A source that failed is left alone that long.
const PAUSE: Duration = Duration::from_secs(1);
/// Entropy that goes into a conditioned output beyond its length, in bits (SP 800-90C).
const SURPLUS_BITS: f64 = 64.0;
/// Bytes of one conditioned output.
const CONDITIONED: usize = 32;

/// A QRNG at a path.
#[derive(Clone, Debug, PartialEq)]
pub struct QrngConfig {
    /// A character device such as `/dev/qrng0`, or a FIFO.
    pub path: PathBuf,
    /// Min-entropy the maker assures, in bits per byte: 0.5 to 8. Below 8 the bytes are
    /// conditioned with SHA-512, as many into each 32 as hold 320 bits.
    pub min_entropy: f64,
    /// Longest wait for one read.
    pub deadline: Duration,
}

/// Where bytes are read from.
pub(super) enum Tap {
    /// The token's generator.
    Token(Arc<dyn Hsm>),
    /// A device of the host.
    Qrng(Device),
}

impl Tap {
    fn name(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Qrng(_) => "qrng",
        }
    }

    fn close(&self) {
        if let Self::Qrng(device) = self {
            device.close();
        }
    }

    /// Exactly `len` bytes.
    async fn read(&self, len: usize) -> Result<ClearBytes, RandomError> {
        let away = |why| RandomError::Away { which: self.name(), why };
        let read = match self {
            Self::Token(hsm) => hsm.random(len).await?,
            Self::Qrng(device) => device.read(len).await.map_err(away)?,
        };
        match read.len() == len {
            true => Ok(read),
            false => Err(away(format!("it gave {} bytes instead of {len}", read.len()))),
        }
    }
}

/// A tap with its tests.
pub(super) struct Source {
    tap: Tap,
    min_entropy: f64,
    condition: Mutex<Condition>,
}

#[derive(Default)]
struct Condition {
    /// Present from the start-up test to the first failure.
    tests: Option<HealthTests>,
    trouble: Option<(RandomError, Instant)>,
    failures: u64,
}

impl Condition {
    /// Why the source is left alone now.
    fn resting(&self) -> Option<RandomError> {
        let (error, since) = self.trouble.as_ref()?;
        let rests = !matches!(error, RandomError::Token(_)) && since.elapsed() < PAUSE;
        rests.then(|| error.clone())
    }
}

impl Source {
    pub(super) fn new(tap: Tap, min_entropy: f64) -> Self {
        Self { tap, min_entropy, condition: Mutex::default() }
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> SourceStatus {
        let condition = self.condition();
        let trouble = condition.trouble.as_ref().map(|(error, _)| error.to_string());
        SourceStatus { source: self.tap.name(), failures: condition.failures, trouble }
    }

    /// `len` tested bytes of full entropy. One caller at a time. After a failure the source is
    /// tested from the start, and left alone for a second before, unless it is the token that was
    /// away: that has a pause of its own.
    pub(super) async fn draw(&self, len: usize) -> Result<ClearBytes, RandomError> {
        if let Some(error) = self.condition().resting() {
            return Err(error);
        }
        let drawn = self.test_and_condition(len).await;
        let (mut condition, source) = (self.condition(), self.tap.name());
        match &drawn {
            Ok(_) => {
                if condition.trouble.take().is_some() {
                    tracing::info!(source, "the random source is back");
                }
            }
            Err(error) => {
                if condition.trouble.is_none() {
                    tracing::error!(alarm = "random-source", source, %error, "no random numbers");
                }
                condition.failures += 1;
                condition.trouble = Some((error.clone(), Instant::now()));
            }
        }
        drawn
    }

    async fn test_and_condition(&self, len: usize) -> Result<ClearBytes, RandomError> {
        // Taken out: whoever is interrupted here leaves a source to be tested from the start.
        let tests = self.condition().tests.take();
        let mut tests = match tests {
            Some(tests) => tests,
            None => self.start_up().await?,
        };
        let raw = self.tap.read(self.raw_len(len)).await?;
        self.feed(&mut tests, &raw)?;
        self.condition().tests = Some(tests);
        if self.raw_len(len) == len { Ok(raw) } else { Ok(self.squeeze(&raw, len)) }
    }

    async fn start_up(&self) -> Result<HealthTests, RandomError> {
        let mut tests = HealthTests::new(Cutoffs::of(self.min_entropy));
        let spent = self.tap.read(START_UP).await?;
        self.feed(&mut tests, &spent)?;
        Ok(tests)
    }

    fn feed(&self, tests: &mut HealthTests, bytes: &ClearBytes) -> Result<(), RandomError> {
        bytes.expose(|bytes| tests.feed(bytes)).map_err(|test| {
            self.tap.close();
            RandomError::Unhealthy { which: self.tap.name(), test }
        })
    }

    /// Bytes that go into one conditioned output.
    fn intake(&self) -> usize {
        ((CONDITIONED as f64 * 8.0 + SURPLUS_BITS) / self.min_entropy).ceil() as usize
    }

    fn raw_len(&self, len: usize) -> usize {
        if self.min_entropy >= 8.0 { len } else { len.div_ceil(CONDITIONED) * self.intake() }
    }

    /// SHA-512 cut to half is a vetted conditioning component (SP 800-90B 3.1.5.1.1).
    fn squeeze(&self, raw: &ClearBytes, len: usize) -> ClearBytes {
        let mut bytes = Wiped::with_capacity(len.next_multiple_of(CONDITIONED));
        raw.expose(|raw| {
            for part in raw.chunks_exact(self.intake()) {
                let mut hash = Context::new(&SHA512);
                hash.update(part);
                bytes.append(&hash.finish().as_ref()[..CONDITIONED]);
            }
        });
        bytes.truncate(len);
        bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditioned_bytes_have_enough_behind_them() {
        let source = |min_entropy| {
            let device = Device::new("/nowhere".into(), Duration::from_secs(1)).unwrap();
            Source::new(Tap::Qrng(device), min_entropy)
        };
        assert_eq!(source(8.0).raw_len(100), 100);
        assert_eq!(source(4.0).raw_len(64), 2 * 80);
        let halves = source(4.0);
        let raw = ClearBytes::from_vec((0..=255).cycle().take(160).collect());
        let squeezed = halves.squeeze(&raw, 40);
        assert_eq!(squeezed.len(), 40);
        let first = aws_lc_rs::digest::digest(&SHA512, &(0..80).collect::<Vec<u8>>());
        squeezed.expose(|bytes| assert_eq!(bytes[..32], first.as_ref()[..32]));
    }
}
