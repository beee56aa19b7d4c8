//! KM links: what the KMs of two clusters say to each other (KMA and KSA links, clause 6).
//!
//! - [`frame`]: the messages and their bytes.
//! - [`agreement`]: whether both ends hold the same bits; sans-IO.
//! - [`session`]: one connection's protocol; sans-IO: frames and events in, actions out.
//! - `blocks`: how far each block being agreed on is; the part of the session that is agreement.
//! - [`combine`]: bits of a block with the secret of an ML-KEM exchange; [`kems`]: those exchanges.
//! - [`feed`]: how much is relayed, and when.
//! - [`hop`]: relay of keys over several links.
//! - [`copies`]: single objects that go to the peer by name.
//! - `channels`: the classical channels of one link.
//! - `driver`: the socket around a session; `work`: what it leaves to tasks beside it.
//! - `peer`: one link; `dialling`: the end that dials it.
//! - [`Links`]: all links, one task for each peer. Enter here.

pub mod agreement;
mod blocks;
mod channels;
pub mod combine;
pub mod copies;
mod dialling;
mod driver;
pub mod feed;
pub mod frame;
mod handle;
pub mod hop;
mod intake;
mod kem;
pub mod kems;
mod links;
mod peer;
pub mod session;
mod work;

pub use hop::{
    engine::{RelayView, Scheme},
    source::RelayConfig,
};
pub use links::{ChannelView, LinkView, Links, PeerConfig};
