//! Create: a new symmetric key made by the server. (KMIP 2.1, 6.1)

use crate::attribute::Attributes;
use crate::enums::ObjectType;
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set, wire_struct};

/// Request payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to create.
    pub object_type: ObjectType,
    /// Wanted attributes.
    pub attributes: Attributes,
    /// Where the object may be kept (2.0).
    pub protection_storage_masks: Option<ProtectionStorageMasks>,
}

wire_struct! {
    /// Places an object may be kept in (2.0).
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct ProtectionStorageMasks {
        /// Bit masks.
        masks: many i32 = ProtectionStorageMask @ V2_0,
    }
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut object_type, mut masks) = (None, None);
        let mut attributes = Attributes::default();
        for child in item.children()? {
            match child.tag() {
                Tag::ObjectType => set(&mut object_type, &child)?,
                Tag::ProtectionStorageMasks => set(&mut masks, &child)?,
                Tag::TemplateAttribute | Tag::Attributes => attributes.absorb(&child)?,
                _ => {}
            }
        }
        Ok(Self {
            object_type: object_type
                .ok_or(Error::Missing { offset: item.offset(), tag: Tag::ObjectType })?,
            attributes,
            protection_storage_masks: masks,
        })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            self.object_type.write(w, Tag::ObjectType, version);
            self.attributes.encode_template(w, version);
            if let Some(masks) = self.protection_storage_masks.as_ref().filter(|_| version.is_v2())
            {
                put(masks, w, Tag::ProtectionStorageMasks, version);
            }
        });
    }

    fn known(&self, version: Version) -> bool {
        self.object_type.known(version) && self.attributes.all_known(version)
    }
}

/// Response payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// What was created.
    pub object_type: ObjectType,
    /// The new object.
    pub id: String,
    /// Attributes the server set by itself (1.x only).
    pub attributes: Attributes,
}

impl Field for Response {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut object_type, mut id) = (None, None);
        let mut attributes = Attributes::default();
        for child in item.children()? {
            match child.tag() {
                Tag::ObjectType => set(&mut object_type, &child)?,
                Tag::UniqueIdentifier => set(&mut id, &child)?,
                Tag::TemplateAttribute => attributes.absorb(&child)?,
                _ => {}
            }
        }
        let missing = |tag| Error::Missing { offset: item.offset(), tag };
        Ok(Self {
            object_type: object_type.ok_or(missing(Tag::ObjectType))?,
            id: id.ok_or(missing(Tag::UniqueIdentifier))?,
            attributes,
        })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            self.object_type.write(w, Tag::ObjectType, version);
            w.text(Tag::UniqueIdentifier, &self.id);
            if !version.is_v2() && self.attributes.any_known(version) {
                self.attributes.encode_template(w, version);
            }
        });
    }

    fn known(&self, version: Version) -> bool {
        self.object_type.known(version)
    }
}
