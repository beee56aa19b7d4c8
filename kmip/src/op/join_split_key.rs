//! Join Split Key: makes the key again out of its parts. (KMIP 2.1, 6.1)

use super::create::ProtectionStorageMasks;
use crate::attribute::{Attributes, UniqueIdentifier};
use crate::enums::{ObjectType, SecretDataType};
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set};

/// Request payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What the parts make.
    pub object_type: ObjectType,
    /// The parts.
    pub ids: Vec<UniqueIdentifier>,
    /// Kind of secret data, when that is what the parts make.
    pub secret_data_type: Option<SecretDataType>,
    /// Attributes of the object made.
    pub attributes: Attributes,
    /// Where it may be kept (2.0).
    pub protection_storage_masks: Option<ProtectionStorageMasks>,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut object_type, mut secret_data_type, mut masks) = (None, None, None);
        let (mut ids, mut attributes) = (Vec::new(), Attributes::default());
        for child in item.children()? {
            match child.tag() {
                Tag::ObjectType => set(&mut object_type, &child)?,
                Tag::UniqueIdentifier => ids.push(Field::read(&child)?),
                Tag::SecretDataType => set(&mut secret_data_type, &child)?,
                Tag::TemplateAttribute | Tag::Attributes => attributes.absorb(&child)?,
                Tag::ProtectionStorageMasks => set(&mut masks, &child)?,
                _ => {}
            }
        }
        let missing = Error::Missing { offset: item.offset(), tag: Tag::ObjectType };
        Ok(Self {
            object_type: object_type.ok_or(missing)?,
            ids,
            secret_data_type,
            attributes,
            protection_storage_masks: masks,
        })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            self.object_type.write(w, Tag::ObjectType, version);
            for id in &self.ids {
                put(id, w, Tag::UniqueIdentifier, version);
            }
            if let Some(kind) = &self.secret_data_type {
                put(kind, w, Tag::SecretDataType, version);
            }
            self.attributes.encode_template(w, version);
            if let Some(masks) = self.protection_storage_masks.as_ref().filter(|_| version.is_v2())
            {
                put(masks, w, Tag::ProtectionStorageMasks, version);
            }
        });
    }

    fn known(&self, version: Version) -> bool {
        self.object_type.known(version)
            && self.ids.iter().all(|id| id.known(version))
            && self.attributes.all_known(version)
    }
}

/// Response payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The object made.
    pub id: String,
    /// Attributes the server set by itself (1.x only).
    pub attributes: Attributes,
}

impl Field for Response {
    fn read(item: &Item<'_>) -> Result<Self> {
        let super::register::Response { id, attributes } = Field::read(item)?;
        Ok(Self { id, attributes })
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
