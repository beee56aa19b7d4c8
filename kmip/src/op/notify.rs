//! Notify: a server tells a client that attributes of an object changed. (KMIP 2.1, 6.2)

use crate::attribute::Attributes;
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, set, wire_struct};

/// Request payload, from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The object.
    pub id: String,
    /// The attributes as they are now, Last Change Date among them.
    pub attributes: Attributes,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let mut id = None;
        let mut attributes = Attributes::default();
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => set(&mut id, &child)?,
                Tag::Attribute | Tag::Attributes => attributes.absorb(&child)?,
                _ => {}
            }
        }
        let missing = Error::Missing { offset: item.offset(), tag: Tag::UniqueIdentifier };
        Ok(Self { id: id.ok_or(missing)?, attributes })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            w.text(Tag::UniqueIdentifier, &self.id);
            self.attributes.encode_bare(w, version);
        });
    }
}

wire_struct! {
    /// Response payload, from the client: nothing.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {}
}
