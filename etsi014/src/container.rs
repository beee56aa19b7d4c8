//! Keys on their way (clause 6.3). Read with [`KeyContainer::parse`], write with
//! [`ContainerWriter`].
//!
//! Invariants: all key bytes of a container lie in one buffer that is sized before the first is
//! written and overwritten on drop; no error quotes the text.

use std::{fmt, ops::Range};

use base64ct::{Base64, Encoding};
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use wiped::Wiped;

use crate::{
    FormatError,
    escape::plain,
    name::{KeyName, MAX_KEY_NAME},
};

/// Most keys in one container.
pub const MAX_KEYS: usize = 65_536;

const HEAD: &[u8] = br#"{"keys":["#;
const BEFORE_NAME: &[u8] = br#"{"key_ID":""#;
const BEFORE_KEY: &[u8] = br#"","key":""#;
const AFTER_KEY: &[u8] = br#"""#;
const BEFORE_EXTENSION: &[u8] = br#","key_extension":"#;
const AFTER: &[u8] = b"}";
const TAIL: &[u8] = b"]}";

/// Keys with their identifiers, in order. No `Clone`; `Debug` says only how many.
pub struct KeyContainer {
    names: Vec<(KeyName, Range<usize>)>,
    bytes: Wiped,
    /// Keys left out for their `key_ID`; `None` where such a key refuses the whole container.
    skipped: Option<usize>,
}

impl KeyContainer {
    /// Reads an answer; the caller bounds its length. `Keys` is accepted for `keys`, as one of the
    /// standard's tables prints it.
    pub fn parse(json: &[u8]) -> Result<Self, FormatError> {
        Self::read(json, None)
    }

    /// Like [`KeyContainer::parse`], but leaves out keys whose `key_ID` is text that no
    /// [`KeyName`] can hold; also gives their number.
    pub fn parse_usable(json: &[u8]) -> Result<(Self, usize), FormatError> {
        let container = Self::read(json, Some(0))?;
        let skipped = container.skipped.unwrap_or(0);
        Ok((container, skipped))
    }

    fn read(json: &[u8], skipped: Option<usize>) -> Result<Self, FormatError> {
        let plain = plain(json);
        let json = plain.as_ref();
        // Base64 is longer than what it stands for, so this is never outgrown.
        let bytes = Wiped::with_capacity(json.len() / 4 * 3);
        let mut container = Self { names: Vec::new(), bytes, skipped };
        let mut reader = serde_json::Deserializer::from_slice(json);
        Document(&mut container)
            .deserialize(&mut reader)
            .and_then(|()| reader.end())
            .map_err(|e| FormatError::silent("key container", &e))?;
        Ok(container)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Each key with its identifier, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&KeyName, &[u8])> {
        self.names.iter().map(|(name, range)| (name, &self.bytes[range.clone()]))
    }

    /// The JSON text.
    pub fn to_json(&self) -> Wiped {
        let longest = self.names.iter().map(|(_, range)| range.len()).max().unwrap_or(0);
        let mut writer = ContainerWriter::new(self.len(), longest);
        for (name, key) in self.iter() {
            // The writer was sized for exactly these.
            let _ = writer.push(name, key);
        }
        writer.finish()
    }
}

impl fmt::Debug for KeyContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyContainer({} keys)", self.names.len())
    }
}

/// The key does not fit the sizes the writer was made for; nothing was written.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("the key container is full")]
pub struct Full;

/// Writes the JSON of a container straight into the buffer that is sent.
pub struct ContainerWriter {
    out: Wiped,
    left: usize,
    key_bytes: usize,
    extension_bytes: usize,
}

impl ContainerWriter {
    /// Room for `keys` keys of at most `key_bytes` bytes each.
    pub fn new(keys: usize, key_bytes: usize) -> Self {
        Self::with_extensions(keys, key_bytes, 0)
    }

    /// The same, each key with at most so many bytes of `key_extension`.
    pub fn with_extensions(keys: usize, key_bytes: usize, extension_bytes: usize) -> Self {
        let marks = BEFORE_NAME.len() + BEFORE_KEY.len() + AFTER_KEY.len() + AFTER.len() + 1;
        let extension = BEFORE_EXTENSION.len() + extension_bytes;
        let each = marks + MAX_KEY_NAME + base64_len(key_bytes) + extension;
        let room = HEAD.len() + keys * each + TAIL.len();
        let mut out = Wiped::with_capacity(room);
        out.append(HEAD);
        Self { out, left: keys, key_bytes, extension_bytes }
    }

    /// Appends a key.
    pub fn push(&mut self, name: &KeyName, key: &[u8]) -> Result<(), Full> {
        self.push_with(name, key, "")
    }

    /// Appends a key, and the JSON text of its `key_extension` if that is not empty.
    pub fn push_with(&mut self, name: &KeyName, key: &[u8], extension: &str) -> Result<(), Full> {
        let fits = key.len() <= self.key_bytes && extension.len() <= self.extension_bytes;
        if self.left == 0 || !fits {
            return Err(Full);
        }
        self.left -= 1;
        if self.out.len() > HEAD.len() {
            self.out.push(b',');
        }
        self.out.append(BEFORE_NAME);
        name.with_str(|text| self.out.append(text.as_bytes()));
        self.out.append(BEFORE_KEY);
        let start = self.out.len();
        self.out.grow_to(start + base64_len(key.len()));
        // The room is exact, the one way this can fail.
        Base64::encode(key, &mut self.out[start..]).map_err(|_| Full)?;
        self.out.append(AFTER_KEY);
        if !extension.is_empty() {
            self.out.append(BEFORE_EXTENSION);
            self.out.append(extension.as_bytes());
        }
        self.out.append(AFTER);
        Ok(())
    }

    /// The finished text.
    pub fn finish(mut self) -> Wiped {
        self.out.append(TAIL);
        self.out
    }
}

fn base64_len(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// `{"keys": [...], ...}`
struct Document<'c>(&'c mut KeyContainer);

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key container")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(member) = map.next_key::<&str>()? {
            if !matches!(member, "keys" | "Keys") {
                map.next_value::<IgnoredAny>()?;
            } else if std::mem::replace(&mut seen, true) {
                return Err(A::Error::duplicate_field("keys"));
            } else {
                map.next_value_seed(List(self.0))?;
            }
        }
        if seen { Ok(()) } else { Err(A::Error::missing_field("keys")) }
    }
}

/// `[{...}, ...]`
struct List<'c>(&'c mut KeyContainer);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX_KEYS} keys")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Entry(self.0))?.is_some() {
            if self.0.names.len() > MAX_KEYS {
                return Err(A::Error::custom("too many keys"));
            }
        }
        Ok(())
    }
}

/// `{"key_ID": "...", "key": "..."}`
struct Entry<'c>(&'c mut KeyContainer);

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key with its key_ID")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut name, mut range) = (None, None);
        while let Some(member) = map.next_key::<&str>()? {
            let again = match member {
                "key_ID" => name.replace(map.next_value::<MaybeName>()?.0).is_some(),
                "key" => {
                    range.replace(map.next_value_seed(Key(self.0.bytes.as_vec_mut()))?).is_some()
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if again {
                return Err(A::Error::custom("a member is given twice"));
            }
        }
        let name = name.ok_or_else(|| A::Error::missing_field("key_ID"))?;
        let range = range.ok_or_else(|| A::Error::missing_field("key"))?;
        match (name, &mut self.0.skipped) {
            (Some(name), _) => self.0.names.push((name, range)),
            (None, Some(skipped)) => *skipped += 1,
            (None, None) => return Err(A::Error::custom("a key_ID is not usable")),
        }
        Ok(())
    }
}

/// The name that a `key_ID` text is, if any.
struct MaybeName(Option<KeyName>);

impl<'de> Deserialize<'de> for MaybeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = MaybeName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key_ID")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<MaybeName, E> {
                Ok(MaybeName(KeyName::parse(text)))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Base64, decoded to the end of the buffer.
struct Key<'b>(&'b mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Range<usize>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = Range<usize>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("base64 without escapes")
    }
    /// Only text borrowed from the input: other text went through a buffer that nobody overwrites.
    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        let start = self.0.len();
        let padding = text.bytes().rev().take(2).filter(|b| *b == b'=').count();
        let length = (text.len() / 4 * 3).saturating_sub(padding);
        if length == 0 || start + length > self.0.capacity() {
            return Err(E::custom("not base64"));
        }
        self.0.resize(start + length, 0);
        let decoded = Base64::decode(text, &mut self.0[start..]).map(<[u8]>::len);
        if decoded != Ok(length) {
            return Err(E::custom("not base64"));
        }
        Ok(start..start + length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_with_keys_never_move() {
        let name = KeyName::parse(&"x".repeat(MAX_KEY_NAME)).unwrap();
        let mut writer = ContainerWriter::new(3, 50);
        let room = writer.out.capacity();
        for size in [50, 49, 48] {
            writer.push(&name, &vec![7; size]).unwrap();
        }
        assert_eq!(writer.push(&name, &[7]), Err(Full));
        assert_eq!(writer.out.capacity(), room);
        let json = writer.finish();
        assert_eq!(json.capacity(), room);
        let container = KeyContainer::parse(&json).unwrap();
        assert_eq!(container.bytes.capacity(), json.len() / 4 * 3);
    }
}
