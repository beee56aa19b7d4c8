//! Every message of the OASIS test cases 1.4 and 2.1, through the walker, the tree and the typed
//! model. The files are looked for in `$QKM_SHARED/oasis-kmip`, else next to the workspace; the
//! tests say so and pass when there are none.

use std::path::{Path, PathBuf};

use kmip::encoding::{from_json, from_xml, to_json, to_xml};
use kmip::message::{Outcome, RequestMessage, ResponseMessage, ResponseWriter};
use kmip::tag::Tag;
use kmip::ttlv::{Limits, Value};
use kmip::{Answer, Operation};

use crate::tree::{decode, encode};
use crate::xml;

fn files(version: &str) -> Vec<PathBuf> {
    let shared = std::env::var_os("QKM_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let root = shared.join("oasis-kmip").join(version);
    let mut found = Vec::new();
    for folder in ["mandatory", "optional"] {
        let Ok(entries) = std::fs::read_dir(root.join(folder)) else { continue };
        found.extend(entries.map(|entry| entry.unwrap().path()));
    }
    if found.is_empty() {
        println!("SKIPPED: no OASIS test cases in {}", root.display());
    }
    found.sort();
    found
}

/// Runs `check` on each message of `version` and returns how many there were.
fn each(version: &str, mut check: impl FnMut(&str, Tag, &Value, &[u8])) -> usize {
    let mut count = 0;
    for file in files(version) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, (tag, value)) in xml::messages(&text).into_iter().enumerate() {
            let label = format!("{} message {number}", file.file_stem().unwrap().display());
            check(&label, tag, &value, &encode(tag, &value));
            count += 1;
        }
    }
    count
}

fn tree_is_byte_equal(version: &str, messages: usize) {
    let count = each(version, |label, tag, value, frame| {
        let (back_tag, back) = decode(frame);
        assert_eq!((back_tag, &back), (tag, value), "{label}");
        assert_eq!(encode(tag, &back), frame, "{label}");
        let json = to_json(frame, &Limits::default()).unwrap();
        assert_eq!(*from_json(&json).unwrap(), *frame, "{label}: {}", *json);
        let xml = to_xml(frame, &Limits::default()).unwrap();
        assert_eq!(*from_xml(&xml).unwrap(), *frame, "{label}: {}", *xml);
    });
    assert!(count == 0 || count == messages, "{count} messages");
}

/// Reads `frame` through the typed model and writes it again; says how many items were typed.
fn retype(tag: Tag, frame: &[u8]) -> (Vec<u8>, usize) {
    if tag == Tag::RequestMessage {
        let message = RequestMessage::decode(frame).unwrap();
        let typed = message
            .items
            .iter()
            .filter(|item| !matches!(item.operation.as_ref().unwrap(), Operation::Raw(_)));
        let typed = typed.count();
        return (message.encode().unwrap().to_vec(), typed);
    }
    let message = ResponseMessage::decode(frame).unwrap();
    let mut typed = 0;
    let mut writer = ResponseWriter::new(message.version, message.header);
    for item in &message.items {
        typed += usize::from(
            matches!(&item.outcome, Outcome::Success(a) if !matches!(a, Answer::Raw(_))),
        );
        writer.item(item);
    }
    (writer.finish().to_vec(), typed)
}

fn model_is_byte_equal(version: &str, typed_items: usize) {
    let (mut typed, mut different) = (0, Vec::new());
    let count = each(version, |label, tag, value, frame| {
        let (back, items) = retype(tag, frame);
        typed += items;
        if back != frame {
            different.push(format!("{label}: {:?}\nis not {value:?}", decode(&back).1));
        }
    });
    assert!(different.is_empty(), "{} differ: {}", different.len(), different.join("\n\n"));
    assert!(count == 0 || typed >= typed_items, "only {typed} typed items");
}

#[test]
fn oasis_14_trees_are_byte_equal() {
    tree_is_byte_equal("v1.4", 942);
}

#[test]
fn oasis_21_trees_are_byte_equal() {
    tree_is_byte_equal("v2.1", 1156);
}

#[test]
fn oasis_14_messages_pass_the_typed_model() {
    model_is_byte_equal("v1.4", 925);
}

#[test]
fn oasis_21_messages_pass_the_typed_model() {
    model_is_byte_equal("v2.1", 1109);
}
