//! Create Split Key: splits a key, or a new one, into parts. (KMIP 2.1, 6.1)

use super::create::ProtectionStorageMasks;
use crate::attribute::{Attributes, UniqueIdentifier};
use crate::enums::{ObjectType, SplitKeyMethod};
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{BigInteger, Field, put, set};

/// Request payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What a new key would be.
    pub object_type: ObjectType,
    /// The key to split; absent means a new one.
    pub id: Option<UniqueIdentifier>,
    /// Number of parts.
    pub parts: i32,
    /// How many parts give the key back.
    pub threshold: i32,
    /// How to split.
    pub method: SplitKeyMethod,
    /// The prime, for sharing in a prime field.
    pub prime_field_size: Option<BigInteger>,
    /// Attributes of the parts.
    pub attributes: Attributes,
    /// Where the parts may be kept (2.0).
    pub protection_storage_masks: Option<ProtectionStorageMasks>,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut object_type, mut id, mut parts, mut threshold) = (None, None, None, None);
        let (mut method, mut prime_field_size, mut masks) = (None, None, None);
        let mut attributes = Attributes::default();
        for child in item.children()? {
            match child.tag() {
                Tag::ObjectType => set(&mut object_type, &child)?,
                Tag::UniqueIdentifier => set(&mut id, &child)?,
                Tag::SplitKeyParts => set(&mut parts, &child)?,
                Tag::SplitKeyThreshold => set(&mut threshold, &child)?,
                Tag::SplitKeyMethod => set(&mut method, &child)?,
                Tag::PrimeFieldSize => set(&mut prime_field_size, &child)?,
                Tag::TemplateAttribute | Tag::Attributes => attributes.absorb(&child)?,
                Tag::ProtectionStorageMasks => set(&mut masks, &child)?,
                _ => {}
            }
        }
        let missing = |tag| Error::Missing { offset: item.offset(), tag };
        Ok(Self {
            object_type: object_type.ok_or(missing(Tag::ObjectType))?,
            id,
            parts: parts.ok_or(missing(Tag::SplitKeyParts))?,
            threshold: threshold.ok_or(missing(Tag::SplitKeyThreshold))?,
            method: method.ok_or(missing(Tag::SplitKeyMethod))?,
            prime_field_size,
            attributes,
            protection_storage_masks: masks,
        })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            self.object_type.write(w, Tag::ObjectType, version);
            if let Some(id) = &self.id {
                put(id, w, Tag::UniqueIdentifier, version);
            }
            w.integer(Tag::SplitKeyParts, self.parts);
            w.integer(Tag::SplitKeyThreshold, self.threshold);
            self.method.write(w, Tag::SplitKeyMethod, version);
            if let Some(prime) = &self.prime_field_size {
                put(prime, w, Tag::PrimeFieldSize, version);
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
            && self.method.known(version)
            && self.attributes.all_known(version)
    }
}

/// Response payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The parts, in order.
    pub ids: Vec<String>,
    /// Attributes the server set by itself (1.x only).
    pub attributes: Attributes,
}

impl Field for Response {
    fn read(item: &Item<'_>) -> Result<Self> {
        let mut response = Self { ids: Vec::new(), attributes: Attributes::default() };
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => response.ids.push(Field::read(&child)?),
                Tag::TemplateAttribute => response.attributes.absorb(&child)?,
                _ => {}
            }
        }
        Ok(response)
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            for id in &self.ids {
                w.text(Tag::UniqueIdentifier, id);
            }
            if !version.is_v2() && self.attributes.any_known(version) {
                self.attributes.encode_template(w, version);
            }
        });
    }
}
