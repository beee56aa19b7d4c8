//! Re-certify: a new certificate takes the place of an old one of the same key. (KMIP 2.1, 6.1)

use super::certify;
use crate::attribute::Attributes;
use crate::tag::Tag;
use crate::ttlv::{Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, Interval, put, set};

/// Request payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// As for Certify, where the identifier is that of the old certificate.
    pub certify: certify::Request,
    /// From the new certificate's Initial Date to its Activation Date.
    pub offset: Option<Interval>,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let mut request = Self::default();
        for child in item.children()? {
            if child.tag() == Tag::Offset {
                set(&mut request.offset, &child)?;
            } else {
                request.certify.take(&child)?;
            }
        }
        Ok(request)
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            self.certify.write_head(w, version);
            if let Some(offset) = &self.offset {
                put(offset, w, Tag::Offset, version);
            }
            self.certify.write_tail(w, version);
        });
    }

    fn known(&self, version: Version) -> bool {
        self.certify.known(version)
    }
}

/// Response payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The new certificate.
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
        let Self { id, attributes } = self.clone();
        certify::Response { id, attributes }.write(w, tag, version);
    }
}
