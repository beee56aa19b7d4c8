//! Re-key: a new symmetric key takes the place of an old one. (KMIP 2.1, 6.1)

use super::create::ProtectionStorageMasks;
use crate::attribute::{Attributes, UniqueIdentifier};
use crate::tag::Tag;
use crate::ttlv::{Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, Interval, put, set};

/// Request payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The old key; absent means the ID placeholder.
    pub id: Option<UniqueIdentifier>,
    /// From the new key's Initial Date to its Activation Date.
    pub offset: Option<Interval>,
    /// Attributes that differ from those of the old key.
    pub attributes: Attributes,
    /// Where the new key may be kept (2.0).
    pub protection_storage_masks: Option<ProtectionStorageMasks>,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let mut request = Self::default();
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => set(&mut request.id, &child)?,
                Tag::Offset => set(&mut request.offset, &child)?,
                Tag::TemplateAttribute | Tag::Attributes => request.attributes.absorb(&child)?,
                Tag::ProtectionStorageMasks => set(&mut request.protection_storage_masks, &child)?,
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
            if let Some(offset) = &self.offset {
                put(offset, w, Tag::Offset, version);
            }
            if !self.attributes.is_empty() {
                self.attributes.encode_template(w, version);
            }
            if let Some(masks) = self.protection_storage_masks.as_ref().filter(|_| version.is_v2())
            {
                put(masks, w, Tag::ProtectionStorageMasks, version);
            }
        });
    }

    fn known(&self, version: Version) -> bool {
        self.attributes.all_known(version)
    }
}

/// Response payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The new key.
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
