//! Requests and error answers (clauses 6.2, 6.4 and 6.5).

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use crate::{
    FormatError,
    container::MAX_KEYS,
    name::{KeyName, sae_id},
};

/// Most entries of `additional_slave_SAE_IDs` and of each extension list.
pub const MAX_SAES: usize = 256;
/// Most entries of `details`.
pub const MAX_DETAILS: usize = 64;

/// What a master asks of enc_keys. Absent members mean the defaults: 1 key, `key_size` bits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyRequest {
    /// How many keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Bits of each key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Further slaves that get the same keys; each 1 to 256 bytes.
    #[serde(
        rename = "additional_slave_SAE_IDs",
        default,
        deserialize_with = "saes",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub additional_slave_sae_ids: Vec<String>,
    /// Options that must be granted or the request refused.
    #[serde(default, deserialize_with = "options", skip_serializing_if = "Vec::is_empty")]
    pub extension_mandatory: Vec<Map<String, Value>>,
    /// Options that may be ignored.
    #[serde(default, deserialize_with = "options", skip_serializing_if = "Vec::is_empty")]
    pub extension_optional: Vec<Map<String, Value>>,
}

impl KeyRequest {
    /// Reads a POST body; an empty one asks for the defaults.
    pub fn parse(json: &[u8]) -> Result<Self, FormatError> {
        if json.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        serde_json::from_slice(json).map_err(|e| FormatError::quoting("key request", &e))
    }

    /// The JSON text.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The keys a slave asks of dec_keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyIds {
    /// At least one after [`KeyIds::parse`]; at most [`MAX_KEYS`].
    pub names: Vec<KeyName>,
    /// Options of a vendor (`key_IDs_extension`); what is no object is skipped.
    pub extension: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct KeyIdsBody<'a> {
    #[serde(rename = "key_IDs", deserialize_with = "entries")]
    entries: Cow<'a, [KeyIdEntry]>,
    #[serde(rename = "key_IDs_extension", default, skip_serializing_if = "Option::is_none")]
    extension: Option<Value>,
}

#[derive(Clone, Serialize, Deserialize)]
struct KeyIdEntry {
    #[serde(rename = "key_ID")]
    name: KeyName,
}

impl KeyIds {
    /// Reads a POST body.
    pub fn parse(json: &[u8]) -> Result<Self, FormatError> {
        let body: KeyIdsBody<'_> =
            serde_json::from_slice(json).map_err(|e| FormatError::quoting("key IDs", &e))?;
        if body.entries.is_empty() {
            return Err(FormatError::plain("key IDs", "key_IDs is empty"));
        }
        let extension = match body.extension {
            Some(Value::Object(options)) => options,
            _ => Map::new(),
        };
        let names = body.entries.into_owned().into_iter().map(|e| e.name).collect();
        Ok(Self { names, extension })
    }

    /// The JSON text.
    pub fn to_json(&self) -> Vec<u8> {
        let entry = |name: &KeyName| KeyIdEntry { name: name.clone() };
        let extension = Some(&self.extension).filter(|options| !options.is_empty());
        let body = KeyIdsBody {
            entries: self.names.iter().map(entry).collect(),
            extension: extension.cloned().map(Value::Object),
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

/// The body of 400 and 503 (401 has none).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong; see [`crate::text`].
    #[serde(default)]
    pub message: String,
    /// More about it, name and text.
    #[serde(default, deserialize_with = "details", skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Map<String, Value>>,
}

impl ErrorBody {
    /// Only a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), details: Vec::new() }
    }

    /// Adds a detail.
    pub fn with(mut self, name: &str, text: impl Into<String>) -> Self {
        self.details.push(Map::from_iter([(name.to_owned(), Value::String(text.into()))]));
        self
    }

    /// Reads another server's error; the caller bounds its length.
    pub fn parse(json: &[u8]) -> Result<Self, FormatError> {
        serde_json::from_slice(json).map_err(|e| FormatError::quoting("error body", &e))
    }

    /// The JSON text.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn saes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    bounded::<_, Cow<'_, str>>(deserializer, MAX_SAES)?
        .into_iter()
        .map(|text| sae_id(text).ok_or_else(|| D::Error::custom("a SAE ID has 1 to 256 bytes")))
        .collect()
}

fn options<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Map<String, Value>>, D::Error> {
    bounded(d, MAX_SAES)
}

fn details<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Map<String, Value>>, D::Error> {
    bounded(d, MAX_DETAILS)
}

fn entries<'de, D: Deserializer<'de>>(d: D) -> Result<Cow<'static, [KeyIdEntry]>, D::Error> {
    bounded(d, MAX_KEYS).map(Cow::Owned)
}

/// A list of at most `max` entries; `null` is an empty one, as several clients write it.
fn bounded<'de, D, T>(deserializer: D, max: usize) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct List<T>(usize, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {} entries", self.0)
        }
        fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(entry) = list.next_element()? {
                if all.len() == self.0 {
                    return Err(A::Error::custom(format!("more than {} entries", self.0)));
                }
                all.push(entry);
            }
            Ok(all)
        }
    }
    deserializer.deserialize_any(List(max, PhantomData))
}
