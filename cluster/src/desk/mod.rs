//! What the KMs of a cluster ask the one that leads: HTTP over mutual TLS, bodies in postcard.
//!
//! - `client`: [`Client`], the other KMs' end; `server`: [`Desk`], the end of the one that leads.
//! - `wire`: the messages. Answers with key bytes are in buffers that are overwritten.

mod client;
mod server;
mod wire;

pub use client::Client;
pub use server::{Bring, Desk};
