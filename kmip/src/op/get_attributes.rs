//! Get Attributes: values of named attributes, or of all. (KMIP 2.1, 6.1)

use crate::attribute::{AttributeRef, Attributes, UniqueIdentifier};
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set};

/// Request payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The object; absent means the ID placeholder.
    pub id: Option<UniqueIdentifier>,
    /// Which attributes; none asks for all.
    pub attributes: Vec<AttributeRef>,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let mut request = Self::default();
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => set(&mut request.id, &child)?,
                Tag::AttributeName | Tag::AttributeReference => {
                    request.attributes.push(AttributeRef::from_item(&child)?);
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
            for attribute in &self.attributes {
                attribute.encode(w, version);
            }
        });
    }

    /// A name that is left out could leave none, which asks for all.
    fn known(&self, version: Version) -> bool {
        self.attributes.iter().all(|attribute| attribute.known(version))
    }
}

/// Response payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The object.
    pub id: String,
    /// The attributes it has among those asked for.
    pub attributes: Attributes,
}

impl Field for Response {
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
