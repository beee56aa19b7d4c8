//! Delete Attribute: takes an attribute, or an instance of it, away. (KMIP 2.1, 6.1)

use super::add_attribute::attribute_response;
use crate::attribute::{Attribute, AttributeRef, Instance, UniqueIdentifier};
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set};

/// Request payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The object; absent means the ID placeholder.
    pub id: Option<UniqueIdentifier>,
    /// Which attribute.
    pub name: Option<AttributeRef>,
    /// Which instance (1.x); absent means the first.
    pub index: Option<i32>,
    /// Which instance, by its value (2.x).
    pub current: Option<Attribute>,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let mut request = Self::default();
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => set(&mut request.id, &child)?,
                Tag::AttributeIndex => set(&mut request.index, &child)?,
                Tag::AttributeName | Tag::AttributeReference => {
                    request.name = Some(AttributeRef::from_item(&child)?);
                }
                Tag::CurrentAttribute => {
                    request.current = Some(Instance::read_one(&child)?.attribute);
                }
                _ => {}
            }
        }
        Ok(request)
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
            if let Some(name) = &self.name {
                name.encode(w, version);
            }
            if let Some(index) = self.index.filter(|_| !version.is_v2()) {
                w.integer(Tag::AttributeIndex, index);
            }
        });
    }

    /// What is left out could leave the wrong instance to be deleted.
    fn known(&self, version: Version) -> bool {
        let (name, current) = (self.name.as_ref(), self.current.as_ref());
        name.is_none_or(|name| name.known(version))
            && current.is_none_or(|current| version.is_v2() && current.known(version))
            && (self.index.is_none() || !version.is_v2())
    }
}

attribute_response!();
