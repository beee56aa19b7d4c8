//! XML: an element named after the tag, with attributes `type` and `value`; a structure has elements
//! inside, and its type may be left out.

use roxmltree::{Document, Node, ParsingOptions};
use wiped::Wiped;
use zeroize::Zeroizing;

use super::{
    Error, Result, attribute_name, guard, meaning, out::Out, tag_of, type_name, type_of, words,
};
use crate::{
    tag::Tag,
    ttlv::{Item, Limits, MAX_DEPTH, Type, Writer, parse},
};

/// The element of tags without a name.
const UNNAMED: &str = "TTLV";
/// Most nodes of a document.
const NODES: u32 = 1 << 16;

/// A frame as XML.
///
/// # Errors
/// [`Error::Frame`] when it is no TTLV within `limits`; [`Error::Unsayable`] for text with control
/// characters.
pub fn to_xml(frame: &[u8], limits: &Limits) -> Result<Zeroizing<String>> {
    let root = parse(frame, limits)?;
    let mut out = Out::with_capacity(4 * frame.len());
    write(&root, root.tag(), &mut out)?;
    Ok(out.finish())
}

fn write(item: &Item<'_>, meant: Tag, out: &mut Out) -> Result<()> {
    let name = item.tag().name().unwrap_or(UNNAMED);
    out.push("<");
    out.push(name);
    if item.tag().name().is_none() {
        out.push(&format!(" tag=\"0x{:06x}\"", item.tag().number()));
    }
    if item.kind() == Type::Structure {
        out.push(">");
        let attribute = attribute_name(item)?;
        for child in item.children()? {
            write(&child, meaning(child.tag(), attribute), out)?;
        }
        out.push("</");
        out.push(name);
        out.push(">");
        return Ok(());
    }
    out.push(" type=\"");
    out.push(type_name(item.kind()));
    out.push("\" value=\"");
    match item.kind() {
        Type::TextString => write_text(item, out)?,
        Type::ByteString => out.push_hex(item.bytes()?),
        _ => words::write(item, meant, out)?,
    }
    out.push("\"/>");
    Ok(())
}

fn write_text(item: &Item<'_>, out: &mut Out) -> Result<()> {
    for letter in item.text()?.chars() {
        match letter {
            '&' => out.push("&amp;"),
            '<' => out.push("&lt;"),
            '>' => out.push("&gt;"),
            '"' => out.push("&quot;"),
            // Written plainly they would be read as spaces.
            '\t' | '\n' | '\r' => out.push(&format!("&#{};", u32::from(letter))),
            '\0'..'\u{20}' | '\u{FFFE}' | '\u{FFFF}' => return Err(Error::Unsayable(item.tag())),
            letter => out.push_char(letter),
        }
    }
    Ok(())
}

/// A message in XML as a frame. How long `text` may be is for the caller to bound; the frame is
/// shorter.
///
/// # Errors
/// What is no message, with the field; never its value.
pub fn from_xml(text: &str) -> Result<Wiped> {
    guard::check(text)?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES, ..Default::default() };
    let document = Document::parse_with_options(text, options).map_err(|error| {
        let at = error.pos();
        Error::Syntax(format!("no XML at line {}, column {}", at.row, at.col))
    })?;
    let root = document.root_element();
    let mut w = Writer::with_capacity(text.len() / 2);
    let tag = tag_in(root)?;
    read(root, (tag, tag), &mut w, 0)?;
    Ok(w.finish())
}

fn tag_in(node: Node<'_, '_>) -> Result<Tag> {
    match node.tag_name().name() {
        UNNAMED => tag_of(node.attribute("tag").unwrap_or_default()),
        name => tag_of(name),
    }
}

fn read(node: Node<'_, '_>, (tag, meant): (Tag, Tag), w: &mut Writer, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::TooDeep);
    }
    let kind = type_of(tag, node.attribute("type"))?;
    if kind != Type::Structure {
        let value = node.attribute("value").ok_or(Error::Value(tag))?;
        return words::read(value, kind, (tag, meant), w);
    }
    let elements = || node.children().filter(Node::is_element);
    let name = elements().find(|child| child.has_tag_name("AttributeName"));
    let name = name.and_then(|name| name.attribute("value"));
    w.structure(tag, |w| {
        for child in elements() {
            let tag = tag_in(child)?;
            read(child, (tag, meaning(tag, name)), w, depth + 1)?;
        }
        Ok(())
    })
}
