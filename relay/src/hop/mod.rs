//! Relay of keys between clusters that share no QKD link (clauses 6.1.1b, 6.2c, 9.3b).
//!
//! - `message`: what one hop says, and its bounds.
//! - `cipher`: one-time pad with one-time tags, or AES-256-GCM; without I/O.
//! - `link_key`: keys of a connection itself, where there is no QKD.
//! - `pads_out`, `pads_in`: the bytes both ciphers spend, at each end of a link; without I/O.
//! - `seal`, `receive`: what each end of a hop makes of a batch; without I/O. `path`: the way it came.
//! - `transfers`: what passes through this KM, and what arrived for it; without I/O.
//! - `neighbour`: one link seen by the relay. `engine`: carries out what `transfers` decides.
//! - `supply`: a node between supplies the exclusive or of keys it shares with two clusters.
//! - `ration`: how much a scarce link may carry. `rest`: how soon a way that loses batches is tried again.
//! - `source`: an end-to-end pool takes its keys from here as from a module. `split`: keys in shares.
//!
//! Keys travel in batches of up to [`MAX_MATERIAL`] bytes. Each middle node opens a batch, adds
//! the hop it came over to its path, and seals it for the next one; it stores nothing. The answer
//! of the destination goes back the same way. What is lost, late or refused anywhere fails the
//! whole batch: its key bits and its pad are never used again.

pub mod cipher;
pub(crate) mod engine;
pub mod link_key;
pub mod message;
pub(crate) mod neighbour;
pub mod pads_in;
pub mod pads_out;
pub mod path;
pub mod ration;
pub mod receive;
mod rest;
pub mod seal;
pub(crate) mod source;
pub mod split;
mod supply;
pub mod transfers;

pub use message::{
    HopAnswer, HopFault, HopFrame, HopHead, Lock, MAX_MATERIAL, Piece, SupplyAsk, TransferId,
    TransferName,
};
