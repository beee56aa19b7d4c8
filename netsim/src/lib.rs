//! Whole networks in simulated time, without sockets: the relay's own hops, pads and transfers, the
//! controller's own routes, random faults. Enter through [`run`].
//!
//! Real: `control` (reports, states, routes), `relay::hop` (ciphers, pads, transfers), the bytes of
//! every pad and key. Modelled: a pool is a count of bytes per end that a QKD link adds to at its
//! rate; that a span is durable at both ends takes no time; a KM link is a queue that keeps its
//! order while it is up and loses what is in it when it breaks. There is no HSM and no store.
//!
//! - [`plan`]: which network, which faults. `topology`: rings, meshes, backbones, random graphs.
//!   [`Network`]: clusters and links, also of a file.
//! - `wire`: one direction of a link: pads at both ends, and its account.
//! - `node`: one KM. `world`: all of them and the time. `faults`: what breaks.
//! - [`check`]: what must hold, looked at from outside. [`Summary`]: what came out.

pub mod check;
mod faults;
mod network;
mod node;
pub mod plan;
mod requests;
mod rng;
mod summary;
mod topology;
mod wire;
mod world;

pub use network::Network;
pub use plan::{Plan, Shape};
pub use summary::Summary;

/// Runs a network for as long as its plan says; the same plan gives the same summary.
///
/// # Errors
/// The first thing that must never happen and did, in words.
pub fn run(plan: &Plan) -> Result<Summary, String> {
    plan.check()?;
    let mut world = world::World::new(plan);
    for _ in 0..plan.steps() {
        world.step()?;
    }
    world.end()
}
