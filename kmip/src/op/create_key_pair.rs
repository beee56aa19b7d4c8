//! Create Key Pair: a new asymmetric key pair made by the server. (KMIP 2.1, 6.1)

use super::create::ProtectionStorageMasks;
use crate::attribute::Attributes;
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set};

/// Request payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Wanted attributes of both keys.
    pub common: Attributes,
    /// Wanted attributes of the private key.
    pub private: Attributes,
    /// Wanted attributes of the public key.
    pub public: Attributes,
    /// Where both keys may be kept (2.0).
    pub common_masks: Option<ProtectionStorageMasks>,
    /// Where the private key may be kept (2.0).
    pub private_masks: Option<ProtectionStorageMasks>,
    /// Where the public key may be kept (2.0).
    pub public_masks: Option<ProtectionStorageMasks>,
}

/// Tags of the three lists: 1.x and 2.x.
const COMMON: (Tag, Tag) = (Tag::CommonTemplateAttribute, Tag::CommonAttributes);
const PRIVATE: (Tag, Tag) = (Tag::PrivateKeyTemplateAttribute, Tag::PrivateKeyAttributes);
const PUBLIC: (Tag, Tag) = (Tag::PublicKeyTemplateAttribute, Tag::PublicKeyAttributes);
/// Those of the masks, in the same order.
const MASKS: [Tag; 3] = [
    Tag::CommonProtectionStorageMasks,
    Tag::PrivateProtectionStorageMasks,
    Tag::PublicProtectionStorageMasks,
];

impl Request {
    /// Where both keys, the private key and the public key may be kept.
    pub fn masks(&self) -> [Option<&ProtectionStorageMasks>; 3] {
        [&self.common_masks, &self.private_masks, &self.public_masks].map(Option::as_ref)
    }

    /// Writes the three lists of attributes, and the three of masks.
    pub(super) fn write_lists(&self, w: &mut Writer, version: Version) {
        let lists = [(&self.common, COMMON), (&self.private, PRIVATE), (&self.public, PUBLIC)];
        for (list, tags) in lists.into_iter().filter(|(list, _)| !list.is_empty()) {
            list.encode_under(w, version, tags);
        }
        for (masks, tag) in self.masks().into_iter().zip(MASKS).filter(|_| version.is_v2()) {
            if let Some(masks) = masks {
                put(masks, w, tag, version);
            }
        }
    }
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let mut request = Self::default();
        for child in item.children()? {
            match child.tag() {
                Tag::CommonTemplateAttribute | Tag::CommonAttributes => {
                    request.common.absorb(&child)?;
                }
                Tag::PrivateKeyTemplateAttribute | Tag::PrivateKeyAttributes => {
                    request.private.absorb(&child)?;
                }
                Tag::PublicKeyTemplateAttribute | Tag::PublicKeyAttributes => {
                    request.public.absorb(&child)?;
                }
                Tag::CommonProtectionStorageMasks => set(&mut request.common_masks, &child)?,
                Tag::PrivateProtectionStorageMasks => set(&mut request.private_masks, &child)?,
                Tag::PublicProtectionStorageMasks => set(&mut request.public_masks, &child)?,
                _ => {}
            }
        }
        Ok(request)
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| self.write_lists(w, version));
    }

    fn known(&self, version: Version) -> bool {
        [&self.common, &self.private, &self.public].iter().all(|list| list.all_known(version))
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
        let (mut private_id, mut public_id) = (None, None);
        let (mut private, mut public) = (Attributes::default(), Attributes::default());
        for child in item.children()? {
            match child.tag() {
                Tag::PrivateKeyUniqueIdentifier => set(&mut private_id, &child)?,
                Tag::PublicKeyUniqueIdentifier => set(&mut public_id, &child)?,
                Tag::PrivateKeyTemplateAttribute => private.absorb(&child)?,
                Tag::PublicKeyTemplateAttribute => public.absorb(&child)?,
                _ => {}
            }
        }
        let missing = |tag| Error::Missing { offset: item.offset(), tag };
        Ok(Self {
            private_id: private_id.ok_or(missing(Tag::PrivateKeyUniqueIdentifier))?,
            public_id: public_id.ok_or(missing(Tag::PublicKeyUniqueIdentifier))?,
            private,
            public,
        })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            w.text(Tag::PrivateKeyUniqueIdentifier, &self.private_id);
            w.text(Tag::PublicKeyUniqueIdentifier, &self.public_id);
            for (list, tags) in [(&self.private, PRIVATE), (&self.public, PUBLIC)] {
                if !version.is_v2() && list.any_known(version) {
                    list.encode_under(w, version, tags);
                }
            }
        });
    }
}
