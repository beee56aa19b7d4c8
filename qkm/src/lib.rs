//! The key manager as a program: configuration, wiring, command line, admin API, demonstration.
//!
//! - [`cli`]: the command line; `main.rs` only parses it.
//! - [`config`]: one TOML file, checked once.
//! - [`controller`]: the QKDN controller.
//! - [`serve`]: a running key manager; [`serve::run`] is what tests start.
//! - `monitor`: `/metrics`, `/healthz`, `/readyz`. `admin`: the operators' API.
//! - `restore`: an older copy of the store becomes the store.
//! - [`doctor`]: checks without a server. [`demo`]: a whole small network on loopback.
//! - `worker`: the process that holds an HSM library, which a running key manager starts.
//! - [`fault`]: failures with stable codes. [`wipe_alloc`], `hardening`: keys leave no traces.

mod admin;
pub mod cli;
pub mod config;
pub mod controller;
pub mod demo;
pub mod doctor;
pub mod fault;
mod hardening;
mod logging;
mod migrate;
mod monitor;
mod restore;
pub mod serve;
mod signals;
pub mod wipe_alloc;
mod worker;
