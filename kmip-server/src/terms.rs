//! Search terms of an object: the attributes Locate can look up without reading objects.
//!
//! A destroyed object keeps its terms under a prefix of their own: its name is free again, and a
//! search for live objects does not pass over it.

use aws_lc_rs::digest::{SHA256, digest};
use kmip::{
    attribute::{Attribute, AttributeKind, Attributes, Part},
    enums::ObjectType,
    tag::Tag,
    ttlv::Value,
};

/// Stands before the terms of a destroyed object.
const GONE: &str = "gone:";
/// A longer value is searched by its hash.
const LONGEST: usize = 256;

/// The terms of a new object.
pub(crate) fn of(kind: ObjectType, rest: &Attributes) -> Vec<String> {
    let mut terms = vec![kind_term(kind)];
    terms.extend(rest.iter().filter_map(of_attribute));
    terms.sort();
    terms.dedup();
    terms
}

/// The term an attribute is found by, if there is one.
pub(crate) fn of_attribute(attribute: &Attribute) -> Option<String> {
    Some(match attribute {
        Attribute::Name(name) => this("name", &name.value),
        Attribute::ObjectGroup(group) => this("group", group),
        Attribute::ApplicationSpecificInformation(info) => {
            this("app", &format!("{}\u{1}{}", info.namespace, info.data.as_deref()?))
        }
        Attribute::ObjectType(kind) => kind_term(*kind),
        _ => return None,
    })
}

/// The same of a part of one.
pub(crate) fn of_part(part: &Part) -> Option<String> {
    let text = |(tag, value): &(Tag, Value)| match value {
        Value::TextString(text) if *tag == Tag::NameValue => Some(name(text)),
        _ => None,
    };
    match part.kind {
        AttributeKind::Name => part.fields.iter().find_map(text),
        _ => None,
    }
}

/// The terms one of which every object has: those of the object types.
pub(crate) fn every_kind() -> impl Iterator<Item = String> {
    ObjectType::ALL.iter().copied().map(kind_term)
}

/// The term of a name.
pub(crate) fn name(value: &str) -> String {
    this("name", value)
}

/// A term as destroyed objects have it.
pub(crate) fn gone(term: &str) -> String {
    format!("{GONE}{term}")
}

fn kind_term(kind: ObjectType) -> String {
    format!("type:{}", kind.number())
}

fn this(what: &str, value: &str) -> String {
    if value.len() <= LONGEST && !value.contains('\0') {
        return format!("{what}:{value}");
    }
    let hash = digest(&SHA256, value.as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{what}#{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_odd_values_have_bounded_terms() {
        for value in ["x".repeat(100_000), "a\0b".to_owned()] {
            let term = name(&value);
            assert!(term.len() < 100 && !term.contains('\0'));
            assert_ne!(term, name("other"));
        }
    }
}
