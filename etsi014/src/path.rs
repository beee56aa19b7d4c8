//! The URLs `/api/v1/keys/{SAE_ID}/{status|enc_keys|dec_keys}`.

use std::{borrow::Cow, fmt::Write};

use crate::name::sae_id;

const PREFIX: &str = "/api/v1/keys/";

/// Which of the three methods of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Get status.
    Status,
    /// Get key (master).
    EncKeys,
    /// Get key with key IDs (slave).
    DecKeys,
}

impl Method {
    /// The last segment of the URL.
    pub fn segment(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::EncKeys => "enc_keys",
            Self::DecKeys => "dec_keys",
        }
    }
}

/// Splits a path (without query) into the SAE ID, URL-decoded, and the method.
pub fn parse(path: &str) -> Option<(String, Method)> {
    let (sae, method) = path.strip_prefix(PREFIX)?.split_once('/')?;
    let method = [Method::Status, Method::EncKeys, Method::DecKeys]
        .into_iter()
        .find(|known| known.segment() == method)?;
    Some((sae_id(decode(sae)?)?, method))
}

/// The path for a SAE ID, URL-encoded.
pub fn build(sae: &str, method: Method) -> String {
    format!("{PREFIX}{}/{}", encode(sae), method.segment())
}

/// Percent-encodes everything but unreserved characters (RFC 3986).
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Undoes percent-encoding; `None` when malformed or not UTF-8. `+` stays a plus.
pub fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'%' {
            out.push(byte);
            rest = tail;
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        out.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}
