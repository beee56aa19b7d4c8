//! Modify Attribute: another value for an attribute the object has. (KMIP 2.1, 6.1)

use super::add_attribute::attribute_response;
use crate::attribute::{Attribute, Instance, UniqueIdentifier};
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set};

/// Request payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The object; absent means the ID placeholder.
    pub id: Option<UniqueIdentifier>,
    /// Which instance is meant, by its present value (2.x).
    pub current: Option<Attribute>,
    /// The new value; in 1.x its index says which instance is meant.
    pub new: Instance,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut id, mut current, mut new) = (None, None, None);
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => set(&mut id, &child)?,
                Tag::CurrentAttribute => current = Some(Instance::read_one(&child)?.attribute),
                Tag::Attribute | Tag::NewAttribute => new = Some(Instance::read_one(&child)?),
                _ => {}
            }
        }
        let missing = Error::Missing { offset: item.offset(), tag: Tag::Attribute };
        Ok(Self { id, current, new: new.ok_or(missing)? })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            if let Some(id) = &self.id {
                put(id, w, Tag::UniqueIdentifier, version);
            }
            if let Some(current) = self.current.as_ref().filter(|_| version.is_v2()) {
                let current = Instance { index: None, attribute: current.clone() };
                current.write_one(w, Tag::CurrentAttribute, version);
            }
            self.new.write_one(w, Tag::NewAttribute, version);
        });
    }

    fn known(&self, version: Version) -> bool {
        let current = self.current.as_ref();
        self.new.attribute.known(version)
            && current.is_none_or(|current| version.is_v2() && current.known(version))
    }
}

attribute_response!();
