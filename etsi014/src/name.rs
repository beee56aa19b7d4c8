//! Key identifiers as they stand in messages.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use uuid::Uuid;

/// Longest key identifier accepted, in bytes.
pub const MAX_KEY_NAME: usize = 64;
/// Longest SAE identifier accepted, in bytes.
pub const MAX_SAE_ID: usize = 256;

/// A `key_ID`. The standard wants a UUID; other servers' text of up to 64 printable ASCII
/// characters is kept exactly as it came, so that it can be sent back.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName(Inner);

/// Invariant: a UUID in canonical lower-case text is always `Canonical`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Inner {
    Canonical(Uuid),
    Other(Box<str>),
}

impl KeyName {
    /// `None` unless 1 to 64 printable ASCII characters without `"` and `\`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut buffer = Uuid::encode_buffer();
        if let Ok(uuid) = Uuid::try_parse(text)
            && uuid.hyphenated().encode_lower(&mut buffer) == text
        {
            return Some(Self(Inner::Canonical(uuid)));
        }
        let plain = |b: &u8| b.is_ascii_graphic() && !b"\"\\".contains(b);
        let fits = (1..=MAX_KEY_NAME).contains(&text.len()) && text.as_bytes().iter().all(plain);
        fits.then(|| Self(Inner::Other(text.into())))
    }

    /// The UUID it is; whatever its spelling (upper case, no hyphens).
    pub fn uuid(&self) -> Option<Uuid> {
        match &self.0 {
            Inner::Canonical(uuid) => Some(*uuid),
            Inner::Other(text) => Uuid::try_parse(text).ok(),
        }
    }

    /// Calls `read` with the text, without allocating.
    pub fn with_str<R>(&self, read: impl FnOnce(&str) -> R) -> R {
        match &self.0 {
            Inner::Canonical(uuid) => {
                read(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
            Inner::Other(text) => read(text),
        }
    }
}

impl From<Uuid> for KeyName {
    fn from(uuid: Uuid) -> Self {
        Self(Inner::Canonical(uuid))
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_str(|text| f.write_str(text))
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for KeyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_str(|text| serializer.serialize_str(text))
    }
}

impl<'de> Deserialize<'de> for KeyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = KeyName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key_ID: UUID, or up to 64 printable ASCII characters")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<KeyName, E> {
                KeyName::parse(text).ok_or_else(|| {
                    E::custom("key_ID is neither a UUID nor up to 64 printable ASCII characters")
                })
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A SAE identifier as text: 1 to 256 bytes, no control characters.
pub(crate) fn sae_id(text: Cow<'_, str>) -> Option<String> {
    let fits = (1..=MAX_SAE_ID).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then(|| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        let uuid = "0190163d-8694-739b-aea5-966c26f8ad91";
        for text in [uuid, &uuid.to_uppercase(), &uuid.replace('-', ""), "vendor:7/a", "x"] {
            assert_eq!(KeyName::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(KeyName::parse(uuid).unwrap(), KeyName::from(Uuid::try_parse(uuid).unwrap()));
        assert!(KeyName::parse(&uuid.to_uppercase()).unwrap().uuid().is_some());
        assert!(KeyName::parse("vendor:7/a").unwrap().uuid().is_none());
    }

    #[test]
    fn bad_names_are_refused() {
        for text in ["", " ", "a b", "a\"b", "a\\b", "é", "a\n", &"x".repeat(65)] {
            assert!(KeyName::parse(text).is_none(), "{text:?}");
        }
    }
}
