//! JSON: `{"tag": .., "type": .., "value": ..}`; a structure's value is a list, and its type may be
//! left out.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use wiped::Wiped;
use zeroize::Zeroizing;

use super::{Error, Result, attribute_name, meaning, out::Out, tag_of, type_name, type_of, words};
use crate::{
    tag::Tag,
    ttlv::{Item, Limits, MAX_DEPTH, Type, Writer, parse},
};

/// Numbers beyond it are no longer exact everywhere; they are written in hexadecimal.
const EXACT: u64 = 1 << 52;

/// A frame as JSON.
///
/// # Errors
/// [`Error::Frame`] when it is no TTLV within `limits`.
pub fn to_json(frame: &[u8], limits: &Limits) -> Result<Zeroizing<String>> {
    let root = parse(frame, limits)?;
    let mut out = Out::with_capacity(4 * frame.len());
    write(&root, root.tag(), &mut out)?;
    Ok(out.finish())
}

fn write(item: &Item<'_>, meant: Tag, out: &mut Out) -> Result<()> {
    out.push("{\"tag\":\"");
    match item.tag().name() {
        Some(name) => out.push(name),
        None => out.push(&format!("0x{:06x}", item.tag().number())),
    }
    out.push("\"");
    if item.kind() != Type::Structure {
        out.push(",\"type\":\"");
        out.push(type_name(item.kind()));
        out.push("\"");
    }
    out.push(",\"value\":");
    match item.kind() {
        Type::Structure => {
            let name = attribute_name(item)?;
            out.push("[");
            for (at, child) in item.children()?.enumerate() {
                out.push(if at == 0 { "" } else { "," });
                write(&child, meaning(child.tag(), name), out)?;
            }
            out.push("]");
        }
        Type::TextString => write_text(item.text()?, out),
        Type::ByteString => {
            out.push("\"");
            out.push_hex(item.bytes()?);
            out.push("\"");
        }
        Type::BigInteger => {
            out.push("\"0x");
            out.push_hex(item.big_integer()?);
            out.push("\"");
        }
        Type::LongInteger if item.long_integer()?.unsigned_abs() >= EXACT => {
            out.push(&format!("\"0x{:016x}\"", item.long_integer()?));
        }
        Type::Integer | Type::LongInteger | Type::Boolean | Type::Interval => {
            words::write(item, meant, out)?;
        }
        Type::Enumeration | Type::DateTime | Type::DateTimeExtended => {
            out.push("\"");
            words::write(item, meant, out)?;
            out.push("\"");
        }
    }
    out.push("}");
    Ok(())
}

fn write_text(text: &str, out: &mut Out) {
    out.push("\"");
    for letter in text.chars() {
        match letter {
            '"' => out.push("\\\""),
            '\\' => out.push("\\\\"),
            control if u32::from(control) < 0x20 => {
                out.push(&format!("\\u{:04x}", u32::from(control)));
            }
            letter => out.push_char(letter),
        }
    }
    out.push("\"");
}

#[derive(Deserialize)]
struct Node<'a> {
    #[serde(borrow)]
    tag: Cow<'a, str>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// A message in JSON as a frame. How long `text` may be is for the caller to bound; the frame is
/// shorter.
///
/// # Errors
/// What is no message, with the field; never its value.
pub fn from_json(text: &str) -> Result<Wiped> {
    let root: Node<'_> = serde_json::from_str(text).map_err(syntax)?;
    let mut w = Writer::with_capacity(text.len() / 2);
    let tag = tag_of(&root.tag)?;
    read(&root, (tag, tag), &mut w, 0)?;
    Ok(w.finish())
}

/// Where, not what: serde_json may show what it found.
fn syntax(error: serde_json::Error) -> Error {
    let (line, column) = (error.line(), error.column());
    Error::Syntax(format!("no JSON of KMIP at line {line}, column {column}"))
}

fn read(node: &Node<'_>, (tag, meant): (Tag, Tag), w: &mut Writer, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::TooDeep);
    }
    let kind = type_of(tag, node.kind.as_deref())?;
    let raw = node.value.get();
    if kind != Type::Structure {
        return match raw.starts_with('"') {
            true => {
                let text: Text<'_> = serde_json::from_str(raw).map_err(syntax)?;
                words::read(&text.0, kind, (tag, meant), w)
            }
            false if kind == Type::TextString || kind == Type::ByteString => Err(Error::Value(tag)),
            false => words::read(raw, kind, (tag, meant), w),
        };
    }
    let children: Vec<Node<'_>> = serde_json::from_str(raw).map_err(syntax)?;
    let mut tags = Vec::with_capacity(children.len());
    let mut name: Option<Text<'_>> = None;
    for child in &children {
        let tag = tag_of(&child.tag)?;
        if tag == Tag::AttributeName && name.is_none() {
            name = serde_json::from_str(child.value.get()).ok();
        }
        tags.push(tag);
    }
    w.structure(tag, |w| {
        for (child, tag) in children.iter().zip(tags) {
            let meant = meaning(tag, name.as_ref().map(|name| name.0.as_ref()));
            read(child, (tag, meant), w, depth + 1)?;
        }
        Ok(())
    })
}

/// A string; its copy, where it had to be unescaped, is overwritten.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Drop for Text<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(text) = &mut self.0 {
            zeroize::Zeroize::zeroize(text);
        }
    }
}
