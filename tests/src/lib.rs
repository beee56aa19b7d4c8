//! What the end-to-end, interoperability and fault suites and the benchmark share.
//!
//! - [`network`]: a whole small network of real processes, as `qkm demo` sets it up.
//! - [`chain`]: a chain of clusters of real processes, whose ends are fed by relay.
//! - [`promises`]: what must hold for applications while parts of a network die.
//! - [`oasis`]: the OASIS test cases against such a key manager.
//! - [`load`]: the load generator: many keep-alive connections over mutual TLS, and figures.
//!
//! Test support: it panics with a sentence where a test would have to.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "test support")]

pub mod chain;
pub mod clients;
pub mod epochs;
pub mod load;
pub mod network;
pub mod oasis;
pub mod promises;
