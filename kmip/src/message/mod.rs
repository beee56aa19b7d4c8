//! Messages: headers, batches, authentication. Enter through [`RequestMessage::decode`] and
//! [`ResponseWriter`] on the server, [`RequestMessage::encode`] and [`ResponseMessage::decode`] on
//! the client.
//!
//! A frame that is not TTLV, or whose header cannot be read, fails as a whole; the error still
//! says in which version to answer. A payload that cannot be read fails its own item only.

mod credential;
mod request;
mod response;

pub use credential::{Credential, DeviceCredential, UsernameAndPassword};
pub use request::{Asynchronous, Authentication, RequestHeader, RequestItem, RequestMessage};
pub use response::{
    Checkpoint, Failure, Outcome, ResponseHeader, ResponseItem, ResponseMessage, ResponseWriter,
    error_response,
};

use crate::enums::{OperationCode, ResultReason};
use crate::tag::Tag;
use crate::ttlv::{self, Item, Limits, Value};
use crate::version::{ProtocolVersion, Version};
use crate::wire::{Field, wire_struct};

/// A message that could not be read as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes or the header are wrong.
    #[error("message refused: {error}")]
    Frame {
        /// Version the header names, as far as it could be read.
        version: Option<Version>,
        /// What is wrong.
        error: ttlv::Error,
    },
    /// A version this room does not speak.
    #[error("KMIP {0} is not spoken here; ask Discover Versions with 1.1 to 2.1")]
    Version(ProtocolVersion),
}

impl DecodeError {
    /// In which version to answer: the peer's when it is known, else the nearest.
    pub fn answer_version(&self) -> Version {
        match self {
            Self::Frame { version, .. } => version.unwrap_or(Version::V1_0),
            Self::Version(asked) if asked.major >= 2 => Version::V2_1,
            Self::Version(asked) if asked.major == 1 => Version::V1_4,
            Self::Version(_) => Version::V1_0,
        }
    }

    /// The Result Reason to answer with.
    pub fn reason(&self) -> ResultReason {
        ResultReason::InvalidMessage
    }
}

impl ttlv::Error {
    /// The Result Reason for a payload that failed to decode.
    pub fn reason(&self) -> ResultReason {
        match self {
            Self::Missing { .. } => ResultReason::MissingData,
            Self::WrongType { .. } | Self::Repeated { .. } => ResultReason::InvalidField,
            Self::Malformed { .. } | Self::TooLong { .. } => ResultReason::InvalidMessage,
        }
    }
}

/// A message that could not be written for a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The version lacks the operation or something it cannot do without.
    #[error("{operation:?} as asked for does not exist in KMIP {version}; use a newer version")]
    NotInVersion {
        /// The operation.
        operation: OperationCode,
        /// The version.
        version: Version,
    },
}

wire_struct! {
    /// An addition to a batch item that the standard does not define.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct MessageExtension {
        /// Whose.
        vendor: one String = VendorIdentification @ V1_0,
        /// The item must fail when the receiver does not understand it.
        critical: one bool = CriticalityIndicator @ V1_0,
        /// Content.
        content: one Value = VendorExtension @ V1_0,
    }
}

wire_struct! {
    /// Challenge of an attestation.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Nonce {
        /// Which challenge.
        id: one Vec<u8> = NonceID @ V1_2,
        /// The challenge.
        value: one Vec<u8> = NonceValue @ V1_2,
    }
}

/// A frame accepted so far: its version, header item and batch items.
struct Opened<'a> {
    version: Version,
    header: Item<'a>,
    items: Vec<Item<'a>>,
}

/// Checks `frame` and finds what both kinds of message have in common.
fn open<'a>(
    frame: &'a [u8],
    limits: &Limits,
    message: Tag,
    header: Tag,
) -> Result<Opened<'a>, DecodeError> {
    let refuse = |error| DecodeError::Frame { version: peek_version(frame), error };
    let root = ttlv::parse(frame, limits).map_err(refuse)?;
    if root.tag() != message {
        return Err(refuse(ttlv::Error::Malformed { offset: 0, what: "not the message expected" }));
    }
    let header = root.required(header).map_err(refuse)?;
    let number = header
        .required(Tag::ProtocolVersion)
        .and_then(|item| ProtocolVersion::read(&item))
        .map_err(refuse)?;
    let version = number.known().ok_or(DecodeError::Version(number))?;
    let items: Vec<_> =
        root.children().map_err(refuse)?.filter(|item| item.tag() == Tag::BatchItem).collect();
    let count = header.required(Tag::BatchCount).and_then(|item| item.integer()).map_err(refuse)?;
    if usize::try_from(count) != Ok(items.len()) {
        return Err(refuse(ttlv::Error::Malformed {
            offset: header.offset(),
            what: "Batch Count differs from the number of items",
        }));
    }
    Ok(Opened { version, header, items })
}

/// Best effort to learn the version of a frame that did not pass: message, header and protocol
/// version are its first three structures, so the two numbers stand at fixed places.
fn peek_version(frame: &[u8]) -> Option<Version> {
    let number = |at: usize, tag: Tag| -> Option<i32> {
        let item = frame.get(at..at + 12)?;
        let [_, a, b, c] = tag.number().to_be_bytes();
        let value = item.strip_prefix(&[a, b, c, 2, 0, 0, 0, 4])?;
        Some(i32::from_be_bytes(*value.first_chunk()?))
    };
    let major = number(24, Tag::ProtocolVersionMajor)?;
    let minor = number(40, Tag::ProtocolVersionMinor)?;
    ProtocolVersion { major, minor }.known()
}
