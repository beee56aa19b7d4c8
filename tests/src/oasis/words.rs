//! How parts of messages are told to whoever reads the report.

use kmip::{tag::Tag, ttlv::Value};

use super::{compare::child, xml::Template};

/// Why an item failed, if it did.
pub(super) fn status(item: &Value) -> String {
    match child(item, Tag::ResultReason) {
        Some(Value::Enumeration(number)) => name(Tag::ResultReason, *number),
        _ => "success".to_owned(),
    }
}

/// The Result Message of an item, for whoever reads the report.
pub(super) fn said(item: &Value) -> String {
    match child(item, Tag::ResultMessage) {
        Some(Value::TextString(text)) => format!(" ({text})"),
        _ => String::new(),
    }
}

pub(super) fn differs(tag: Tag, expected: &Template, found: &Value) -> String {
    format!("{} in place of {}", value_text(tag, found), show(tag, expected))
}

fn name(tag: Tag, number: u32) -> String {
    kmip::enums::name_of(tag, number).map_or_else(|| format!("{number:#x}"), str::to_owned)
}

pub(super) fn show(tag: Tag, template: &Template) -> String {
    match template {
        Template::Structure(parts) => {
            let parts: Vec<String> = parts.iter().map(|(tag, part)| show(*tag, part)).collect();
            format!("{tag} {{{}}}", parts.join(", "))
        }
        Template::Value(value) => value_text(tag, value),
        Template::Open(variable) => format!("{tag} ${}", variable.name),
    }
}

pub(super) fn value_text(tag: Tag, value: &Value) -> String {
    match value {
        Value::Structure(parts) => {
            let parts: Vec<String> = parts.iter().map(|(tag, v)| value_text(*tag, v)).collect();
            format!("{tag} {{{}}}", parts.join(", "))
        }
        Value::Enumeration(number) => format!("{tag} {}", name(tag, *number)),
        Value::ByteString(bytes) => format!("{tag} {}", hex::encode(bytes)),
        Value::TextString(text) => format!("{tag} {text:?}"),
        other => format!("{tag} {other:?}"),
    }
}
