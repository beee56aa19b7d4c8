//! TTLV, the byte encoding of KMIP: tag, type, length, value, padded to eight bytes.
//!
//! Reading enters through [`parse`]: it walks the whole frame once under [`Limits`] and only then
//! hands out an [`Item`], so an `Item` is proof of a well-formed frame and nothing downstream
//! checks bytes again. Writing enters through [`Writer`]. [`Value`] is an owned tree for the few
//! places that need one.

mod read;
mod value;
mod write;

pub use read::{Item, Items, parse};
pub use value::Value;
pub use write::{Mark, Writer};

use crate::tag::Tag;

/// Length of the header that starts every item: tag (3), type (1), length (4).
pub const HEADER: usize = 8;

/// Deepest nesting accepted, whatever the caller asks for.
pub const MAX_DEPTH: usize = 32;

/// Bounds for reading one frame.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest frame in bytes, its header included.
    pub frame: usize,
    /// Most items in one frame, structures included.
    pub items: usize,
    /// Deepest nesting of structures, at most [`MAX_DEPTH`].
    pub depth: usize,
}

impl Default for Limits {
    /// 1 MiB, 16,384 items, 32 levels.
    fn default() -> Self {
        Self { frame: 1 << 20, items: 1 << 14, depth: MAX_DEPTH }
    }
}

/// What is wrong with a frame or a field. Offsets count bytes from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not TTLV.
    #[error("TTLV byte {offset}: {what}")]
    Malformed {
        /// Where.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// A field has another type than its tag asks for.
    #[error("TTLV byte {offset}: {tag} must be of type {expected:?}")]
    WrongType {
        /// Where the field starts.
        offset: usize,
        /// The field.
        tag: Tag,
        /// The type it must have.
        expected: Type,
    },
    /// A required field is absent.
    #[error("TTLV byte {offset}: the structure that starts here lacks {tag}")]
    Missing {
        /// Where the structure starts.
        offset: usize,
        /// The field it lacks.
        tag: Tag,
    },
    /// A field that may stand once stands twice.
    #[error("TTLV byte {offset}: {tag} stands twice in its structure")]
    Repeated {
        /// Where the second one starts.
        offset: usize,
        /// The field.
        tag: Tag,
    },
    /// The frame is longer than the caller accepts.
    #[error("frame of {length} bytes exceeds the limit of {cap}; send smaller batches")]
    TooLong {
        /// Announced length, header included.
        length: u64,
        /// The caller's cap.
        cap: usize,
    },
}

/// Result of reading TTLV.
pub type Result<T> = std::result::Result<T, Error>;

/// The item types of TTLV (KMIP 2.1, 11.1.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// Nested items.
    Structure = 0x01,
    /// 32-bit signed.
    Integer = 0x02,
    /// 64-bit signed.
    LongInteger = 0x03,
    /// Two's complement, big-endian, a multiple of eight bytes.
    BigInteger = 0x04,
    /// 32-bit unsigned.
    Enumeration = 0x05,
    /// Eight bytes, zero or one.
    Boolean = 0x06,
    /// UTF-8.
    TextString = 0x07,
    /// Any bytes.
    ByteString = 0x08,
    /// Seconds since 1970, signed.
    DateTime = 0x09,
    /// Seconds, 32-bit unsigned.
    Interval = 0x0A,
    /// Microseconds since 1970, signed (KMIP 2.0).
    DateTimeExtended = 0x0B,
}

impl Type {
    fn from_wire(code: u8) -> Option<Self> {
        Some(match code {
            0x01 => Self::Structure,
            0x02 => Self::Integer,
            0x03 => Self::LongInteger,
            0x04 => Self::BigInteger,
            0x05 => Self::Enumeration,
            0x06 => Self::Boolean,
            0x07 => Self::TextString,
            0x08 => Self::ByteString,
            0x09 => Self::DateTime,
            0x0A => Self::Interval,
            0x0B => Self::DateTimeExtended,
            _ => return None,
        })
    }

    /// The only length this type may have, if it has one.
    fn fixed_length(self) -> Option<usize> {
        match self {
            Self::Integer | Self::Enumeration | Self::Interval => Some(4),
            Self::LongInteger | Self::Boolean | Self::DateTime | Self::DateTimeExtended => Some(8),
            Self::Structure | Self::BigInteger | Self::TextString | Self::ByteString => None,
        }
    }
}

/// Length in bytes of the frame that `start` begins, its header included; `None` while fewer than
/// [`HEADER`] bytes are there.
///
/// Reads the header only, so a caller can refuse before it allocates.
///
/// # Errors
/// [`Error::TooLong`] above `cap`; [`Error::Malformed`] when this is no KMIP message.
pub fn frame_len(start: &[u8], cap: usize) -> Result<Option<usize>> {
    let Some(header) = start.first_chunk::<HEADER>() else { return Ok(None) };
    if header[0] != 0x42 || header[3] != Type::Structure as u8 {
        return Err(Error::Malformed { offset: 0, what: "not the start of a KMIP message" });
    }
    let body = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let length = u64::from(body) + HEADER as u64;
    match usize::try_from(length) {
        Ok(fits) if fits <= cap => Ok(Some(fits)),
        _ => Err(Error::TooLong { length, cap }),
    }
}

/// Bytes that pad `length` to a multiple of eight.
const fn padding(length: usize) -> usize {
    length.wrapping_neg() & 7
}
