//! Get Attribute List: which attributes an object has. (KMIP 2.1, 6.1)

use crate::attribute::{AttributeRef, UniqueIdentifier};
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, set, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// The object; absent means the ID placeholder.
        id: opt UniqueIdentifier = UniqueIdentifier @ V1_0,
    }
}

/// Response payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The object.
    pub id: String,
    /// Its attributes; those the client's version does not know are not written.
    pub attributes: Vec<AttributeRef>,
}

impl Field for Response {
    fn read(item: &Item<'_>) -> Result<Self> {
        let mut id = None;
        let mut attributes = Vec::new();
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => set(&mut id, &child)?,
                Tag::AttributeName | Tag::AttributeReference => {
                    attributes.push(AttributeRef::from_item(&child)?);
                }
                _ => {}
            }
        }
        let missing = Error::Missing { offset: item.offset(), tag: Tag::UniqueIdentifier };
        Ok(Self { id: id.ok_or(missing)?, attributes })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            w.text(Tag::UniqueIdentifier, &self.id);
            for attribute in &self.attributes {
                attribute.encode(w, version);
            }
        });
    }
}
