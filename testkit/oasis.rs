//! Reads the XML encoding of the OASIS test cases (KMIP Profiles, "XML Encoding") into trees.
//! What a case leaves open, such as `$NOW`, stays a variable until [`Template::fill`].

use kmip::attribute::AttributeKind;
use kmip::enums;
use kmip::tag::Tag;
use kmip::ttlv::Value;
use roxmltree::Node;

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

/// A message of a case, or a part of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Template {
    /// Parts in order.
    Structure(Vec<(Tag, Template)>),
    /// A value the case fixes.
    Value(Value),
    /// A value the case leaves open.
    Open(Variable),
}

/// A value that is known only while a case runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Variable {
    /// As the case writes it, without `$`: `UNIQUE_IDENTIFIER_0`, `NOW-3600`.
    pub(crate) name: String,
    /// Its XML type, such as `TextString`.
    pub(crate) kind: String,
}

impl Variable {
    /// Seconds from now, for the variables that are times.
    pub(crate) fn seconds_from_now(&self) -> Option<i64> {
        let offset = self.name.strip_prefix("NOW")?;
        if offset.is_empty() { Some(0) } else { offset.parse().ok() }
    }
}

impl Template {
    /// The tree with every variable replaced by what `of` says.
    pub(crate) fn fill<E>(
        &self,
        of: &mut impl FnMut(&Variable) -> Result<Value, E>,
    ) -> Result<Value, E> {
        Ok(match self {
            Self::Structure(parts) => {
                let filled = parts.iter().map(|(tag, part)| Ok((*tag, part.fill(of)?)));
                Value::Structure(filled.collect::<Result<_, E>>()?)
            }
            Self::Value(value) => value.clone(),
            Self::Open(variable) => of(variable)?,
        })
    }
}

/// Every message of a test case file, in order. An error names what is not understood.
pub(crate) fn messages(text: &str) -> Result<Vec<(Tag, Template)>, String> {
    let document = roxmltree::Document::parse(text).map_err(|error| error.to_string())?;
    document.root_element().children().filter(Node::is_element).map(item).collect()
}

fn item(node: Node<'_, '_>) -> Result<(Tag, Template), String> {
    let name = node.tag_name().name();
    let tag = Tag::from_name(name).ok_or_else(|| format!("the tag table lacks {name}"))?;
    Ok((tag, template(node, meaning(node, tag))?))
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

fn template(node: Node<'_, '_>, tag: Tag) -> Result<Template, String> {
    let kind = node.attribute("type").unwrap_or("Structure");
    if kind == "Structure" {
        let parts = node.children().filter(Node::is_element).map(item);
        return Ok(Template::Structure(parts.collect::<Result<_, _>>()?));
    }
    let text = node.attribute("value").unwrap_or_default();
    if let Some(name) = text.strip_prefix('$') {
        let (name, kind) = (name.to_owned(), kind.to_owned());
        return Ok(Template::Open(Variable { name, kind }));
    }
    let wrong = || format!("{tag} is {text:?}, which is no {kind}");
    Ok(Template::Value(match kind {
        "Integer" => Value::Integer(integer(text, tag).ok_or_else(wrong)?),
        "LongInteger" => Value::LongInteger(text.parse().map_err(|_| wrong())?),
        "BigInteger" => Value::BigInteger(hex::decode(text).map_err(|_| wrong())?),
        "Enumeration" => Value::Enumeration(enumeration(text, tag).ok_or_else(wrong)?),
        "Boolean" => Value::Boolean(text.parse().map_err(|_| wrong())?),
        "TextString" => Value::TextString(text.to_owned()),
        "ByteString" => Value::ByteString(hex::decode(text).map_err(|_| wrong())?),
        "DateTime" => Value::DateTime(date_time(text).ok_or_else(wrong)?),
        "Interval" => Value::Interval(text.parse().map_err(|_| wrong())?),
        _ => return Err(format!("{tag} has the unknown type {kind}")),
    }))
}

fn enumeration(text: &str, tag: Tag) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => enums::number_of(tag, text),
    }
}

fn integer(text: &str, tag: Tag) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let bit = |word: &str| match tag {
        Tag::ProtectionStorageMask if word == "Software" => Some(1),
        _ => USAGE.iter().position(|name| *name == word).map(|at| 1 << at),
    };
    text.split(' ').map(bit).sum()
}

fn date_time(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let march_year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        march_year * 365 + march_year / 4 - march_year / 100 + march_year / 400 + day_of_year
            - 719_468;
    let zone = match text.get(19..)? {
        "Z" | "" => 0,
        zone => zone.get(..3)?.parse::<i64>().ok()? * 3600,
    };
    let second = number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    Some(days * 86_400 + second - zone)
}

#[test]
fn dates_are_read() {
    assert_eq!(date_time("1970-01-02T00:00:01Z"), Some(86_401));
    assert_eq!(date_time("2000-03-01T10:00:00+10:00"), Some(951_868_800));
    assert_eq!(date_time("soon"), None);
}
