//! An owned TTLV tree, for vendor attributes and the parts of KMIP that have no typed model.

use super::{Item, Result, Type, Writer};
use crate::tag::Tag;
use crate::version::Version;

/// One value of any type. Not for key material: it is neither hidden nor overwritten.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// Nested items in order.
    Structure(Vec<(Tag, Value)>),
    /// 32-bit signed.
    Integer(i32),
    /// 64-bit signed.
    LongInteger(i64),
    /// Two's complement, big-endian.
    BigInteger(Vec<u8>),
    /// The bare number.
    Enumeration(u32),
    /// True or false.
    Boolean(bool),
    /// Text.
    TextString(String),
    /// Bytes.
    ByteString(Vec<u8>),
    /// Seconds since 1970.
    DateTime(i64),
    /// Seconds.
    Interval(u32),
    /// Microseconds since 1970.
    DateTimeExtended(i64),
}

impl Value {
    /// Whether `version` has its type, and those of all below it.
    pub fn known(&self, version: Version) -> bool {
        match self {
            Self::Structure(items) => items.iter().all(|(_, value)| value.known(version)),
            Self::DateTimeExtended(_) => version.is_v2(),
            _ => true,
        }
    }

    /// Copies an item and all below it. Depth is bounded because `item` comes from an accepted
    /// frame.
    pub fn from_item(item: &Item<'_>) -> Result<Self> {
        Ok(match item.kind() {
            Type::Structure => Self::Structure(
                item.children()?
                    .map(|child| Ok((child.tag(), Self::from_item(&child)?)))
                    .collect::<Result<_>>()?,
            ),
            Type::Integer => Self::Integer(item.integer()?),
            Type::LongInteger => Self::LongInteger(item.long_integer()?),
            Type::BigInteger => Self::BigInteger(item.big_integer()?.to_vec()),
            Type::Enumeration => Self::Enumeration(item.enumeration()?),
            Type::Boolean => Self::Boolean(item.boolean()?),
            Type::TextString => Self::TextString(item.text()?.to_owned()),
            Type::ByteString => Self::ByteString(item.bytes()?.to_vec()),
            Type::DateTime => Self::DateTime(item.date_time()?),
            Type::Interval => Self::Interval(item.interval()?),
            Type::DateTimeExtended => Self::DateTimeExtended(item.date_time_extended()?),
        })
    }

    /// Writes the tree under `tag`.
    pub fn encode(&self, w: &mut Writer, tag: Tag) {
        match self {
            Self::Structure(items) => w.structure(tag, |w| {
                for (tag, value) in items {
                    value.encode(w, *tag);
                }
            }),
            Self::Integer(v) => w.integer(tag, *v),
            Self::LongInteger(v) => w.long_integer(tag, *v),
            Self::BigInteger(v) => w.big_integer(tag, v),
            Self::Enumeration(v) => w.enumeration(tag, *v),
            Self::Boolean(v) => w.boolean(tag, *v),
            Self::TextString(v) => w.text(tag, v),
            Self::ByteString(v) => w.bytes(tag, v),
            Self::DateTime(v) => w.date_time(tag, *v),
            Self::Interval(v) => w.interval(tag, *v),
            Self::DateTimeExtended(v) => w.date_time_extended(tag, *v),
        }
    }
}
