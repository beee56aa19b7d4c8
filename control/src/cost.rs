//! What it costs to send a key over an edge: hops, stock, rate, consumption, grade. More stock or rate
//! never costs more; more consumption never costs less.

use crate::{
    network::{Edge, Feed},
    settings::Settings,
};

/// Each hop, in a network that has all it wants.
const HOP: u64 = 1000;
/// More, when nothing is in stock.
const EMPTY: u64 = 4000;
/// More, when nothing comes in.
const DRY: u64 = 1000;
/// The rate at which half of [`DRY`] is left, in bits per second.
const HALF_RATE: u64 = 10_000;
/// More, when as much is used as comes in; four times as much at most.
const BUSY: u64 = 500;
/// A pool that nothing fills: only when every filled way is out.
const DRAINING: u64 = 100_000;
/// A pool whose keys are computational: only where there is no QKD.
const WITHOUT_QKD: u64 = 10_000;
/// A pool below the threshold: only when there is no other way at all.
const LOW: u64 = 1_000_000;

/// Of one edge, at `percent` of the usual; at least 1.
pub(crate) fn of(edge: &Edge, percent: u64, settings: &Settings) -> u64 {
    let ample = u128::from(settings.ample_bits);
    let missing = ample.saturating_sub(u128::from(edge.stock_bits));
    let empty = (u128::from(EMPTY) * missing / ample.max(1)) as u64;
    let dry = (u128::from(DRY) * u128::from(HALF_RATE)
        / (u128::from(HALF_RATE) + u128::from(edge.rate_bps))) as u64;
    let load = u128::from(BUSY) * u128::from(edge.drain_bps) / (u128::from(edge.rate_bps) + 1);
    let busy = load.min(u128::from(4 * BUSY)) as u64;
    let grade = match edge.feed {
        Feed::Live => 0,
        Feed::Draining => DRAINING,
        Feed::WithoutQkd => WITHOUT_QKD,
    };
    let low = if edge.low { LOW } else { 0 };
    ((HOP + empty + dry + busy + grade + low) * percent / 100).max(1)
}
