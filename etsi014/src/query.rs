//! The same requests as the query of a GET (clauses 5.2 and 5.3).

use std::borrow::Cow;

use crate::{
    FormatError,
    message::{KeyIds, KeyRequest},
    name::KeyName,
    path::decode,
};

/// Members that can only be sent by POST; ignoring them would give keys to the wrong SAEs.
const POST_ONLY: [&str; 3] =
    ["additional_slave_SAE_IDs", "extension_mandatory", "extension_optional"];

impl KeyRequest {
    /// Reads `number` and `size` from the query of a GET; other parameters are skipped, except
    /// those that only a POST can carry, which are refused.
    pub fn from_query(query: Option<&str>) -> Result<Self, FormatError> {
        let mut request = Self::default();
        for (name, value) in pairs(query) {
            let slot = match name {
                "number" => &mut request.number,
                "size" => &mut request.size,
                name if POST_ONLY.contains(&name) => {
                    return Err(bad(format!("{name} needs POST")));
                }
                _ => continue,
            };
            let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            let number = digits.then(|| value.parse().ok()).flatten();
            let number = number.ok_or_else(|| bad(format!("{name} is not an integer")))?;
            if slot.replace(number).is_some() {
                return Err(bad(format!("{name} is given twice")));
            }
        }
        Ok(request)
    }

    /// The query that asks for the same, without `?`; `None` when it takes a POST.
    pub fn to_query(&self) -> Option<String> {
        let post = !self.additional_slave_sae_ids.is_empty()
            || !self.extension_mandatory.is_empty()
            || !self.extension_optional.is_empty();
        let number = self.number.map(|n| format!("number={n}"));
        let size = self.size.map(|n| format!("size={n}"));
        let parts: Vec<_> = [number, size].into_iter().flatten().collect();
        (!post).then(|| parts.join("&"))
    }
}

impl KeyIds {
    /// Reads the one `key_ID` of a GET.
    pub fn from_query(query: Option<&str>) -> Result<Self, FormatError> {
        let mut found = pairs(query).filter(|(name, _)| *name == "key_ID");
        let (_, text) = found.next().ok_or_else(|| bad("key_ID is missing"))?;
        if found.next().is_some() {
            return Err(bad("several key_ID need POST"));
        }
        let text = decode(text).ok_or_else(|| bad("key_ID is not URL-encoded"))?;
        let name = KeyName::parse(&text).ok_or_else(|| bad("key_ID is not a UUID"))?;
        Ok(Self { names: vec![name], ..Self::default() })
    }
}

fn bad(problem: impl Into<Cow<'static, str>>) -> FormatError {
    FormatError::plain("query", problem.into())
}

fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let parts = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, "")))
}
