//! Managed objects as they travel in Register and Get. Enter through [`Object`].

mod key_block;
mod split;
mod wrap;

pub use key_block::{KeyBlock, KeyMaterial, KeyValue};
pub use split::SplitKey;
pub use wrap::{KeyInformation, KeyWrappingData, KeyWrappingSpecification};

use crate::attribute::Attributes;
use crate::enums::{
    CertificateRequestType, CertificateType, KeyFormatType, ObjectType, OpaqueDataType,
    SecretDataType,
};
use crate::tag::Tag;
use crate::ttlv::{Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, SecretBytes, wire_struct};

/// A managed object with its content.
#[derive(Debug)]
pub enum Object {
    /// Symmetric key.
    SymmetricKey(KeyBlock),
    /// Public key.
    PublicKey(KeyBlock),
    /// Private key.
    PrivateKey(KeyBlock),
    /// Password or seed.
    SecretData(SecretData),
    /// Data the server does not look into.
    OpaqueObject(OpaqueObject),
    /// Certificate.
    Certificate(Certificate),
    /// Template (1.x).
    Template(Attributes),
    /// One part of a key.
    SplitKey(SplitKey),
    /// PGP key (1.2).
    PgpKey(PgpKey),
    /// Certificate request (2.0).
    CertificateRequest(CertificateRequest),
}

wire_struct! {
    /// Password or seed.
    #[derive(Debug)]
    pub struct SecretData {
        /// Kind.
        kind: one SecretDataType = SecretDataType @ V1_0,
        /// Content.
        block: one KeyBlock = KeyBlock @ V1_0,
    }
}

wire_struct! {
    /// Data the server does not look into.
    #[derive(Debug)]
    pub struct OpaqueObject {
        /// Kind, a vendor's number.
        kind: one OpaqueDataType = OpaqueDataType @ V1_0,
        /// Content.
        value: one SecretBytes = OpaqueDataValue @ V1_0,
    }
}

wire_struct! {
    /// Certificate.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Certificate {
        /// Kind.
        kind: one CertificateType = CertificateType @ V1_0,
        /// DER or PGP bytes.
        value: one Vec<u8> = CertificateValue @ V1_0,
    }
}

wire_struct! {
    /// PGP key.
    #[derive(Debug)]
    pub struct PgpKey {
        /// Version of the PGP message format.
        version: one i32 = PGPKeyVersion @ V1_2,
        /// Content.
        block: one KeyBlock = KeyBlock @ V1_2,
    }
}

wire_struct! {
    /// Certificate request.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct CertificateRequest {
        /// Kind.
        kind: one CertificateRequestType = CertificateRequestType @ V2_0,
        /// The request in the form of its kind.
        value: one Vec<u8> = CertificateRequestValue @ V2_0,
    }
}

impl Object {
    /// A symmetric key in Raw form.
    pub fn raw_key(block: KeyBlock) -> Self {
        Self::SymmetricKey(KeyBlock { format: KeyFormatType::Raw, ..block })
    }

    /// Its type.
    pub fn kind(&self) -> ObjectType {
        match self {
            Self::SymmetricKey(_) => ObjectType::SymmetricKey,
            Self::PublicKey(_) => ObjectType::PublicKey,
            Self::PrivateKey(_) => ObjectType::PrivateKey,
            Self::SecretData(_) => ObjectType::SecretData,
            Self::OpaqueObject(_) => ObjectType::OpaqueObject,
            Self::Certificate(_) => ObjectType::Certificate,
            Self::Template(_) => ObjectType::Template,
            Self::SplitKey(_) => ObjectType::SplitKey,
            Self::PgpKey(_) => ObjectType::PgpKey,
            Self::CertificateRequest(_) => ObjectType::CertificateRequest,
        }
    }

    /// The key block, when the object has one.
    pub fn key_block(&self) -> Option<&KeyBlock> {
        match self {
            Self::SymmetricKey(block) | Self::PublicKey(block) | Self::PrivateKey(block) => {
                Some(block)
            }
            Self::SecretData(secret) => Some(&secret.block),
            Self::SplitKey(part) => Some(&part.block),
            Self::PgpKey(key) => Some(&key.block),
            _ => None,
        }
    }

    /// Reads `item` when its tag is that of an object.
    pub(crate) fn from_item(item: &Item<'_>) -> Result<Option<Self>> {
        let block = || KeyBlock::read(&item.required(Tag::KeyBlock)?);
        Ok(Some(match item.tag() {
            Tag::SymmetricKey => Self::SymmetricKey(block()?),
            Tag::PublicKey => Self::PublicKey(block()?),
            Tag::PrivateKey => Self::PrivateKey(block()?),
            Tag::SecretData => Self::SecretData(Field::read(item)?),
            Tag::OpaqueObject => Self::OpaqueObject(Field::read(item)?),
            Tag::Certificate => Self::Certificate(Field::read(item)?),
            Tag::Template => {
                let mut attributes = Attributes::default();
                attributes.absorb(item)?;
                Self::Template(attributes)
            }
            Tag::SplitKey => Self::SplitKey(Field::read(item)?),
            Tag::PGPKey => Self::PgpKey(Field::read(item)?),
            Tag::CertificateRequest => Self::CertificateRequest(Field::read(item)?),
            _ => return Ok(None),
        }))
    }

    /// Writes the object under the tag of its type.
    pub(crate) fn encode(&self, w: &mut Writer, version: Version) {
        let block = |w: &mut Writer, tag, block: &KeyBlock| {
            w.structure(tag, |w| block.write(w, Tag::KeyBlock, version));
        };
        match self {
            Self::SymmetricKey(key) => block(w, Tag::SymmetricKey, key),
            Self::PublicKey(key) => block(w, Tag::PublicKey, key),
            Self::PrivateKey(key) => block(w, Tag::PrivateKey, key),
            Self::SecretData(secret) => secret.write(w, Tag::SecretData, version),
            Self::OpaqueObject(opaque) => opaque.write(w, Tag::OpaqueObject, version),
            Self::Certificate(certificate) => certificate.write(w, Tag::Certificate, version),
            Self::Template(attributes) => {
                w.structure(Tag::Template, |w| attributes.encode_bare(w, version));
            }
            Self::SplitKey(part) => part.write(w, Tag::SplitKey, version),
            Self::PgpKey(key) => key.write(w, Tag::PGPKey, version),
            Self::CertificateRequest(request) => {
                request.write(w, Tag::CertificateRequest, version);
            }
        }
    }

    /// Whether `version` has this object in this form.
    pub fn known(&self, version: Version) -> bool {
        let content = match self {
            Self::SecretData(secret) => secret.known(version),
            Self::OpaqueObject(opaque) => opaque.known(version),
            Self::Certificate(certificate) => certificate.known(version),
            Self::Template(_) => !version.is_v2(),
            Self::SplitKey(part) => part.known(version),
            Self::PgpKey(key) => key.known(version),
            Self::CertificateRequest(request) => request.known(version),
            _ => self.key_block().is_none_or(|block| block.known(version)),
        };
        content && self.kind().known(version)
    }
}
