//! The text encodings of messages: XML and JSON (KMIP Profiles, "XML Profiles", "JSON Profiles").
//! Frames in, text out, and back; what stands in a frame stands in the text, field for field.
//!
//! Numbers go out as numbers and come in also as hexadecimal or, for masks, as names. Enumerations go
//! out by name where they have one. Text is kept in buffers that are overwritten; what the two parsers
//! hold meanwhile is theirs.

mod guard;
mod json;
mod out;
mod words;
mod xml;

pub use json::{from_json, to_json};
pub use xml::{from_xml, to_xml};

use crate::{
    attribute::AttributeKind,
    tag::Tag,
    ttlv::{self, Item, MAX_DEPTH, Type},
};

/// Why a text is no message, or a message has no text. Never tells a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No XML or JSON.
    #[error("the message cannot be read: {0}")]
    Syntax(String),
    /// A name that is no tag.
    #[error("there is no tag {0}")]
    UnknownTag(String),
    /// A name that is no item type.
    #[error("{0} has an unknown type")]
    UnknownType(Tag),
    /// A value that its type does not have.
    #[error("the value of {0} is none of its type")]
    Value(Tag),
    /// Structures in structures in structures.
    #[error("the message nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// Characters that XML cannot say.
    #[error("{0} holds characters that XML has no form for; ask in JSON or TTLV")]
    Unsayable(Tag),
    /// The frame.
    #[error("{0}")]
    Frame(#[from] ttlv::Error),
}

type Result<T> = std::result::Result<T, Error>;

/// The tag that says what a value means: that of the attribute for an Attribute Value (1.x).
fn meaning(tag: Tag, attribute: Option<&str>) -> Tag {
    match attribute.and_then(AttributeKind::from_name) {
        Some(kind) if tag == Tag::AttributeValue => kind.tag(),
        _ => tag,
    }
}

/// The Attribute Name among the children of a structure.
fn attribute_name<'a>(item: &Item<'a>) -> Result<Option<&'a str>> {
    let name = item.child(Tag::AttributeName)?;
    Ok(name.filter(|name| name.kind() == Type::TextString).map(|name| name.text()).transpose()?)
}

/// The tag of a name, or of `0x` and its number.
fn tag_of(name: &str) -> Result<Tag> {
    let number = name.strip_prefix("0x").map(|hex| u32::from_str_radix(hex, 16));
    match number {
        Some(Ok(number)) if number <= 0xFF_FFFF => Ok(Tag::new(number)),
        Some(_) => Err(Error::UnknownTag(name.chars().take(64).collect())),
        None => {
            let unknown = || Error::UnknownTag(name.chars().take(64).collect());
            Tag::from_name(name).ok_or_else(unknown)
        }
    }
}

/// Names of item types.
const TYPES: [(&str, Type); 11] = [
    ("Structure", Type::Structure),
    ("Integer", Type::Integer),
    ("LongInteger", Type::LongInteger),
    ("BigInteger", Type::BigInteger),
    ("Enumeration", Type::Enumeration),
    ("Boolean", Type::Boolean),
    ("TextString", Type::TextString),
    ("ByteString", Type::ByteString),
    ("DateTime", Type::DateTime),
    ("Interval", Type::Interval),
    ("DateTimeExtended", Type::DateTimeExtended),
];

/// The type of a name; without one, a structure.
fn type_of(tag: Tag, name: Option<&str>) -> Result<Type> {
    let Some(name) = name else { return Ok(Type::Structure) };
    let found = TYPES.iter().find(|(known, _)| *known == name);
    found.map(|(_, kind)| *kind).ok_or(Error::UnknownType(tag))
}

fn type_name(kind: Type) -> &'static str {
    TYPES.iter().find(|(_, known)| *known == kind).map_or("Structure", |(name, _)| name)
}
