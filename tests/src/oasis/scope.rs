//! What is known while a case runs.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use kmip::{tag::Tag, ttlv::Value};

use super::xml::Variable;

/// Variables that got a value, and values that differ from the printed ones.
#[derive(Clone, Default)]
pub(super) struct Scope {
    bound: HashMap<String, Value>,
    /// Printed bytes, and what this run has in their place.
    instead: HashMap<Vec<u8>, Vec<u8>>,
    /// The last value of every field, by its name as variables are written: some cases print a
    /// value in an answer and call it by name afterwards.
    last: HashMap<String, Value>,
}

impl Scope {
    /// The value of a variable in a request.
    pub(super) fn value(&self, variable: &Variable) -> Result<Value, String> {
        if let Some(offset) = variable.seconds_from_now() {
            return Ok(Value::DateTime(now() + offset));
        }
        let name = &variable.name;
        let counted = || self.last.get(name.strip_suffix("_0")?);
        let found = self.bound.get(name).or_else(|| self.last.get(name)).or_else(counted);
        found.cloned().ok_or_else(|| format!("${name} is used before an answer gave it"))
    }

    pub(super) fn bound(&self, variable: &Variable) -> Option<&Value> {
        self.bound.get(&variable.name)
    }

    pub(super) fn bind(&mut self, variable: &Variable, value: &Value) {
        self.bound.insert(variable.name.clone(), value.clone());
    }

    /// What stands for `printed` in this run.
    pub(super) fn instead_of<'a>(&'a self, printed: &'a [u8]) -> &'a [u8] {
        self.instead.get(printed).map_or(printed, Vec::as_slice)
    }

    pub(super) fn differs(&mut self, printed: &[u8], found: &[u8]) {
        self.instead.insert(printed.to_owned(), found.to_owned());
    }

    /// Replaces printed bytes that differ in this run, all over a request.
    pub(super) fn adapt(&self, value: &mut Value) {
        match value {
            Value::Structure(parts) => parts.iter_mut().for_each(|(_, part)| self.adapt(part)),
            Value::ByteString(bytes) => *bytes = self.instead_of(bytes).to_owned(),
            _ => {}
        }
    }

    /// Notes the fields of an answer under their names.
    pub(super) fn note(&mut self, tag: Tag, value: &Value) {
        match value {
            Value::Structure(parts) => parts.iter().for_each(|(tag, part)| self.note(*tag, part)),
            _ => {
                if let Some(name) = tag.name() {
                    self.last.insert(as_variable(name), value.clone());
                }
            }
        }
    }
}

/// `SignatureData` as `SIGNATURE_DATA`, `MACData` as `MAC_DATA`.
fn as_variable(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut written = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| letters.get(at));
        let starts = letter.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase() || letters.get(at + 1).is_some_and(|next| next.is_lowercase())
            });
        if starts {
            written.push('_');
        }
        written.extend(letter.to_uppercase());
    }
    written
}

pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_secs()).expect("a clock before the end of time")
}

#[test]
fn fields_are_written_as_the_cases_write_variables() {
    assert_eq!(as_variable("SignatureData"), "SIGNATURE_DATA");
    assert_eq!(as_variable("MACData"), "MAC_DATA");
    assert_eq!(as_variable("IVCounterNonce"), "IV_COUNTER_NONCE");
}
