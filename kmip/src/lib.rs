//! KMIP 1.0 to 2.1 without a server and without I/O: bytes in, bytes out.
//!
//! A server reads a frame ([`ttlv::frame_len`]), decodes it ([`RequestMessage::decode`]), matches
//! each item's [`Operation`] and answers through [`ResponseWriter`]. A client does the reverse
//! through [`client`].
//!
//! | Module | What lives there |
//! |---|---|
//! | [`ttlv`] | the byte encoding: checked walk, writer, limits |
//! | [`tag`], [`enums`] | names and numbers, one table each |
//! | [`attribute`] | one typed attribute with its two encodings (1.x named, 2.x tagged) |
//! | [`object`] | managed objects, key blocks, wrapping |
//! | [`op`] | one file per operation: request and response payload |
//! | [`message`] | headers, batches, authentication |
//! | [`client`] | requests out, responses in |
//! | [`fuzzing`] | any bytes in, invariants checked |
//!
//! Decoding takes what clients of the field send; encoding never writes what the peer's version
//! does not know.

pub mod attribute;
pub mod client;
pub mod enums;
pub mod fuzzing;
pub mod message;
pub mod object;
pub mod op;
pub mod tag;
pub mod ttlv;
mod version;
mod wire;

pub use message::{DecodeError, RequestMessage, ResponseMessage, ResponseWriter};
pub use op::{Answer, Operation};
pub use version::{ProtocolVersion, Version};
pub use wire::{BigInteger, DateTime, Field, Interval, SecretBytes, SecretText};
