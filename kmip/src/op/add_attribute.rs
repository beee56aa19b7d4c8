//! Add Attribute: one more attribute, or one more instance of it. (KMIP 2.1, 6.1)

use crate::attribute::{Instance, UniqueIdentifier};
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set};

/// Request payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The object; absent means the ID placeholder.
    pub id: Option<UniqueIdentifier>,
    /// What to add, without an index.
    pub attribute: Instance,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut id, mut attribute) = (None, None);
        for child in item.children()? {
            match child.tag() {
                Tag::UniqueIdentifier => set(&mut id, &child)?,
                Tag::Attribute | Tag::NewAttribute => {
                    attribute = Some(Instance::read_one(&child)?);
                }
                _ => {}
            }
        }
        let missing = Error::Missing { offset: item.offset(), tag: Tag::Attribute };
        Ok(Self { id, attribute: attribute.ok_or(missing)? })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            if let Some(id) = &self.id {
                put(id, w, Tag::UniqueIdentifier, version);
            }
            self.attribute.write_one(w, Tag::NewAttribute, version);
        });
    }

    fn known(&self, version: Version) -> bool {
        self.attribute.attribute.known(version)
    }
}

/// The response payload of Add, Modify and Delete Attribute.
macro_rules! attribute_response {
    () => {
        /// Response payload.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Response {
            /// The object.
            pub id: String,
            /// The attribute with its index, as it is now or was until deleted (1.x only).
            pub attribute: Option<$crate::attribute::Instance>,
        }

        impl $crate::wire::Field for Response {
            fn read(item: &$crate::ttlv::Item<'_>) -> $crate::ttlv::Result<Self> {
                let (mut id, mut attribute) = (None, None);
                for child in item.children()? {
                    match child.tag() {
                        Tag::UniqueIdentifier => $crate::wire::set(&mut id, &child)?,
                        Tag::Attribute => attribute = Some(Instance::read_one(&child)?),
                        _ => {}
                    }
                }
                let missing = Error::Missing { offset: item.offset(), tag: Tag::UniqueIdentifier };
                Ok(Self { id: id.ok_or(missing)?, attribute })
            }

            fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
                w.structure(tag, |w| {
                    w.text(Tag::UniqueIdentifier, &self.id);
                    let told = self.attribute.as_ref().filter(|_| !version.is_v2());
                    if let Some(told) = told.filter(|told| told.attribute.known(version)) {
                        told.write_one(w, Tag::Attribute, version);
                    }
                });
            }
        }
    };
}
pub(super) use attribute_response;

attribute_response!();
