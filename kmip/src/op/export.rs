//! Export: an object with all its attributes, for another server to import. (KMIP 2.1, 6.1)

use crate::attribute::{Attributes, UniqueIdentifier};
use crate::enums::{KeyCompressionType, KeyFormatType, KeyWrapType, ObjectType};
use crate::object::{KeyWrappingSpecification, Object};
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, set, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// The object; absent means the ID placeholder.
        id: opt UniqueIdentifier = UniqueIdentifier @ V1_4,
        /// Wanted form.
        key_format_type: opt KeyFormatType = KeyFormatType @ V1_4,
        /// Wanted wrapping.
        key_wrap_type: opt KeyWrapType = KeyWrapType @ V1_4,
        /// Wanted form of a point.
        key_compression_type: opt KeyCompressionType = KeyCompressionType @ V1_4,
        /// How to wrap.
        key_wrapping_specification: opt KeyWrappingSpecification = KeyWrappingSpecification @ V1_4,
    }
}

/// Response payload.
#[derive(Debug)]
pub struct Response {
    /// The object's identifier.
    pub id: String,
    /// All its attributes.
    pub attributes: Attributes,
    /// The object; its type is written from it.
    pub object: Object,
}

impl Field for Response {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut id, mut object) = (None, None);
        let mut attributes = Attributes::default();
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => set(&mut id, &child)?,
                Tag::Attribute | Tag::Attributes => attributes.absorb(&child)?,
                _ => object = Object::from_item(&child)?.or(object),
            }
        }
        let missing = |tag| Error::Missing { offset: item.offset(), tag };
        Ok(Self {
            id: id.ok_or(missing(Tag::UniqueIdentifier))?,
            attributes,
            object: object.ok_or(missing(Tag::SymmetricKey))?,
        })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            ObjectType::write(&self.object.kind(), w, Tag::ObjectType, version);
            w.text(Tag::UniqueIdentifier, &self.id);
            self.attributes.encode_bare(w, version);
            self.object.encode(w, version);
        });
    }

    fn known(&self, version: Version) -> bool {
        self.object.known(version)
    }
}
