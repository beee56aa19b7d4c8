//! Re-key Key Pair: a new pair takes the place of an old one. (KMIP 1.1, 4.5; KMIP 2.1, 6.1)

use super::create_key_pair;
use crate::attribute::{Attributes, UniqueIdentifier};
use crate::tag::Tag;
use crate::ttlv::{Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, Interval, put, set};

/// Request payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The old private key; absent means the ID placeholder.
    pub private_id: Option<UniqueIdentifier>,
    /// From the new keys' Initial Date to their Activation Date.
    pub offset: Option<Interval>,
    /// Attributes that differ from those of the old pair.
    pub changes: create_key_pair::Request,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut private_id, mut offset) = (None, None);
        for child in item.children()? {
            match child.tag() {
                Tag::PrivateKeyUniqueIdentifier => set(&mut private_id, &child)?,
                Tag::Offset => set(&mut offset, &child)?,
                _ => {}
            }
        }
        Ok(Self { private_id, offset, changes: Field::read(item)? })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            if let Some(id) = &self.private_id {
                put(id, w, Tag::PrivateKeyUniqueIdentifier, version);
            }
            if let Some(offset) = &self.offset {
                put(offset, w, Tag::Offset, version);
            }
            self.changes.write_lists(w, version);
        });
    }

    fn known(&self, version: Version) -> bool {
        self.changes.known(version)
    }
}

/// Response payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The new private key.
    pub private_id: String,
    /// The new public key.
    pub public_id: String,
    /// Attributes of the private key that the server set by itself (1.x only).
    pub private: Attributes,
    /// Attributes of the public key that the server set by itself (1.x only).
    pub public: Attributes,
}

impl Field for Response {
    fn read(item: &Item<'_>) -> Result<Self> {
        let create_key_pair::Response { private_id, public_id, private, public } =
            Field::read(item)?;
        Ok(Self { private_id, public_id, private, public })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        let Self { private_id, public_id, private, public } = self.clone();
        create_key_pair::Response { private_id, public_id, private, public }.write(w, tag, version);
    }
}
