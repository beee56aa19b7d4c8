//! Attributes of which a filter gives some fields only.

use super::{Attribute, AttributeKind, AttributeRef, Attributes, Instance};
use crate::tag::Tag;
use crate::ttlv::{self, Error, Item, Limits, Result, Type, Value, Writer};
use crate::version::Version;

/// Some of the fields of an attribute that is a structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which attribute.
    pub kind: AttributeKind,
    /// The fields, by their tags.
    pub fields: Vec<(Tag, Value)>,
}

impl Part {
    /// The fields that `attribute` has, if it is a structure.
    pub fn of(attribute: &Attribute) -> Option<Self> {
        let version = if attribute.known(Version::V2_1) { Version::V2_1 } else { Version::V1_4 };
        let mut w = Writer::default();
        attribute.write_value(&mut w, Tag::AttributeValue, version);
        let bytes = w.finish();
        let item = ttlv::parse(&bytes, &Limits::default()).ok()?;
        match Value::from_item(&item).ok()? {
            Value::Structure(fields) => Some(Self { kind: attribute.kind()?, fields }),
            _ => None,
        }
    }

    /// Whether `whole` has all of these fields with these values. Of Usage Limits, that there are in all or
    /// still left, so much or more does (KMIP 2.1, 6.1.29).
    pub fn is_in(&self, whole: &Self) -> bool {
        let fits = |given: &Value, found: &Value, tag: Tag| match (given, found) {
            (Value::LongInteger(given), Value::LongInteger(found))
                if matches!(tag, Tag::UsageLimitsTotal | Tag::UsageLimitsCount) =>
            {
                found >= given
            }
            _ => found == given,
        };
        whole.kind == self.kind
            && self.fields.iter().all(|(tag, given)| {
                whole.fields.iter().any(|(other, found)| other == tag && fits(given, found, *tag))
            })
    }

    fn write(&self, w: &mut Writer, version: Version) {
        let value = Value::Structure(self.fields.clone());
        match version.is_v2() {
            true => value.encode(w, self.kind.tag()),
            false => w.structure(Tag::Attribute, |w| {
                w.text(Tag::AttributeName, self.kind.name());
                value.encode(w, Tag::AttributeValue);
            }),
        }
    }

    /// What is there of the attribute in `item`, when that is a structure.
    fn read(item: &Item<'_>, is_v1: bool) -> Result<Option<Self>> {
        let kind = match is_v1 {
            true => match AttributeRef::from_name(item.required(Tag::AttributeName)?.text()?) {
                AttributeRef::Kind(kind) => Some(kind),
                _ => None,
            },
            false => AttributeKind::from_tag(item.tag()),
        };
        let inner = is_v1.then(|| item.required(Tag::AttributeValue)).transpose()?;
        let value = inner.as_ref().unwrap_or(item);
        match (kind, Value::from_item(value)?) {
            (Some(kind), Value::Structure(fields)) if value.kind() == Type::Structure => {
                Ok(Some(Self { kind, fields }))
            }
            _ => Ok(None),
        }
    }
}

impl Attributes {
    /// As [`Attributes::absorb`], of filters: an attribute of which fields are missing goes to `parts`.
    pub(crate) fn absorb_filters(&mut self, item: &Item<'_>, parts: &mut Vec<Part>) -> Result<()> {
        let is_v1 = item.tag() != Tag::Attributes;
        let mut one = |list: &mut Vec<Instance>, item: &Item<'_>| {
            let read = match is_v1 {
                true => Attribute::read_v1(item),
                false => {
                    Attribute::read_v2(item).map(|attribute| Instance { index: None, attribute })
                }
            };
            match read {
                Ok(whole) => list.push(whole),
                Err(missing @ Error::Missing { .. }) => {
                    parts.push(Part::read(item, is_v1)?.ok_or(missing)?);
                }
                Err(error) => return Err(error),
            }
            Ok(())
        };
        if item.tag() == Tag::Attribute {
            return one(&mut self.list, item);
        }
        for child in item.children()? {
            match child.tag() {
                Tag::Name if is_v1 => self.absorb_template(&child)?,
                Tag::Attribute => one(&mut self.list, &child)?,
                _ if is_v1 => {}
                _ => one(&mut self.list, &child)?,
            }
        }
        Ok(())
    }

    /// Writes filters, those that are parts included.
    pub(crate) fn encode_filters(&self, w: &mut Writer, version: Version, parts: &[Part]) {
        let parts = || parts.iter().filter(|part| part.kind.in_version(version));
        match version.is_v2() {
            true => w.structure(Tag::Attributes, |w| {
                for attribute in self.iter().filter(|attribute| attribute.known(version)) {
                    attribute.encode_v2(w, version);
                }
                parts().for_each(|part| part.write(w, version));
            }),
            false => {
                self.encode_bare(w, version);
                parts().for_each(|part| part.write(w, version));
            }
        }
    }
}
