//! The load generator. Enter through [`closed_loop`] (as fast as answers come) and [`paced`]
//! (at a given rate, latency counted from when a request was due).

mod connection;
pub mod cpu;
pub mod direct;
pub mod echo;
pub mod report;
pub mod scripts;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub use connection::{Answer, Connection, Framing, Target};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

/// What one connection does over and over.
pub trait Script: Send + 'static {
    /// Does one operation; the number of units it moved (keys, requests).
    fn step(&mut self) -> impl Future<Output = Result<u64, String>> + Send;
}

/// What a run measured. Latencies in microseconds.
pub struct Figures {
    pub units: u64,
    pub operations: u64,
    pub elapsed: Duration,
    pub latency: Histogram<u64>,
    pub failures: u64,
    pub first_failure: Option<String>,
}

impl Default for Figures {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("fixed bounds");
        let (units, operations, failures) = (0, 0, 0);
        Self { units, operations, elapsed: Duration::ZERO, latency, failures, first_failure: None }
    }
}

impl Figures {
    /// Adds what another run measured, after this one.
    pub fn add(&mut self, other: Figures) {
        self.elapsed += other.elapsed;
        self.merge(other);
    }

    fn merge(&mut self, other: Figures) {
        self.units += other.units;
        self.operations += other.operations;
        self.failures += other.failures;
        self.latency.add(other.latency).expect("equal bounds");
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }

    fn note(&mut self, result: Result<u64, String>, since: Instant) {
        match result {
            Ok(units) => {
                self.units += units;
                self.operations += 1;
                self.latency.saturating_record(since.elapsed().as_micros() as u64);
            }
            Err(error) => {
                self.failures += 1;
                self.first_failure.get_or_insert(error);
            }
        }
    }

    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    pub fn units_per_second(&self) -> f64 {
        self.units as f64 / self.elapsed.as_secs_f64()
    }

    pub fn p50(&self) -> u64 {
        self.latency.value_at_quantile(0.5)
    }

    pub fn p99(&self) -> u64 {
        self.latency.value_at_quantile(0.99)
    }
}

/// After this many failures in a row a connection gives up, so that a broken server does not
/// become a busy loop.
const GIVE_UP: u64 = 20;
/// How late the generator's timer may be.
const TIMER: Duration = Duration::from_millis(2);

/// Runs every script as fast as it gets answers, for `time` after a warm-up of a fifth of it.
pub async fn closed_loop<S: Script>(scripts: Vec<S>, time: Duration) -> Figures {
    let start = Instant::now() + time / 5;
    let until = start + time;
    let step = move |mut script: S| async move {
        let mut figures = Figures::default();
        while Instant::now() < until && figures.failures < GIVE_UP {
            let since = Instant::now();
            let result = script.step().await;
            if since >= start {
                figures.note(result, since);
            } else if let Err(error) = result {
                figures.failures += 1;
                figures.first_failure.get_or_insert(error);
            }
        }
        figures
    };
    gather(scripts, time, step).await
}

/// Runs the scripts at `rate` operations a second in all. A request is due at its time whether
/// or not earlier ones are answered; its latency counts from then.
pub async fn paced<S: Script>(scripts: Vec<S>, rate: f64, time: Duration) -> Figures {
    let gap = Duration::from_secs_f64(scripts.len() as f64 / rate.max(1.0));
    let start = Instant::now();
    let lanes = scripts.len() as u32;
    let next_lane = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let step = move |mut script: S| {
        let lane = next_lane.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            let mut figures = Figures::default();
            let mut due = start + gap * lane / lanes.max(1);
            while due < start + time && figures.failures < GIVE_UP {
                tokio::time::sleep_until(due.into()).await;
                // The generator's own timer is a millisecond coarse. Being late by less than two
                // is its doing; more means earlier answers kept this lane busy, which counts.
                let late = due.elapsed();
                let since = if late < TIMER { Instant::now() } else { due };
                figures.note(script.step().await, since);
                due += gap;
            }
            figures
        }
    };
    gather(scripts, time, step).await
}

async fn gather<S, F>(scripts: Vec<S>, time: Duration, run: impl Fn(S) -> F) -> Figures
where
    F: Future<Output = Figures> + Send + 'static,
{
    let mut running: JoinSet<Figures> = JoinSet::new();
    for script in scripts {
        running.spawn(run(script));
    }
    let mut all = Figures::default();
    while let Some(figures) = running.join_next().await {
        all.merge(figures.expect("a script does not panic"));
    }
    all.elapsed = time;
    all
}
