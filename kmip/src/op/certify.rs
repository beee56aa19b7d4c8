//! Certify: a certificate for a public key. (KMIP 2.1, 6.1)

use super::create::ProtectionStorageMasks;
use crate::attribute::{Attributes, UniqueIdentifier};
use crate::enums::CertificateRequestType;
use crate::tag::Tag;
use crate::ttlv::{Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, put, set};

/// Request payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The public key; absent means the ID placeholder.
    pub id: Option<UniqueIdentifier>,
    /// A Certificate Request object (2.0).
    pub request_id: Option<UniqueIdentifier>,
    /// Form of [`Request::request`].
    pub request_type: Option<CertificateRequestType>,
    /// The certificate request itself.
    pub request: Option<Vec<u8>>,
    /// Wanted attributes of the certificate.
    pub attributes: Attributes,
    /// Where the certificate may be kept (2.0).
    pub protection_storage_masks: Option<ProtectionStorageMasks>,
}

impl Request {
    /// Takes in one field; `false` when it is none of those that Certify and Re-certify share.
    pub(super) fn take(&mut self, child: &Item<'_>) -> Result<bool> {
        match child.tag() {
            Tag::UniqueIdentifier => set(&mut self.id, child)?,
            Tag::CertificateRequestUniqueIdentifier => set(&mut self.request_id, child)?,
            Tag::CertificateRequestType => set(&mut self.request_type, child)?,
            Tag::CertificateRequest | Tag::CertificateRequestValue => {
                set(&mut self.request, child)?;
            }
            Tag::TemplateAttribute | Tag::Attributes => self.attributes.absorb(child)?,
            Tag::ProtectionStorageMasks => set(&mut self.protection_storage_masks, child)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Writes what comes before the attributes.
    pub(super) fn write_head(&self, w: &mut Writer, version: Version) {
        if let Some(id) = &self.id {
            put(id, w, Tag::UniqueIdentifier, version);
        }
        if let Some(id) = self.request_id.as_ref().filter(|_| version.is_v2()) {
            put(id, w, Tag::CertificateRequestUniqueIdentifier, version);
        }
        if let Some(kind) = &self.request_type {
            put(kind, w, Tag::CertificateRequestType, version);
        }
        if let Some(request) = &self.request {
            let old = Tag::CertificateRequest;
            w.bytes(if version.is_v2() { Tag::CertificateRequestValue } else { old }, request);
        }
    }

    /// Writes the attributes and what comes after them.
    pub(super) fn write_tail(&self, w: &mut Writer, version: Version) {
        if !self.attributes.is_empty() {
            self.attributes.encode_template(w, version);
        }
        if let Some(masks) = self.protection_storage_masks.as_ref().filter(|_| version.is_v2()) {
            put(masks, w, Tag::ProtectionStorageMasks, version);
        }
    }
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let mut request = Self::default();
        for child in item.children()? {
            request.take(&child)?;
        }
        Ok(request)
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            self.write_head(w, version);
            self.write_tail(w, version);
        });
    }

    fn known(&self, version: Version) -> bool {
        (self.request_id.is_none() || version.is_v2()) && self.attributes.all_known(version)
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
        w.structure(tag, |w| {
            w.text(Tag::UniqueIdentifier, &self.id);
            if !version.is_v2() && self.attributes.any_known(version) {
                self.attributes.encode_template(w, version);
            }
        });
    }
}
