//! How much an end-to-end pool is to be fed now, without I/O (clause 6.2e: by hand, at a fixed rate,
//! adaptive to the traffic, by schedule; and on demand, 9.3b). Enter through [`Feeder::wanted`].
//!
//! In every mode what an operator orders comes too; and, but for [`Mode::Manual`], what applications
//! asked for in vain.

use std::time::{Duration, Instant};

pub use km_core::feeding::{Mode, Window};
use km_core::{pool::Demand, provenance::Grade};

/// Least bytes of one batch: below, agreement and sealing cost more than the keys are worth.
const LEAST_BATCH: u64 = 1024;
/// How long consumption is averaged over.
const MEMORY: Duration = Duration::from_secs(30);
/// What a fixed rate may make up for after a pause.
const BURST: Duration = Duration::from_secs(5);
const DAY_MIN: u16 = 24 * 60;

/// The pool at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stock {
    /// Bytes stored or on their way.
    pub stored: u64,
    /// Bytes ever used up: delivered, burned or spent.
    pub consumed: u64,
}

/// For whom bytes were brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    ordered: u64,
    rate: u64,
}

/// Decides how much to bring.
pub struct Feeder {
    mode: Mode,
    demand: Demand,
    filling: bool,
    /// Bytes a fixed rate still allows.
    credit: f64,
    /// Bytes used up in a second, on average.
    usage: f64,
    last: Option<(Instant, u64)>,
}

impl Feeder {
    /// Nothing is owed yet.
    pub fn new(mode: Mode) -> Self {
        let demand = Demand::default();
        Self { mode, demand, filling: false, credit: 0.0, usage: 0.0, last: None }
    }

    /// Another mode counts from now on; whether it is another.
    pub fn set_mode(&mut self, mode: &Mode) -> bool {
        let other = self.mode != *mode;
        if other {
            (self.mode, self.filling, self.credit) = (mode.clone(), false, 0.0);
        }
        other
    }

    /// Somebody asked for more.
    pub fn add(&mut self, demand: Demand) {
        if self.mode != Mode::Manual {
            self.demand.missed = self.demand.missed.saturating_add(demand.missed);
            self.demand.its = self.demand.its.saturating_add(demand.its);
        }
        self.demand.ordered = self.demand.ordered.saturating_add(demand.ordered);
    }

    /// Bytes to bring now; 0: none. `unix_ms` tells the time of day.
    pub fn wanted(&mut self, stock: Stock, now: Instant, unix_ms: u64) -> u64 {
        self.look(stock, now);
        let owed = self.demand.missed + self.demand.ordered;
        let by_mode = match &self.mode {
            Mode::OnDemand | Mode::Manual => 0,
            Mode::Watermark { low, high } => {
                self.filling = stock.stored < if self.filling { *high } else { *low };
                if self.filling { high.saturating_sub(stock.stored) } else { 0 }
            }
            Mode::Rate(_) => self.credit as u64,
            Mode::Adaptive { horizon, least } => {
                let ahead = (self.usage * horizon.as_secs_f64()) as u64;
                ahead.max(*least).saturating_sub(stock.stored)
            }
            Mode::Schedule { windows, high } => {
                let minute = (unix_ms / 60_000 % u64::from(DAY_MIN)) as u16;
                match windows.iter().any(|window| window.holds(minute)) {
                    true => high.saturating_sub(stock.stored),
                    false => 0,
                }
            }
        };
        match (owed, by_mode) {
            (0, 0) => 0,
            // A fixed rate waits until a batch is worth its cost.
            (0, few) if matches!(self.mode, Mode::Rate(_)) && few < LEAST_BATCH => 0,
            (owed, by_mode) => (owed + by_mode).max(LEAST_BATCH),
        }
    }

    /// The next batch where `bytes` are wanted: who needs a grade goes first, and no more than is needed
    /// comes as dear as that.
    pub fn batch(&self, bytes: u64) -> (u64, Grade) {
        match self.demand.its {
            0 => (bytes, Grade::Computational),
            its => (bytes.min(its.max(LEAST_BATCH)), Grade::ItsRelay),
        }
    }

    /// A batch is on its way; for whom.
    pub fn sent(&mut self, bytes: u64, grade: Grade) -> Share {
        let Demand { missed, its, ordered: all_ordered } = &mut self.demand;
        let needed = if grade == Grade::ItsRelay { bytes.min(*its) } else { 0 };
        (*its, *missed) = (*its - needed, missed.saturating_sub(needed));
        let left = bytes - needed;
        let ordered = left.min(*all_ordered);
        *all_ordered -= ordered;
        let left = left - ordered;
        let from_missed = left.min(*missed - *its);
        *missed -= from_missed;
        let rate = left - from_missed;
        self.credit -= rate as f64;
        Share { ordered, rate }
    }

    /// Bytes on their way are lost, and nothing can be brought now. What was ordered is owed again;
    /// who asked in vain asks again.
    pub fn failed(&mut self, share: Share) {
        self.demand.ordered += share.ordered;
        (self.demand.missed, self.demand.its) = (0, 0);
        self.credit += share.rate as f64;
    }

    fn look(&mut self, stock: Stock, now: Instant) {
        let Some((before, consumed)) = self.last.replace((now, stock.consumed)) else { return };
        let passed = now.duration_since(before).as_secs_f64();
        if passed <= 0.0 {
            self.last = Some((before, consumed));
            return;
        }
        let rate = stock.consumed.saturating_sub(consumed) as f64 / passed;
        let weight = 1.0 - (-passed / MEMORY.as_secs_f64()).exp();
        self.usage += weight * (rate - self.usage);
        if let Mode::Rate(bytes) = self.mode {
            let most = bytes as f64 * BURST.as_secs_f64();
            self.credit = (self.credit + bytes as f64 * passed).min(most.max(LEAST_BATCH as f64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 12 * 3_600_000;

    fn stock(stored: u64) -> Stock {
        Stock { stored, consumed: 0 }
    }

    #[test]
    fn on_demand_brings_what_was_missed_and_no_more() {
        let (mut feeder, now) = (Feeder::new(Mode::OnDemand), Instant::now());
        assert_eq!(feeder.wanted(stock(0), now, NOON), 0);
        feeder.add(Demand { missed: 5000, ..Demand::default() });
        assert_eq!(feeder.wanted(stock(0), now, NOON), 5000);
        feeder.sent(4000, Grade::Computational);
        assert_eq!(feeder.wanted(stock(0), now, NOON), 1024);
        feeder.sent(1024, Grade::Computational);
        assert_eq!(feeder.wanted(stock(0), now, NOON), 0);
    }

    #[test]
    fn what_needs_a_grade_goes_first_and_alone() {
        let mode = Mode::Watermark { low: 50_000, high: 60_000 };
        let (mut feeder, now) = (Feeder::new(mode), Instant::now());
        feeder.add(Demand { missed: 3000, its: 2000, ordered: 500 });
        let mut sent = Vec::new();
        let mut stored = 0;
        while let bytes @ 1.. = feeder.wanted(stock(stored), now, NOON) {
            let (bytes, grade) = feeder.batch(bytes);
            feeder.sent(bytes, grade);
            stored += bytes;
            sent.push((bytes, grade));
        }
        let [(its, Grade::ItsRelay), (more, Grade::Computational)] = sent[..] else {
            panic!("{sent:?}")
        };
        assert_eq!((its, more), (2000, 1000 + 500 + 58_000));
        feeder.add(Demand { missed: 32, its: 32, ordered: 0 });
        let wanted = feeder.wanted(stock(60_000), now, NOON);
        assert_eq!(feeder.batch(wanted), (1024, Grade::ItsRelay), "not less than a batch");
        feeder.failed(Share::default());
        assert_eq!(feeder.wanted(stock(60_000), now, NOON), 0, "who asked in vain asks again");
    }

    #[test]
    fn by_hand_only_what_is_ordered_comes() {
        let (mut feeder, now) = (Feeder::new(Mode::Manual), Instant::now());
        feeder.add(Demand { missed: 5000, ..Demand::default() });
        assert_eq!(feeder.wanted(stock(0), now, NOON), 0);
        feeder.add(Demand { ordered: 3000, ..Demand::default() });
        assert_eq!(feeder.wanted(stock(0), now, NOON), 3000);
        let share = feeder.sent(3000, Grade::Computational);
        assert_eq!(feeder.wanted(stock(0), now, NOON), 0);
        feeder.failed(share);
        assert_eq!(feeder.wanted(stock(0), now, NOON), 3000);
        feeder.sent(3000, Grade::Computational);
        assert_eq!(feeder.wanted(stock(0), now, NOON), 0);
    }

    #[test]
    fn another_mode_counts_from_the_next_look_on() {
        let (mut feeder, now) = (Feeder::new(Mode::Manual), Instant::now());
        assert_eq!(feeder.wanted(stock(0), now, NOON), 0);
        let full = Mode::Watermark { low: 1000, high: 9000 };
        assert!(feeder.set_mode(&full) && !feeder.set_mode(&full));
        assert_eq!(feeder.wanted(stock(0), now, NOON), 9000);
        assert!(feeder.set_mode(&Mode::OnDemand));
        assert_eq!(feeder.wanted(stock(0), now, NOON), 0);
    }

    #[test]
    fn a_watermark_fills_from_low_to_high_and_then_waits() {
        let mode = Mode::Watermark { low: 1000, high: 9000 };
        let (mut feeder, now) = (Feeder::new(mode), Instant::now());
        let filled = [(999, 8001), (5000, 4000), (9000, 0), (5000, 0), (1000, 0), (0, 9000)];
        for (stored, wanted) in filled {
            assert_eq!(feeder.wanted(stock(stored), now, NOON), wanted, "{stored}");
        }
    }

    #[test]
    fn a_fixed_rate_is_kept_over_an_hour_however_full_the_pool() {
        let (mut feeder, mut now) = (Feeder::new(Mode::Rate(700)), Instant::now());
        let mut brought = 0;
        for _ in 0..3600 {
            let bytes = feeder.wanted(stock(1 << 30), now, NOON);
            feeder.sent(bytes, Grade::Computational);
            brought += bytes;
            now += Duration::from_secs(1);
        }
        assert!((700 * 3580..=700 * 3605).contains(&brought), "{brought}");
        // After a long pause it makes up for seconds, not for hours.
        now += Duration::from_secs(36_000);
        assert_eq!(feeder.wanted(stock(0), now, NOON), 3500);
    }

    #[test]
    fn adaptive_follows_the_use_up_and_down() {
        let mode = Mode::Adaptive { horizon: Duration::from_secs(60), least: 2000 };
        let (mut feeder, mut now) = (Feeder::new(mode), Instant::now());
        assert_eq!(feeder.wanted(stock(500), now, NOON), 1500);
        let mut consumed = 0;
        let mut look = |rate: u64, seconds: u64| {
            let mut wanted = 0;
            for _ in 0..seconds {
                now += Duration::from_secs(1);
                consumed += rate;
                wanted = feeder.wanted(Stock { stored: 0, consumed }, now, NOON);
            }
            wanted
        };
        let busy = look(1000, 300);
        assert!((59_000..=60_000).contains(&busy), "{busy}");
        assert_eq!(look(0, 600), 2000);
    }

    #[test]
    fn a_schedule_holds_over_midnight() {
        let windows =
            vec![Window::parse("22:00-06:30").unwrap(), Window::parse("12:00-12:01").unwrap()];
        let (mut feeder, now) =
            (Feeder::new(Mode::Schedule { windows, high: 8000 }), Instant::now());
        let minute = 60_000;
        for (time, open) in
            [(22 * 60, true), (0, true), (389, true), (390, false), (720, true), (721, false)]
        {
            let wanted = feeder.wanted(stock(0), now, time * minute);
            assert_eq!(wanted, if open { 8000 } else { 0 }, "minute {time}");
        }
        for bad in ["", "22:00", "24:00-01:00", "1:60-2:00", "a:b-c:d"] {
            assert_eq!(Window::parse(bad), None, "{bad}");
        }
    }
}
