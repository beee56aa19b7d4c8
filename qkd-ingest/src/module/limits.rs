//! What a module allows and has, and what to ask of it. No I/O. Enter through [`Limits::of`] and
//! [`Limits::plan`].

use etsi014::Status;

/// Largest key ever asked for, in bits: KM links give a key's length in 16 bits of bytes.
pub(super) const MAX_KEY_BITS: u64 = u16::MAX as u64 * 8;
/// Largest key asked for unless configured, in bits.
const AUTO_KEY_BITS: u64 = 65_536;
/// Most keys of one request, whatever the module allows.
const MAX_KEYS: u64 = 2048;
/// Most key bytes of one enc_keys request.
const MAX_REQUEST_BYTES: u64 = 1 << 20;
/// Room for one key's identifier, extensions and punctuation in an answer, in bytes.
const ENTRY: u64 = 512;
/// Most bytes of an answer to enc_keys: what may be asked for, with the same again for extensions.
pub(super) const ENC_ANSWER: usize = 8 << 20;
/// Most bytes of an answer to dec_keys: [`MAX_KEYS`] keys of [`AUTO_KEY_BITS`].
pub(super) const DEC_ANSWER: usize = 32 << 20;

/// Bounds of requests to one module. Sizes in bits, multiples of 8; `min <= max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    min: u64,
    max: u64,
    per_request: u64,
}

/// One enc_keys request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// At least 1.
    pub(super) number: u64,
    /// A multiple of 8.
    pub(super) size_bits: u64,
    /// Whether the module's stock, not the caller's wish or a limit, made the request this small.
    pub(super) short: bool,
}

impl Plan {
    pub(super) fn bits(&self) -> u64 {
        self.number * self.size_bits
    }
}

impl Limits {
    /// From the module's own words; an error says which of them cannot be met.
    pub(super) fn of(status: &Status) -> Result<Self, String> {
        let min = status.min_key_size.max(8).checked_next_multiple_of(8).unwrap_or(u64::MAX);
        let max = status.max_key_size.min(MAX_KEY_BITS) / 8 * 8;
        if min > max {
            let (min, max) = (status.min_key_size, status.max_key_size);
            return Err(format!("no key size that is a multiple of 8 lies from {min} to {max}"));
        }
        if status.max_key_per_request == 0 {
            return Err("its max_key_per_request is 0".to_owned());
        }
        Ok(Self { min, max, per_request: status.max_key_per_request.min(MAX_KEYS) })
    }

    /// What to ask for `bytes` bytes from a stock of `available` bits; `None` when the stock does
    /// not hold one key.
    pub(super) fn plan(&self, wish: Option<u32>, bytes: usize, available: u64) -> Option<Plan> {
        let wanted = (bytes as u64).saturating_mul(8).max(8);
        let fit = |bits: u64| (bits / 8 * 8).clamp(self.min, self.max);
        let full = match wish {
            Some(bits) => fit(bits.into()),
            None => fit(AUTO_KEY_BITS.min(wanted)),
        };
        // Without a configured size a small stock is taken as one smaller key.
        let size_bits = if wish.is_none() { fit(full.min(available)) } else { full };
        let by_bytes = (MAX_REQUEST_BYTES * 8 / size_bits).max(1);
        let cap = wanted.div_ceil(size_bits).min(self.per_request).min(by_bytes);
        let number = cap.min(available / size_bits);
        let short = number < cap || size_bits < full;
        (number > 0).then_some(Plan { number, size_bits, short })
    }

    /// Most identifiers of one dec_keys request. The other end may ask for larger keys than we do
    /// up to [`AUTO_KEY_BITS`]; beyond, both ends are configured alike.
    pub(super) fn batch(&self, wish: Option<u32>) -> usize {
        let largest = u64::from(wish.unwrap_or(0)).max(AUTO_KEY_BITS).min(self.max);
        let entry = largest.div_ceil(24) * 4 + ENTRY;
        self.per_request.min(DEC_ANSWER as u64 / entry).max(1) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(min: u64, max: u64, per_request: u64) -> Status {
        let json = format!(
            r#"{{"source_KME_ID":"","target_KME_ID":"","master_SAE_ID":"","slave_SAE_ID":"",
            "key_size":256,"stored_key_count":1,"max_key_count":1,
            "max_key_per_request":{per_request},
            "max_key_size":{max},"min_key_size":{min}}}"#
        );
        Status::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn impossible_limits_are_refused() {
        for (min, max, per_request) in [(0, 0, 1), (65, 71, 1), (u64::MAX, u64::MAX, 1), (8, 8, 0)]
        {
            assert!(Limits::of(&status(min, max, per_request)).is_err(), "{min} {max}");
        }
        let wild = Limits::of(&status(0, u64::MAX, u64::MAX)).unwrap();
        assert_eq!(wild, Limits { min: 8, max: MAX_KEY_BITS, per_request: MAX_KEYS });
    }

    #[test]
    fn a_plan_keeps_every_limit() {
        let limits = Limits { min: 64, max: 1024, per_request: 128 };
        for wish in [None, Some(8), Some(100), Some(256), Some(500_000)] {
            for bytes in [0, 1, 31, 4096, usize::MAX] {
                for available in [0, 63, 64, 65, 1000, u64::MAX] {
                    let Some(plan) = limits.plan(wish, bytes, available) else {
                        // Nothing is asked for only if not even one key is there.
                        assert!(available < 1024, "{wish:?} {bytes} {available}");
                        continue;
                    };
                    assert!(plan.size_bits % 8 == 0 && (64..=1024).contains(&plan.size_bits));
                    assert!((1..=128).contains(&plan.number) && plan.bits() <= available);
                }
            }
        }
    }

    #[test]
    fn sizes_follow_configuration_wish_and_stock() {
        let limits = Limits { min: 64, max: MAX_KEY_BITS, per_request: 2048 };
        let plan = |wish, bytes, available| {
            limits.plan(wish, bytes, available).map(|p| (p.number, p.size_bits, p.short))
        };
        assert_eq!(plan(None, 65_536, u64::MAX), Some((8, 65_536, false)));
        assert_eq!(plan(None, 100, u64::MAX), Some((1, 800, false)));
        assert_eq!(plan(None, 65_536, 1001), Some((1, 1000, true)));
        assert_eq!(plan(None, 65_536, 63), None);
        assert_eq!(plan(Some(259), 65_536, u64::MAX), Some((2048, 256, false)));
        assert_eq!(plan(Some(256), 65_536, 600), Some((2, 256, true)));
        assert_eq!(plan(Some(524_280), 16 << 20, u64::MAX), Some((16, 524_280, false)));
    }

    #[test]
    fn a_full_batch_fits_the_answer_bound() {
        let limits = Limits { min: 8, max: MAX_KEY_BITS, per_request: MAX_KEYS };
        assert_eq!(limits.batch(None), 2048);
        assert!(limits.batch(Some(524_280)) * (65_536 / 3 * 4 + 512) <= DEC_ANSWER);
        assert_eq!(Limits { per_request: 3, ..limits }.batch(None), 3);
    }
}
