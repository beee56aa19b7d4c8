//! Adjust Attribute: a number more, a number less, or the opposite (since 2.0). (KMIP 2.1, 6.1)

use crate::attribute::{AttributeRef, UniqueIdentifier};
use crate::enums::AdjustmentType;
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Value, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set, wire_struct};

/// Request payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The object; absent means the ID placeholder.
    pub id: Option<UniqueIdentifier>,
    /// Which attribute.
    pub name: AttributeRef,
    /// How.
    pub adjustment: AdjustmentType,
    /// By how much; absent means 1. A number, or an interval for times.
    pub by: Option<Value>,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut id, mut name, mut adjustment, mut by) = (None, None, None, None);
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => set(&mut id, &child)?,
                Tag::AttributeReference => name = Some(AttributeRef::from_item(&child)?),
                Tag::AdjustmentType => set(&mut adjustment, &child)?,
                Tag::AdjustmentValue => set(&mut by, &child)?,
                _ => {}
            }
        }
        let missing = |tag| Error::Missing { offset: item.offset(), tag };
        Ok(Self {
            id,
            name: name.ok_or(missing(Tag::AttributeReference))?,
            adjustment: adjustment.ok_or(missing(Tag::AdjustmentType))?,
            by,
        })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            if let Some(id) = &self.id {
                put(id, w, Tag::UniqueIdentifier, version);
            }
            self.name.encode(w, version);
            self.adjustment.write(w, Tag::AdjustmentType, version);
            if let Some(by) = &self.by {
                by.encode(w, Tag::AdjustmentValue);
            }
        });
    }

    fn known(&self, version: Version) -> bool {
        self.name.known(version) && self.adjustment.known(version)
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {
        /// The object.
        id: one String = UniqueIdentifier @ V2_0,
    }
}
