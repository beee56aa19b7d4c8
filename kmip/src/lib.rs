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
//! | [`encoding`] | frames to XML and JSON, and back |
//! | [`fuzzing`] | any bytes in, invariants checked |
//!
//! A server's step from frame to frame, to be put between a socket and a store:
//! ```
//! use kmip::enums::ResultReason;
//! use kmip::message::{ResponseHeader, ResponseItem, error_response};
//! use kmip::{Answer, DateTime, Operation, RequestMessage, ResponseWriter, Version, op};
//!
//! fn serve(frame: &[u8], now: DateTime) -> wiped::Wiped {
//!     let request = match RequestMessage::decode(frame) {
//!         Ok(request) => request,
//!         Err(e) => return error_response(e.answer_version(), now, e.reason(), e.to_string()),
//!     };
//!     let mut response =
//!         ResponseWriter::new(request.version, ResponseHeader::new(request.version, now));
//!     for item in request.items {
//!         response.item(&match item.operation {
//!             Ok(Operation::DiscoverVersions(_)) => {
//!                 let versions = Version::ALL.map(Version::number).to_vec();
//!                 let answer = op::discover_versions::Response { versions };
//!                 ResponseItem::success(item.id, Answer::from(answer))
//!             }
//!             Ok(other) => ResponseItem::failed(
//!                 Some(other.code()),
//!                 item.id,
//!                 ResultReason::OperationNotSupported,
//!                 "this server only tells its versions",
//!             ),
//!             Err(e) => ResponseItem::failed(Some(item.code), item.id, e.reason(), e.to_string()),
//!         });
//!     }
//!     response.finish()
//! }
//!
//! use kmip::client::{Client, discover_versions, get};
//! let client = Client::new(Version::V1_4);
//! let ask = |frame: &[u8]| client.answer(&serve(frame, DateTime(0)));
//! let answer = ask(&client.request(discover_versions()).unwrap()).unwrap();
//! assert!(matches!(answer, Answer::DiscoverVersions(found) if found.versions.len() == 7));
//! assert!(ask(&client.request(get("a-key")).unwrap()).is_err());
//! assert!(ask(b"not KMIP at all").is_err());
//! ```
//!
//! Decoding takes what clients of the field send; encoding never writes what the peer's version
//! does not know.

pub mod attribute;
pub mod client;
pub mod encoding;
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
pub use wire::{BigInteger, DateTime, DateTimeExtended, Field, Interval, SecretBytes, SecretText};
