//! The continuous health tests of NIST SP 800-90B, 4.4, over a stream of bytes. Enter through
//! [`HealthTests::feed`]. No I/O.
//!
//! They notice a source that is stuck or strongly biased, at once and for ever after; they prove
//! no entropy. How much there is comes from whoever made and assessed the source.

/// False alarms of a source as good as claimed: 2^-40 for each byte tested for repetition and for
/// each window tested for proportion. 4.2 recommends 2^-20 to 2^-40. At the 640,000 bytes/s of
/// 20,000 keys of 256 bits, 2^-20 would refuse a good source every second or two, 2^-40 once in
/// some weeks.
const ALPHA_LOG2: f64 = -40.0;
/// Bytes in a window of the proportion test, as 4.4.2 sets it for samples that are not bits.
const WINDOW: u32 = 512;
/// Bytes tested, and thrown away, before a source is used: two windows (4.3 asks for 1,024).
pub(super) const START_UP: usize = 1024;
/// Least min-entropy per byte for which both tests can still fail, with room to spare.
pub(super) const LEAST_ENTROPY: f64 = 0.5;

/// Which test failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unhealthy {
    /// One value came too often in a row.
    #[error("the same byte came {0} times in a row (repetition count test)")]
    Repetition(u32),
    /// One value came too often in a window.
    #[error("one byte came {0} times among 512 (adaptive proportion test)")]
    Proportion(u32),
}

/// The counts at which the tests fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cutoffs {
    repetition: u32,
    proportion: u32,
}

impl Cutoffs {
    /// For a source of at least `min_entropy` bits in each byte.
    pub(super) fn of(min_entropy: f64) -> Self {
        Self {
            repetition: 1 + (-ALPHA_LOG2 / min_entropy).ceil() as u32,
            proportion: 1 + critical(WINDOW, (-min_entropy).exp2(), ALPHA_LOG2.exp2()),
        }
    }
}

/// The least k that a binomial variable of `n` trials with probability `p` exceeds with at most
/// probability `alpha`. Sums the tail from its far end, where nothing is lost to rounding.
fn critical(n: u32, p: f64, alpha: f64) -> u32 {
    let (mut tail, mut chosen) = (0.0, 0.0_f64);
    for k in (1..=n).rev() {
        // `chosen` is the logarithm of n over k.
        let rest = f64::from(n - k);
        tail += (chosen + f64::from(k) * p.ln() + rest * (1.0 - p).ln()).exp();
        if tail > alpha {
            return k;
        }
        chosen += f64::from(k).ln() - (rest + 1.0).ln();
    }
    0
}

/// Both tests in the middle of a stream. Holds two bytes of it.
#[derive(Debug)]
pub struct HealthTests {
    cutoffs: Cutoffs,
    last: Option<u8>,
    repeated: u32,
    /// First byte of the window.
    reference: u8,
    /// Bytes of the window seen; 0: the next one begins it.
    seen: u32,
    /// How many of them were `reference`.
    same: u32,
}

impl HealthTests {
    /// At the begin of a stream that claims full entropy, as a token's generator does.
    pub fn of_full_entropy() -> Self {
        Self::new(Cutoffs::of(8.0))
    }

    /// At the begin of a stream.
    pub(super) fn new(cutoffs: Cutoffs) -> Self {
        Self { cutoffs, last: None, repeated: 0, reference: 0, seen: 0, same: 0 }
    }

    /// Tests the next bytes of the stream. After a failure the stream is not to be used, and the
    /// tests begin anew.
    ///
    /// # Errors
    /// The test that failed.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Unhealthy> {
        bytes.iter().try_for_each(|byte| {
            self.repetition(*byte)?;
            self.proportion(*byte)
        })
    }

    fn repetition(&mut self, byte: u8) -> Result<(), Unhealthy> {
        self.repeated = if self.last == Some(byte) { self.repeated + 1 } else { 1 };
        self.last = Some(byte);
        match self.repeated >= self.cutoffs.repetition {
            true => Err(Unhealthy::Repetition(self.repeated)),
            false => Ok(()),
        }
    }

    fn proportion(&mut self, byte: u8) -> Result<(), Unhealthy> {
        if self.seen == 0 {
            (self.reference, self.same) = (byte, 0);
        }
        self.same += u32::from(byte == self.reference);
        self.seen = (self.seen + 1) % WINDOW;
        match self.same >= self.cutoffs.proportion {
            true => Err(Unhealthy::Proportion(self.same)),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tests(min_entropy: f64) -> HealthTests {
        HealthTests::new(Cutoffs::of(min_entropy))
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        bytes
    }

    /// Trials, log2 of the probability, log2 of alpha, critical value; computed apart from this
    /// code, with exact fractions.
    const CRITICAL: [(u32, f64, f64, u32); 8] = [
        (512, -8.0, -40.0, 18),
        (512, -8.0, -20.0, 12),
        (512, -7.0, -40.0, 25),
        (512, -4.0, -40.0, 77),
        (512, -1.0, -40.0, 335),
        (512, -1.0, -60.0, 354),
        (512, -0.5, -40.0, 431),
        (1024, -1.0, -20.0, 588),
    ];

    #[test]
    fn sp800_90b_cutoffs() {
        for (n, p, alpha, k) in CRITICAL {
            assert_eq!(critical(n, f64::exp2(p), f64::exp2(alpha)), k, "{n} 2^{p} 2^{alpha}");
        }
        assert_eq!(Cutoffs::of(8.0).repetition, 6);
        assert_eq!(Cutoffs::of(7.0).repetition, 7);
        assert_eq!(Cutoffs::of(1.0).repetition, 41);
        assert!(Cutoffs::of(LEAST_ENTROPY).proportion <= WINDOW);
    }

    #[test]
    fn good_bytes_pass_for_long() {
        let mut tests = tests(8.0);
        for _ in 0..256 {
            tests.feed(&noise(4096)).unwrap();
        }
    }

    #[test]
    fn a_stuck_source_fails_at_the_cutoff_and_not_before() {
        let cutoff = Cutoffs::of(8.0).repetition as usize;
        let mut tests = tests(8.0);
        tests.feed(&[1, 2, 3]).unwrap();
        tests.feed(&vec![9; cutoff - 1]).unwrap();
        assert_eq!(tests.feed(&[9]), Err(Unhealthy::Repetition(6)), "also across chunks");
    }

    #[test]
    fn alternating_and_biased_sources_fail_by_proportion() {
        let alternating: Vec<u8> = (0..START_UP).map(|i| (i % 2) as u8).collect();
        assert!(matches!(tests(4.0).feed(&alternating), Err(Unhealthy::Proportion(_))));
        // Ascii digits: 3.3 bits in each byte where 8 were claimed.
        let digits: Vec<u8> = noise(START_UP).iter().map(|byte| b'0' + byte % 10).collect();
        assert!(tests(8.0).feed(&digits).is_err());
        assert!(tests(3.2).feed(&digits).is_ok(), "and pass where no more is claimed");
    }

    proptest! {
        #[test]
        fn how_the_stream_is_cut_changes_nothing(
            seed in prop::collection::vec(0u8..6, 0..1500), cuts in prop::collection::vec(1usize..64, 1..40)
        ) {
            let whole = tests(2.0).feed(&seed);
            let (mut parts, mut rest) = (tests(2.0), seed.as_slice());
            let mut outcome = Ok(());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() || outcome.is_err() {
                    break;
                }
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                outcome = parts.feed(head);
                rest = tail;
            }
            prop_assert_eq!(whole, outcome);
        }

        #[test]
        fn less_claimed_is_never_stricter(low in 5u32..80, more in 0u32..40) {
            let (low, high) = (f64::from(low) / 10.0, f64::from((low + more).min(80)) / 10.0);
            let (low, high) = (Cutoffs::of(low), Cutoffs::of(high));
            prop_assert!(low.repetition >= high.repetition && low.proportion >= high.proportion);
        }

        #[test]
        fn a_run_as_long_as_the_cutoff_is_found_wherever_it_is(before in 0usize..700, entropy in 5u32..=80) {
            let min_entropy = f64::from(entropy) / 10.0;
            let mut tests = tests(min_entropy);
            let quiet: Vec<u8> = (0..before).map(|i| (i % 250) as u8).collect();
            tests.feed(&quiet).unwrap();
            let run = vec![255; Cutoffs::of(min_entropy).repetition as usize];
            prop_assert!(tests.feed(&run).is_err());
        }
    }
}
