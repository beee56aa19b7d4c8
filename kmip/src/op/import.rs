//! Import: an object with all its attributes, as another server exported it. (KMIP 2.1, 6.1)

use crate::attribute::Attributes;
use crate::enums::{KeyWrapType, ObjectType};
use crate::object::Object;
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set, wire_struct};

/// Request payload.
#[derive(Debug)]
pub struct Request {
    /// The identifier it shall have here.
    pub id: String,
    /// Type as announced; [`Object::kind`] is what was sent.
    pub object_type: ObjectType,
    /// Whether an object that has the identifier already is replaced.
    pub replace_existing: Option<bool>,
    /// Whether a wrapped key is kept wrapped.
    pub key_wrap_type: Option<KeyWrapType>,
    /// All attributes.
    pub attributes: Attributes,
    /// The object.
    pub object: Object,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut id, mut object_type, mut replace_existing) = (None, None, None);
        let (mut key_wrap_type, mut object) = (None, None);
        let mut attributes = Attributes::default();
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => set(&mut id, &child)?,
                Tag::ObjectType => set(&mut object_type, &child)?,
                Tag::ReplaceExisting => set(&mut replace_existing, &child)?,
                Tag::KeyWrapType => set(&mut key_wrap_type, &child)?,
                Tag::Attribute | Tag::Attributes => attributes.absorb(&child)?,
                tag => {
                    let found = Object::from_item(&child)?;
                    if found.is_some() && object.is_some() {
                        return Err(Error::Repeated { offset: child.offset(), tag });
                    }
                    object = found.or(object);
                }
            }
        }
        let missing = |tag| Error::Missing { offset: item.offset(), tag };
        let object = object.ok_or(missing(Tag::SymmetricKey))?;
        Ok(Self {
            id: id.ok_or(missing(Tag::UniqueIdentifier))?,
            object_type: object_type.unwrap_or(object.kind()),
            replace_existing,
            key_wrap_type,
            attributes,
            object,
        })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            w.text(Tag::UniqueIdentifier, &self.id);
            self.object_type.write(w, Tag::ObjectType, version);
            if let Some(replace) = &self.replace_existing {
                put(replace, w, Tag::ReplaceExisting, version);
            }
            if let Some(kind) = &self.key_wrap_type {
                put(kind, w, Tag::KeyWrapType, version);
            }
            self.attributes.encode_bare(w, version);
            self.object.encode(w, version);
        });
    }

    fn known(&self, version: Version) -> bool {
        self.object.known(version) && self.attributes.all_known(version)
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {
        /// The object.
        id: one String = UniqueIdentifier @ V1_4,
    }
}
