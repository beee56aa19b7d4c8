//! What the end-to-end, interoperability and fault suites and the benchmark share.
//!
//! - [`network`]: a whole small network of real processes, as `qkm demo` sets it up.
//! - [`chain`]: a chain of clusters of real processes, whose ends are fed by relay.
//! - [`promises`]: what must hold for applications while parts of a network die.
//! - [`cluster`]: three key managers on one store, and one beyond the link.
//! - [`history`]: whether what clients saw could have happened. [`proxy`]: connections that can be cut.
//! - [`standby`]: a second token of another product.
//! - [`oasis`]: the OASIS test cases against such a key manager.
//! - [`load`]: the load generator: many keep-alive connections over mutual TLS, and figures.
//!
//! Test support: it panics with a sentence where a test would have to.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "test support")]

pub mod chain;
pub mod clients;
pub mod cluster;
pub mod epochs;
pub mod history;
pub mod load;
pub mod network;
pub mod oasis;
#[path = "../../testkit/ports.rs"]
pub mod ports;
pub mod promises;
pub mod proxy;
pub mod standby;
