//! Set Attribute: the value of an attribute that has one only, whether the object has it already
//! or not (since 2.0). (KMIP 2.1, 6.1)

use crate::attribute::{Attribute, Instance, UniqueIdentifier};
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set, wire_struct};

/// Request payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The object; absent means the ID placeholder.
    pub id: Option<UniqueIdentifier>,
    /// The value.
    pub new: Attribute,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut id, mut new) = (None, None);
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => set(&mut id, &child)?,
                Tag::NewAttribute => new = Some(Instance::read_one(&child)?.attribute),
                _ => {}
            }
        }
        let missing = Error::Missing { offset: item.offset(), tag: Tag::NewAttribute };
        Ok(Self { id, new: new.ok_or(missing)? })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            if let Some(id) = &self.id {
                put(id, w, Tag::UniqueIdentifier, version);
            }
            let new = Instance { index: None, attribute: self.new.clone() };
            new.write_one(w, Tag::NewAttribute, version);
        });
    }

    fn known(&self, version: Version) -> bool {
        self.new.known(version)
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
