//! Put: a server sends a client an object. (KMIP 2.1, 6.2)

use crate::attribute::Attributes;
use crate::enums::PutFunction;
use crate::object::Object;
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set, wire_struct};

/// Request payload, from the server.
#[derive(Debug)]
pub struct Request {
    /// The object.
    pub id: String,
    /// Whether it takes the place of another.
    pub function: PutFunction,
    /// Of which; there when it does.
    pub replaced: Option<String>,
    /// The object itself.
    pub object: Object,
    /// Attributes of it.
    pub attributes: Attributes,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut id, mut function, mut replaced, mut object) = (None, None, None, None);
        let mut attributes = Attributes::default();
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => set(&mut id, &child)?,
                Tag::PutFunction => set(&mut function, &child)?,
                Tag::ReplacedUniqueIdentifier => set(&mut replaced, &child)?,
                Tag::Attribute | Tag::Attributes => attributes.absorb(&child)?,
                _ => object = Object::from_item(&child)?.or(object),
            }
        }
        let missing = |tag| Error::Missing { offset: item.offset(), tag };
        Ok(Self {
            id: id.ok_or(missing(Tag::UniqueIdentifier))?,
            function: function.ok_or(missing(Tag::PutFunction))?,
            replaced,
            object: object.ok_or(missing(Tag::SymmetricKey))?,
            attributes,
        })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            w.text(Tag::UniqueIdentifier, &self.id);
            put(&self.function, w, Tag::PutFunction, version);
            if let Some(replaced) = &self.replaced {
                w.text(Tag::ReplacedUniqueIdentifier, replaced);
            }
            self.object.encode(w, version);
            if !self.attributes.is_empty() {
                self.attributes.encode_bare(w, version);
            }
        });
    }

    fn known(&self, version: Version) -> bool {
        self.object.known(version)
    }
}

wire_struct! {
    /// Response payload, from the client: nothing.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {}
}
