//! Register: stores an object the client brings. (KMIP 2.1, 6.1)

use super::create::ProtectionStorageMasks;
use crate::attribute::Attributes;
use crate::enums::ObjectType;
use crate::object::Object;
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set};

/// Request payload.
#[derive(Debug)]
pub struct Request {
    /// Type as announced; [`Object::kind`] is what was sent.
    pub object_type: ObjectType,
    /// Wanted attributes.
    pub attributes: Attributes,
    /// The object; absent when the server is to know of a key it does not hold (1.2).
    pub object: Option<Object>,
    /// Where the object may be kept (2.0).
    pub protection_storage_masks: Option<ProtectionStorageMasks>,
}

impl Request {
    /// Registers `object` with `attributes`.
    pub fn new(object: Object, attributes: Attributes) -> Self {
        Self {
            object_type: object.kind(),
            attributes,
            object: Some(object),
            protection_storage_masks: None,
        }
    }
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut object_type, mut object, mut masks) = (None, None, None);
        let mut attributes = Attributes::default();
        for child in item.children()? {
            match child.tag() {
                Tag::ObjectType => set(&mut object_type, &child)?,
                Tag::ProtectionStorageMasks => set(&mut masks, &child)?,
                Tag::TemplateAttribute | Tag::Attributes => attributes.absorb(&child)?,
                tag => {
                    let found = Object::from_item(&child)?;
                    if found.is_some() && object.is_some() {
                        return Err(Error::Repeated { offset: child.offset(), tag });
                    }
                    object = found.or(object);
                }
            }
        }
        Ok(Self {
            object_type: object_type
                .ok_or(Error::Missing { offset: item.offset(), tag: Tag::ObjectType })?,
            attributes,
            object,
            protection_storage_masks: masks,
        })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            self.object_type.write(w, Tag::ObjectType, version);
            self.attributes.encode_template(w, version);
            if let Some(object) = &self.object {
                object.encode(w, version);
            }
            if let Some(masks) = self.protection_storage_masks.as_ref().filter(|_| version.is_v2())
            {
                put(masks, w, Tag::ProtectionStorageMasks, version);
            }
        });
    }

    fn known(&self, version: Version) -> bool {
        self.object_type.known(version)
            && self.attributes.all_known(version)
            && self.object.as_ref().is_none_or(|o| o.known(version))
    }
}

/// Response payload: as that of Create, without the object type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The new object.
    pub id: String,
    /// Attributes the server set by itself (1.x only).
    pub attributes: Attributes,
}

impl Field for Response {
    fn read(item: &Item<'_>) -> Result<Self> {
        let mut id = None;
        let mut attributes = Attributes::default();
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => set(&mut id, &child)?,
                Tag::TemplateAttribute => attributes.absorb(&child)?,
                _ => {}
            }
        }
        let missing = Error::Missing { offset: item.offset(), tag: Tag::UniqueIdentifier };
        Ok(Self { id: id.ok_or(missing)?, attributes })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            w.text(Tag::UniqueIdentifier, &self.id);
            if !version.is_v2() && self.attributes.any_known(version) {
                self.attributes.encode_template(w, version);
            }
        });
    }
}
