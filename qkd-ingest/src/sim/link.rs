//! The source of identical bits at both ends. Enter through [`Link`].
//!
//! Bits accrue by wall clock at the rate of the physics and are drawn by either end; what one end
//! draws, the other collects by identifier. Real randomness (the DRBG of aws-lc-rs), made when
//! drawn. Never holds its lock while it makes random bits.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;
use wiped::Wiped;

use super::{
    buffer::{Buffer, Collected, Series},
    config::{KeyLimits, Passes, RateOverride, SimConfig},
    fault::{End, Fault},
    physics::{Figures, LinkModel},
};

/// What a module says about its link (`GET /api/v1/link`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Whether keys are being made.
    pub state: LinkState,
    /// Secret bits per second; absent when bits are made on demand without a rate.
    pub key_rate_bps: Option<f64>,
    /// Quantum bit error rate, 0 to 0.5; absent while no light arrives.
    pub qber: Option<f64>,
    /// Loss of the fibre, dB.
    pub loss_db: f64,
    /// Bits ready to be drawn.
    pub buffered_bits: u64,
    /// Bits lost since start because the buffer was full.
    pub dropped_bits: u64,
}

/// State of the quantum link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// Making keys.
    Up,
    /// No light.
    Down,
    /// QBER above the threshold, or too lossy for any key.
    Aborted,
}

/// Why nothing was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DrawError {
    /// Not enough bits now.
    Short,
    /// The machine gives no randomness.
    Random,
}

/// Keys just made, for the end that asked.
pub(crate) struct Drawn {
    series: Series,
    repeated: Option<Uuid>,
    pub(crate) key_bytes: usize,
    pub(crate) bytes: Wiped,
}

impl Drawn {
    /// Each key with its identifier.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (Uuid, &[u8])> {
        let last = (self.bytes.len() / self.key_bytes).saturating_sub(1);
        self.bytes.chunks_exact(self.key_bytes).enumerate().map(move |(index, key)| {
            let own = self.series.id(index as u16);
            (self.repeated.filter(|_| index == last).unwrap_or(own), key)
        })
    }
}

pub(crate) struct Link {
    model: LinkModel,
    rate_override: Option<RateOverride>,
    passes: Option<Passes>,
    began: Instant,
    capacity: f64,
    state: Mutex<State>,
    restarts: [watch::Sender<u64>; 2],
}

struct State {
    bits: f64,
    dropped: f64,
    settled: Instant,
    cut: bool,
    figures: Figures,
    ends: [EndState; 2],
}

struct EndState {
    /// Keys the other end drew.
    waiting: Buffer,
    wrong_percent: f64,
    delay: Duration,
    repeat: bool,
    last_id: Option<Uuid>,
}

impl EndState {
    fn new(keys: &KeyLimits) -> Self {
        let capacity = usize::try_from(keys.buffer_bits / 8).unwrap_or(usize::MAX);
        Self {
            waiting: Buffer::new(capacity),
            wrong_percent: 0.0,
            delay: Duration::ZERO,
            repeat: false,
            last_id: None,
        }
    }
}

impl Link {
    pub(crate) fn new(config: &SimConfig, now: Instant) -> Self {
        let state = State {
            bits: 0.0,
            dropped: 0.0,
            settled: now,
            cut: false,
            figures: config.link.figures(0.0),
            ends: [EndState::new(&config.keys), EndState::new(&config.keys)],
        };
        Self {
            model: config.link.clone(),
            rate_override: config.rate_override,
            passes: config.passes,
            began: now,
            capacity: config.keys.buffer_bits as f64,
            state: Mutex::new(state),
            restarts: [watch::Sender::new(0), watch::Sender::new(0)],
        }
    }

    /// Changes whenever `end` restarts.
    pub(crate) fn restarts(&self, end: End) -> watch::Receiver<u64> {
        self.restarts[end as usize].subscribe()
    }

    pub(crate) fn status(&self, now: Instant) -> LinkStatus {
        let state = self.settle(now);
        let rate = self.rate(&state, now);
        let dark = state.cut || !self.passing(now);
        let link = match (dark, rate) {
            (true, _) => LinkState::Down,
            (_, Rate::Bits(rate)) if rate <= 0.0 => LinkState::Aborted,
            _ => LinkState::Up,
        };
        LinkStatus {
            state: link,
            key_rate_bps: match rate {
                Rate::Bits(rate) => Some(rate),
                Rate::Max => None,
            },
            qber: (!dark).then_some(state.figures.qber),
            loss_db: self.model.fibre.loss_db(),
            buffered_bits: state.bits as u64,
            dropped_bits: state.dropped as u64,
        }
    }

    /// `number` (1 to 65,536) fresh keys of `key_bytes` each for `end`; the other end may collect
    /// them from now on.
    pub(crate) fn draw(
        &self,
        end: End,
        number: usize,
        key_bytes: usize,
        now: Instant,
    ) -> Result<Drawn, DrawError> {
        let wanted = (number * key_bytes * 8) as f64;
        {
            let mut state = self.settle(now);
            if state.bits < wanted {
                return Err(DrawError::Short);
            }
            state.bits -= wanted;
        }
        let mut name = [0; 16];
        let mut bytes = Wiped::zeros(number * key_bytes);
        rand::fill(&mut name)
            .and_then(|()| rand::fill(&mut bytes))
            .map_err(|_| DrawError::Random)?;
        let series = Series::new(name);
        let copy = Wiped::copy_of(&bytes);
        let mut state = self.lock();
        state.ends[end.other() as usize].waiting.put(series, key_bytes, copy, now);
        let own = &mut state.ends[end as usize];
        let repeated = own.last_id.filter(|_| own.repeat).or(own.repeat.then(|| series.id(0)));
        own.last_id = Some(series.id((number - 1) as u16));
        let percent = own.wrong_percent;
        drop(state);
        spoil(&mut bytes, std::iter::repeat_n(key_bytes, number), percent);
        Ok(Drawn { series, repeated, key_bytes, bytes })
    }

    /// The keys that the other end drew under these identifiers; each once. `None` unless all are
    /// there.
    pub(crate) fn collect(&self, end: End, ids: &[Uuid], now: Instant) -> Option<Collected> {
        let mut state = self.lock();
        let own = &mut state.ends[end as usize];
        let (percent, delay) = (own.wrong_percent, own.delay);
        let mut collected = own.waiting.collect(ids, now, delay)?;
        drop(state);
        spoil(&mut collected.bytes, collected.sizes.iter().copied(), percent);
        Some(collected)
    }

    pub(crate) fn switch(&self, fault: Fault, now: Instant) {
        let mut state = self.settle(now);
        match fault {
            Fault::Cut { on } => state.cut = on,
            Fault::Eavesdrop { share } => state.figures = self.model.figures(share.clamp(0.0, 1.0)),
            Fault::WrongBits { end, percent } => state.ends[end as usize].wrong_percent = percent,
            Fault::Late { end, delay } => state.ends[end as usize].delay = delay,
            Fault::DuplicateId { end, on } => state.ends[end as usize].repeat = on,
            Fault::Restart { end } => {
                state.bits = 0.0;
                state.ends[end as usize].waiting.clear();
                self.restarts[end as usize].send_modify(|count| *count += 1);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks, with the bits made since last time added.
    fn settle(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let lit = self.lit(now) - self.lit(state.settled);
        state.settled = state.settled.max(now);
        let made = match (state.cut || state.figures.aborted, self.rate_override) {
            (true, _) => Rate::Bits(0.0),
            (false, None) => Rate::Bits(state.figures.key_rate),
            (false, Some(RateOverride::BitsPerSecond(rate))) => Rate::Bits(rate),
            (false, Some(RateOverride::Max(_))) => self.rate(&state, now),
        };
        match made {
            Rate::Max => state.bits = self.capacity,
            Rate::Bits(rate) => {
                let bits = state.bits + rate * lit.max(0.0);
                state.dropped += (bits - self.capacity).max(0.0);
                state.bits = bits.min(self.capacity);
            }
        }
        state
    }

    fn passing(&self, now: Instant) -> bool {
        let at = now.saturating_duration_since(self.began).as_secs_f64();
        self.passes.is_none_or(|passes| passes.open(at))
    }

    /// Seconds of light until `now`.
    fn lit(&self, now: Instant) -> f64 {
        let at = now.saturating_duration_since(self.began).as_secs_f64();
        self.passes.map_or(at, |passes| passes.lit(at))
    }

    fn rate(&self, state: &State, now: Instant) -> Rate {
        match self.rate_override {
            _ if state.cut || state.figures.aborted || !self.passing(now) => Rate::Bits(0.0),
            None => Rate::Bits(state.figures.key_rate),
            Some(RateOverride::BitsPerSecond(rate)) => Rate::Bits(rate),
            Some(RateOverride::Max(_)) => Rate::Max,
        }
    }
}

#[derive(Clone, Copy)]
enum Rate {
    Bits(f64),
    Max,
}

/// Flips one bit in about `percent` of the keys. At 100, in every key.
fn spoil(bytes: &mut [u8], sizes: impl Iterator<Item = usize>, percent: f64) {
    if percent <= 0.0 {
        return;
    }
    let mut rest = bytes;
    for size in sizes {
        let (key, tail) = rest.split_at_mut(size);
        rest = tail;
        let mut dice = [0; 4];
        // Without randomness every key is spoilt, which is within what was asked for.
        let _ = rand::fill(&mut dice);
        let dice = u32::from_be_bytes(dice);
        if f64::from(dice) / f64::from(u32::MAX) * 100.0 <= percent {
            key[dice as usize % size] ^= 1 << (dice % 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn link(rate: Option<RateOverride>) -> (Link, Instant) {
        let json = r#"{"certificate":"","key":"","ca":""}"#;
        let module = super::super::config::ModuleConfig {
            kme_id: "m".into(),
            listen: ([127, 0, 0, 1], 0).into(),
            tls: serde_json::from_str(json).unwrap(),
            sae_id: "km".into(),
            clients: vec![],
        };
        let keys = KeyLimits { buffer_bits: 1 << 20, ..KeyLimits::default() };
        let config = SimConfig {
            a: module.clone(),
            b: module,
            link: LinkModel::default(),
            rate_override: rate,
            passes: None,
            keys,
            admins: vec![],
        };
        let now = Instant::now();
        (Link::new(&config, now), now)
    }

    #[test]
    fn bits_accrue_at_the_rate_and_the_oldest_are_dropped() {
        let (link, start) = link(Some(RateOverride::BitsPerSecond(2560.0)));
        assert_eq!(link.draw(End::A, 1, 32, start).err(), Some(DrawError::Short));
        assert!(link.draw(End::A, 10, 32, start + SECOND).is_ok());
        assert_eq!(link.draw(End::B, 1, 32, start + SECOND).err(), Some(DrawError::Short));
        let later = link.status(start + SECOND * 1000);
        assert_eq!(later.buffered_bits, 1 << 20);
        assert_eq!(later.dropped_bits, 999 * 2560 - (1 << 20));
    }

    #[test]
    fn a_satellite_makes_keys_while_it_passes() {
        let (link, start) = link(Some(RateOverride::BitsPerSecond(100.0)));
        let passes = Some(Passes { every_s: 95.0, for_s: 10.0, after_s: 5.0 });
        let link = Link { passes, ..link };
        let at = |s: u32| link.status(start + SECOND * s);
        let seen = [4, 5, 14, 15, 99, 100, 109, 110].map(|s| {
            let status = at(s);
            (status.state == LinkState::Up, status.qber.is_some(), status.buffered_bits)
        });
        let (up, down) = ((true, true), (false, false));
        let expected = [(down, 0), (up, 0), (up, 900), (down, 1000), (down, 1000), (up, 1000)];
        let expected = expected.into_iter().chain([(up, 1900), (down, 2000)]);
        assert!(expected.map(|((up, light), bits)| (up, light, bits)).eq(seen), "{seen:?}");
        assert_eq!(at(95_005).buffered_bits, 1_000_000, "a thousand passes");
    }

    #[test]
    fn both_ends_get_the_same_bits_once() {
        let (link, now) = link(Some(RateOverride::Max(super::super::config::Max::Max)));
        let drawn = link.draw(End::A, 3, 16, now).unwrap();
        let ids: Vec<_> = drawn.keys().map(|(id, _)| id).collect();
        assert!(link.collect(End::A, &ids, now).is_none());
        let collected = link.collect(End::B, &ids, now).unwrap();
        assert_eq!(*collected.bytes, *drawn.bytes);
        assert!(drawn.bytes.iter().any(|byte| *byte != 0));
        assert!(link.collect(End::B, &ids, now).is_none());
        assert_ne!(*link.draw(End::A, 3, 16, now).unwrap().bytes, *drawn.bytes);
    }

    #[test]
    fn cut_and_eavesdropper_stop_the_rate_and_it_comes_back() {
        let (link, now) = link(None);
        let up = link.status(now);
        assert!(up.state == LinkState::Up && up.key_rate_bps > Some(1e6) && up.qber < Some(0.05));
        link.switch(Fault::Cut { on: true }, now);
        let down = link.status(now + SECOND);
        assert_eq!((down.state, down.qber, down.buffered_bits), (LinkState::Down, None, 0));
        link.switch(Fault::Cut { on: false }, now + SECOND);
        assert_eq!(link.status(now + SECOND).state, LinkState::Up);
        link.switch(Fault::Eavesdrop { share: 1.0 }, now + SECOND);
        let tapped = link.status(now + 2 * SECOND);
        assert_eq!((tapped.state, tapped.key_rate_bps), (LinkState::Aborted, Some(0.0)));
        assert!(tapped.qber > Some(0.11));
        link.switch(Fault::Eavesdrop { share: 0.0 }, now + 2 * SECOND);
        assert_eq!(link.status(now + 2 * SECOND).state, LinkState::Up);
    }

    #[test]
    fn wrong_bits_differ_in_about_the_share_asked_for() {
        let (link, now) = link(Some(RateOverride::Max(super::super::config::Max::Max)));
        let wrong = |percent| {
            link.switch(Fault::WrongBits { end: End::B, percent }, now);
            let drawn = link.draw(End::A, 1000, 16, now).unwrap();
            let ids: Vec<_> = drawn.keys().map(|(id, _)| id).collect();
            let collected = link.collect(End::B, &ids, now).unwrap();
            let pairs = collected.bytes.chunks(16).zip(drawn.keys());
            pairs.filter(|(got, (_, made))| got != made).count()
        };
        assert_eq!((wrong(0.0), wrong(100.0)), (0, 1000));
        // 20 standard deviations would be 253.
        assert!((100..=450).contains(&wrong(20.0)));
    }

    #[test]
    fn an_identifier_is_repeated_on_request() {
        let (link, now) = link(Some(RateOverride::Max(super::super::config::Max::Max)));
        let last = |link: &Link| link.draw(End::A, 2, 16, now).unwrap().keys().last().unwrap().0;
        let first = last(&link);
        assert_ne!(last(&link), first);
        let before = last(&link);
        link.switch(Fault::DuplicateId { end: End::A, on: true }, now);
        assert_eq!(last(&link), before);
    }
}
