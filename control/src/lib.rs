//! The QKDN controller's domain: what the network is, in what state its parts are, which way keys
//! go. Clause 7 of the specification. No sockets and no clock: reports and the time come in, tables
//! and events come out. Enter through [`Controller`].
//!
//! - [`report`]: what a KM tells. [`component`]: the parts of the network and their four states.
//! - `health`: what is wrong with a part, by the reports. `network`: parts, states, edges.
//! - [`books`]: the accounts of all pools, and whether they fit.
//! - [`orders`]: what operators ordered while it runs.
//! - [`policy`]: what operators pin, forbid, prefer and ration. `cost`: what an edge costs.
//! - `graph`: shortest and disjoint paths. `routing`: tables, and why a route changed.

pub mod books;
pub mod component;
mod controller;
mod cost;
mod graph;
mod health;
mod network;
pub mod orders;
pub mod policy;
pub mod report;
mod routing;
pub mod settings;

pub use controller::{Controller, Directions, NotKnown, RouteView};
pub use health::Fault;
pub use network::{ComponentView, EdgeView, Feed};
pub use orders::Orders;
pub use routing::{Event, Why};
