//! Reads the XML encoding of the OASIS test cases into trees. Placeholders such as `$NOW` become
//! fixed values.

use kmip::attribute::AttributeKind;
use kmip::enums;
use kmip::tag::Tag;
use kmip::ttlv::Value;
use roxmltree::Node;

const NOW: i64 = 1_600_000_000;
const USAGE: [&str; 24] = [
    "Sign",
    "Verify",
    "Encrypt",
    "Decrypt",
    "WrapKey",
    "UnwrapKey",
    "Export",
    "MACGenerate",
    "MACVerify",
    "DeriveKey",
    "ContentCommitment",
    "KeyAgreement",
    "CertificateSign",
    "CRLSign",
    "GenerateCryptogram",
    "ValidateCryptogram",
    "TranslateEncrypt",
    "TranslateDecrypt",
    "TranslateWrap",
    "TranslateUnwrap",
    "Authenticate",
    "Unrestricted",
    "FPEEncrypt",
    "FPEDecrypt",
];

/// Every message of a test case file, in order.
pub(crate) fn messages(text: &str) -> Vec<(Tag, Value)> {
    let document = roxmltree::Document::parse(text).expect("XML");
    document.root_element().children().filter(Node::is_element).map(item).collect()
}

fn item(node: Node<'_, '_>) -> (Tag, Value) {
    let name = node.tag_name().name();
    let tag = Tag::from_name(name).unwrap_or_else(|| panic!("the tag table lacks {name}"));
    (tag, value(node, meaning(node, tag)))
}

/// The tag that says what a value means: that of the attribute for an Attribute Value.
fn meaning(node: Node<'_, '_>, tag: Tag) -> Tag {
    if tag != Tag::AttributeValue {
        return tag;
    }
    let name = node
        .parent()
        .and_then(|p| p.children().find(|n| n.has_tag_name("AttributeName")))
        .and_then(|n| n.attribute("value"));
    name.and_then(AttributeKind::from_name).map_or(tag, AttributeKind::tag)
}

fn value(node: Node<'_, '_>, tag: Tag) -> Value {
    let text = node.attribute("value").unwrap_or_default();
    match node.attribute("type") {
        None | Some("Structure") => {
            Value::Structure(node.children().filter(Node::is_element).map(item).collect())
        }
        Some("Integer") => Value::Integer(integer(text, tag)),
        Some("LongInteger") => Value::LongInteger(text.parse().unwrap()),
        Some("BigInteger") => Value::BigInteger(bytes(text)),
        Some("Enumeration") => Value::Enumeration(enumeration(text, tag)),
        Some("Boolean") => Value::Boolean(text.parse().unwrap()),
        Some("TextString") => Value::TextString(text.to_owned()),
        Some("ByteString") => Value::ByteString(bytes(text)),
        Some("DateTime") => Value::DateTime(date_time(text)),
        Some("Interval") => Value::Interval(text.parse().unwrap()),
        Some(other) => panic!("type {other}"),
    }
}

fn enumeration(text: &str, tag: Tag) -> u32 {
    if let Some(hex) = text.strip_prefix("0x") {
        return u32::from_str_radix(hex, 16).unwrap();
    }
    enums::number_of(tag, text).unwrap_or_else(|| panic!("the tables lack {text} of {tag}"))
}

fn integer(text: &str, tag: Tag) -> i32 {
    if let Ok(number) = text.parse() {
        return number;
    }
    text.split(' ')
        .map(|word| match tag {
            Tag::ProtectionStorageMask if word == "Software" => 1,
            _ => 1 << USAGE.iter().position(|name| *name == word).expect(word),
        })
        .sum()
}

fn bytes(text: &str) -> Vec<u8> {
    if text.starts_with('$') { vec![0x5A; 16] } else { hex::decode(text).expect(text) }
}

fn date_time(text: &str) -> i64 {
    if let Some(offset) = text.strip_prefix("$NOW") {
        return NOW + if offset.is_empty() { 0 } else { offset.parse::<i64>().expect(text) };
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<i64>().expect(text);
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let march_year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        march_year * 365 + march_year / 4 - march_year / 100 + march_year / 400 + day_of_year
            - 719_468;
    let zone = match &text[19..] {
        "Z" | "" => 0,
        zone => zone[..3].parse::<i64>().expect(text) * 3600,
    };
    days * 86_400 + number(11..13) * 3600 + number(14..16) * 60 + number(17..19) - zone
}

#[test]
fn dates_are_read() {
    assert_eq!(date_time("1970-01-02T00:00:01Z"), 86_401);
    assert_eq!(date_time("2000-03-01T10:00:00+10:00"), 951_868_800);
}
