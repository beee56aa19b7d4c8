//! Whether an answer is the one a case expects. The rules are those of KMIP Profiles, "Permitted
//! Test Case Variations": identifiers, times and what a server generates may differ, a server may
//! have more attributes and more functions; whatever else differs is a failure.

use std::collections::HashSet;

use kmip::{
    attribute::AttributeKind,
    enums::{OperationCode, PaddingMethod},
    tag::Tag,
    ttlv::Value,
};

use super::{
    query::query,
    scope::{self, Scope},
    words::{differs, said, show, status, value_text},
    xml::{Template, Variable},
};

/// How far a time may be from what the case says, in seconds.
const TOLERANCE: i64 = 60;
/// Fields a server may add or leave out.
const OPTIONAL: [Tag; 3] =
    [Tag::ServerCorrelationValue, Tag::ClientCorrelationValue, Tag::ResultMessage];
/// Fields that are a server's own.
const FREE: [Tag; 6] = [
    Tag::ServerCorrelationValue,
    Tag::ResultMessage,
    Tag::LeaseTime,
    Tag::DigestValue,
    Tag::RandomNumberGenerator,
    Tag::ShortUniqueIdentifier,
];
/// Bytes that differ when the server made the key, or when the operation is random.
const GENERATED: [Tag; 8] = [
    Tag::KeyMaterial,
    Tag::KeyValue,
    Tag::Data,
    Tag::MACData,
    Tag::SignatureData,
    Tag::IVCounterNonce,
    Tag::AuthenticatedEncryptionTag,
    Tag::CorrelationValue,
];
/// What sealing and signing give differs every time when the padding or the vector is random.
const RANDOM_PADDINGS: [PaddingMethod; 2] = [PaddingMethod::Oaep, PaddingMethod::Pss];
/// Operations that make what the case cannot foresee.
const MAKERS: [OperationCode; 7] = [
    OperationCode::Create,
    OperationCode::CreateKeyPair,
    OperationCode::ReKey,
    OperationCode::ReKeyKeyPair,
    OperationCode::CreateSplitKey,
    OperationCode::RngRetrieve,
    OperationCode::Certify,
];

type Parts<'a> = &'a [(Tag, Template)];

/// What of a case's requests its answers depend on.
pub(super) struct Comparison {
    /// The server makes keys in this case, or did in one that it builds on.
    makes: bool,
    /// A random padding or vector is named.
    pads: bool,
    /// Byte strings and times that requests fixed.
    fixed: HashSet<Value>,
    /// Of the request whose answer comes next: the operation of each item, and whether it asks for
    /// all there is.
    asked: Vec<(OperationCode, bool)>,
}

/// Where in an answer something stands.
#[derive(Clone, Copy)]
struct Place {
    tag: Tag,
    /// The server may say more here than the case does.
    open: bool,
    /// The operation is random.
    random: bool,
}

impl Comparison {
    /// `made`: the server made keys that this case may use.
    pub(super) fn of(messages: &[(Tag, Template)], made: bool) -> Self {
        let makes = made
            || messages.iter().any(|(_, message)| {
                items(message).any(|item| MAKERS.iter().any(|maker| is_operation(item, *maker)))
            });
        let pads = messages.iter().any(|(_, message)| names_random_padding(message));
        Self { makes, pads, fixed: HashSet::new(), asked: Vec::new() }
    }

    /// Whether the server has made keys by the end of the case.
    pub(super) fn makes(&self) -> bool {
        self.makes
    }

    /// Notes a request that is about to be sent.
    pub(super) fn asked(&mut self, request: &Value) {
        self.fix(request);
        let of_item = |item: &Value| {
            let number = match child(item, Tag::Operation) {
                Some(Value::Enumeration(number)) => *number,
                _ => 0,
            };
            let payload = child(item, Tag::RequestPayload);
            let names = |tag| payload.and_then(|payload| child(payload, tag)).is_some();
            let all = !names(Tag::AttributeName) && !names(Tag::AttributeReference);
            (OperationCode::from_number(number), all)
        };
        self.asked = children(request, Tag::BatchItem).map(of_item).collect();
    }

    fn fix(&mut self, value: &Value) {
        match value {
            Value::Structure(parts) => parts.iter().for_each(|(_, part)| self.fix(part)),
            Value::ByteString(_) | Value::DateTime(_) | Value::BigInteger(_) => {
                self.fixed.insert(value.clone());
            }
            _ => {}
        }
    }

    /// Compares a whole answer and learns the variables it gives.
    pub(super) fn check(
        &self,
        scope: &mut Scope,
        expected: &Template,
        found: &Value,
    ) -> Result<(), String> {
        let Template::Structure(expected) = expected else { return Err("no structure".into()) };
        let place = |tag| Place { tag, open: false, random: false };
        if let Some((tag, header)) = expected.iter().find(|(tag, _)| *tag == Tag::ResponseHeader) {
            let header_found = child(found, *tag).ok_or("the answer has no header")?;
            self.fits(scope, place(*tag), header, header_found)?;
        }
        let items = expected.iter().filter(|(tag, _)| *tag == Tag::BatchItem);
        for (at, ((_, item), found)) in items.zip(children(found, Tag::BatchItem)).enumerate() {
            self.check_item(scope, self.asked.get(at), item, found)
                .map_err(|why| format!("item {at}: {why}{}", said(found)))?;
        }
        scope.note(Tag::ResponseMessage, found);
        Ok(())
    }

    fn check_item(
        &self,
        scope: &mut Scope,
        asked: Option<&(OperationCode, bool)>,
        expected: &Template,
        found: &Value,
    ) -> Result<(), String> {
        if let Template::Structure(parts) = expected {
            // Said first: what the rest of an item holds depends on it.
            for tag in [Tag::ResultStatus, Tag::ResultReason] {
                let wanted = parts.iter().find(|(t, _)| *t == tag).map(|(_, wanted)| wanted);
                let got = child(found, tag);
                let same = match (wanted, got) {
                    (Some(Template::Value(wanted)), Some(got)) => wanted == got,
                    (None, None) => true,
                    _ => false,
                };
                if !same {
                    let wanted = wanted.map_or_else(|| "success".to_owned(), |t| show(tag, t));
                    return Err(format!("{} in place of {wanted}", status(found)));
                }
            }
        }
        let (operation, all) = asked.copied().unwrap_or((OperationCode::Other(0), true));
        if operation == OperationCode::Query {
            return query(expected, found);
        }
        let lists = [OperationCode::GetAttributes, OperationCode::GetAttributeList];
        let open = all && lists.contains(&operation);
        let pads = [OperationCode::Encrypt, OperationCode::Sign].contains(&operation);
        let place = Place { tag: Tag::BatchItem, open, random: self.pads && pads };
        self.fits(scope, place, expected, found)
    }

    fn fits(
        &self,
        scope: &mut Scope,
        place: Place,
        expected: &Template,
        found: &Value,
    ) -> Result<(), String> {
        if FREE.contains(&place.tag) {
            return Ok(());
        }
        match (expected, found) {
            (Template::Structure(expected), Value::Structure(found)) => {
                self.all_fit(scope, place, expected, found)
            }
            (Template::Open(variable), found) => variable_fits(scope, place.tag, variable, found),
            (Template::Value(expected), found) => self.value_fits(scope, place, expected, found),
            (expected, _) => Err(differs(place.tag, expected, found)),
        }
    }

    /// Every expected part has its match; what is left over is allowed. Order is not compared:
    /// attributes and identifiers come in any.
    fn all_fit(
        &self,
        scope: &mut Scope,
        place: Place,
        expected: Parts<'_>,
        found: &[(Tag, Value)],
    ) -> Result<(), String> {
        let mut left: Vec<&(Tag, Value)> = found.iter().collect();
        let (known, unknown): (Vec<_>, Vec<_>) =
            expected.iter().partition(|(_, part)| !is_unbound(scope, part));
        for (tag, part) in known.into_iter().chain(unknown) {
            let place = Place { tag: meaning(*tag, expected), ..place };
            let mut why = None;
            let at = left.iter().position(|(other, value)| {
                let mut trial = scope.clone();
                let fits = other == tag
                    && match self.fits(&mut trial, place, part, value) {
                        Ok(()) => true,
                        Err(error) => {
                            why.get_or_insert(error);
                            false
                        }
                    };
                if fits {
                    *scope = trial;
                }
                fits
            });
            match at {
                Some(at) => drop(left.remove(at)),
                None if OPTIONAL.contains(tag) => {}
                None if *tag == Tag::Attribute || why.is_none() => {
                    return Err(format!("{} is missing", show(*tag, part)));
                }
                None => return Err(why.unwrap_or_default()),
            }
        }
        let surplus = left.iter().find(|(tag, value)| {
            // The first instance may be numbered or not.
            let first = (tag, value) == (&Tag::AttributeIndex, &Value::Integer(0));
            let attribute = place.open
                && (AttributeKind::from_tag(*tag).is_some()
                    || [Tag::Attribute, Tag::AttributeName, Tag::AttributeReference].contains(tag));
            !attribute && !first && !OPTIONAL.contains(tag)
        });
        match surplus {
            Some((tag, value)) => {
                Err(format!("{} besides what is expected", value_text(*tag, value)))
            }
            None => Ok(()),
        }
    }

    fn value_fits(
        &self,
        scope: &mut Scope,
        place: Place,
        expected: &Value,
        found: &Value,
    ) -> Result<(), String> {
        if expected == found {
            return Ok(());
        }
        let free = !self.fixed.contains(expected);
        match (expected, found) {
            (Value::DateTime(_), Value::DateTime(_)) if free => Ok(()),
            (Value::ByteString(printed), Value::ByteString(bytes)) => {
                if scope.instead_of(printed) == bytes.as_slice() {
                    return Ok(());
                }
                if place.tag == Tag::PKCS_11OutputParameters && differs_in_maker(printed, bytes) {
                    return Ok(());
                }
                let short = printed.len() <= 64;
                let same_length = !short || printed.len() == bytes.len();
                let differs = self.makes || place.random;
                if differs && free && same_length && GENERATED.contains(&place.tag) {
                    scope.differs(printed, bytes);
                    return Ok(());
                }
                Err(self::differs(place.tag, &Template::Value(expected.clone()), found))
            }
            (Value::BigInteger(_), Value::BigInteger(_)) if self.makes && free => Ok(()),
            _ => Err(differs(place.tag, &Template::Value(expected.clone()), found)),
        }
    }
}

/// Whether both are a CK_INFO (PKCS #11, "General data types"), alike but for who made the library, how
/// it is described, and its version.
fn differs_in_maker(printed: &[u8], found: &[u8]) -> bool {
    // Version of the interface, maker, flags, description, version of the library.
    const LENGTH: usize = 2 + 32 + 8 + 32 + 2;
    let same = |range: std::ops::Range<usize>| printed.get(range.clone()) == found.get(range);
    printed.len() == LENGTH && found.len() == LENGTH && same(0..2) && same(34..42)
}

fn variable_fits(
    scope: &mut Scope,
    tag: Tag,
    variable: &Variable,
    found: &Value,
) -> Result<(), String> {
    let kind = match found {
        Value::DateTime(_) => "DateTime",
        Value::TextString(_) => "TextString",
        Value::ByteString(_) => "ByteString",
        _ => "",
    };
    let expected = || Template::Open(variable.clone());
    if kind != variable.kind {
        return Err(differs(tag, &expected(), found));
    }
    if let (Some(offset), Value::DateTime(at)) = (variable.seconds_from_now(), found) {
        let apart = (at - (scope::now() + offset)).abs();
        return if apart <= TOLERANCE { Ok(()) } else { Err(differs(tag, &expected(), found)) };
    }
    match scope.bound(variable) {
        Some(known) if known == found => Ok(()),
        Some(_) => Err(differs(tag, &expected(), found)),
        None => {
            scope.bind(variable, found);
            Ok(())
        }
    }
}

/// The tag that says what a part means: that of the attribute for an Attribute Value.
fn meaning(tag: Tag, parts: Parts<'_>) -> Tag {
    let name = parts.iter().find_map(|(tag, part)| match part {
        Template::Value(Value::TextString(name)) if *tag == Tag::AttributeName => Some(name),
        _ => None,
    });
    match name.and_then(|name| AttributeKind::from_name(name)) {
        Some(kind) if tag == Tag::AttributeValue => kind.tag(),
        _ => tag,
    }
}

fn names_random_padding(template: &Template) -> bool {
    let is_random = |tag: &Tag, part: &Template| match part {
        Template::Value(Value::Enumeration(number)) if *tag == Tag::PaddingMethod => {
            RANDOM_PADDINGS.iter().any(|padding| padding.number() == *number)
        }
        Template::Value(Value::Boolean(true)) => *tag == Tag::RandomIV,
        part => names_random_padding(part),
    };
    match template {
        Template::Structure(parts) => parts.iter().any(|(tag, part)| is_random(tag, part)),
        _ => false,
    }
}

fn is_unbound(scope: &Scope, part: &Template) -> bool {
    match part {
        Template::Structure(parts) => parts.iter().any(|(_, part)| is_unbound(scope, part)),
        Template::Value(_) => false,
        Template::Open(variable) => {
            variable.seconds_from_now().is_none() && scope.bound(variable).is_none()
        }
    }
}

fn items(message: &Template) -> impl Iterator<Item = &Template> {
    let parts = match message {
        Template::Structure(parts) => parts.as_slice(),
        _ => &[],
    };
    parts.iter().filter(|(tag, _)| *tag == Tag::BatchItem).map(|(_, item)| item)
}

fn is_operation(item: &Template, code: OperationCode) -> bool {
    let wanted = (Tag::Operation, Template::Value(Value::Enumeration(code.number())));
    matches!(item, Template::Structure(parts) if parts.contains(&wanted))
}

pub(super) fn children(value: &Value, tag: Tag) -> impl Iterator<Item = &Value> {
    let parts = match value {
        Value::Structure(parts) => parts.as_slice(),
        _ => &[],
    };
    parts.iter().filter(move |(other, _)| *other == tag).map(|(_, value)| value)
}

pub(super) fn child(value: &Value, tag: Tag) -> Option<&Value> {
    children(value, tag).next()
}

#[cfg(test)]
mod tests {
    use super::differs_in_maker;

    #[test]
    fn of_ck_info_the_maker_alone_may_differ() {
        let printed: Vec<u8> = (0..76).collect();
        for at in 0..76 {
            let mut found = printed.clone();
            found[at] ^= 0x80;
            let of_maker = (2..34).contains(&at) || (42..76).contains(&at);
            assert_eq!(differs_in_maker(&printed, &found), of_maker, "byte {at}");
        }
        assert!(!differs_in_maker(&printed[..75], &printed[..75]));
        assert!(!differs_in_maker(&printed, &[&printed[..], &[0]].concat()));
        assert!(!differs_in_maker(&printed[..8], &printed[..8]));
    }
}
