//! Key blocks. Key material stays in buffers that are overwritten when dropped.

use super::KeyWrappingData;
use crate::attribute::Attributes;
use crate::enums::{CryptographicAlgorithm, KeyCompressionType, KeyFormatType};
use crate::tag::Tag;
use crate::ttlv::{Item, Result, Type, Writer};
use crate::version::Version;
use crate::wire::{Field, SecretBytes, wire_struct};

wire_struct! {
    /// A key with what is needed to understand it.
    #[derive(Debug)]
    pub struct KeyBlock {
        /// Form of the material.
        format: one KeyFormatType = KeyFormatType @ V1_0,
        /// Form of an elliptic-curve point.
        compression: opt KeyCompressionType = KeyCompressionType @ V1_0,
        /// The key; absent when the server does not hold it (1.2).
        value: opt KeyValue = KeyValue @ V1_0,
        /// Algorithm.
        algorithm: opt CryptographicAlgorithm = CryptographicAlgorithm @ V1_0,
        /// Length in bits.
        length: opt i32 = CryptographicLength @ V1_0,
        /// How the key is wrapped, if it is.
        wrapping: opt KeyWrappingData = KeyWrappingData @ V1_0,
    }
}

/// The key itself.
#[derive(Debug)]
pub enum KeyValue {
    /// Material and the attributes sent inside the key value.
    Plain {
        /// Material.
        material: KeyMaterial,
        /// Attributes inside the key value.
        attributes: Attributes,
    },
    /// A byte string in place of the structure: a wrapped key value, or from some clients the bare
    /// material.
    Bytes(SecretBytes),
}

/// Key material in one of its two forms.
#[derive(Debug)]
pub enum KeyMaterial {
    /// Bytes in the form that Key Format Type names.
    Bytes(SecretBytes),
    /// Fields of a transparent key: the content of the structure, still TTLV.
    Transparent(SecretBytes),
}

impl KeyBlock {
    /// A symmetric key in Raw form, not wrapped.
    pub fn raw(
        material: SecretBytes,
        algorithm: Option<CryptographicAlgorithm>,
        length: Option<i32>,
    ) -> Self {
        let material = KeyMaterial::Bytes(material);
        Self {
            format: KeyFormatType::Raw,
            compression: None,
            value: Some(KeyValue::Plain { material, attributes: Attributes::default() }),
            algorithm,
            length,
            wrapping: None,
        }
    }

    /// The material as bytes when it is neither wrapped nor transparent.
    pub fn plain_bytes(&self) -> Option<&SecretBytes> {
        if self.wrapping.is_some() {
            return None;
        }
        match self.value.as_ref()? {
            KeyValue::Plain { material: KeyMaterial::Bytes(bytes), .. }
            | KeyValue::Bytes(bytes) => Some(bytes),
            KeyValue::Plain { .. } => None,
        }
    }
}

impl Field for KeyValue {
    fn read(item: &Item<'_>) -> Result<Self> {
        if item.kind() == Type::ByteString {
            return Ok(Self::Bytes(Field::read(item)?));
        }
        let mut attributes = Attributes::default();
        for child in item.children()? {
            if matches!(child.tag(), Tag::Attribute | Tag::Attributes) {
                attributes.absorb(&child)?;
            }
        }
        let material = Field::read(&item.required(Tag::KeyMaterial)?)?;
        Ok(Self::Plain { material, attributes })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        match self {
            Self::Bytes(bytes) => bytes.write(w, tag, version),
            Self::Plain { material, attributes } => w.structure(tag, |w| {
                material.write(w, Tag::KeyMaterial, version);
                if attributes.any_known(version) {
                    attributes.encode_bare(w, version);
                }
            }),
        }
    }
}

impl Field for KeyMaterial {
    fn read(item: &Item<'_>) -> Result<Self> {
        if item.kind() == Type::Structure {
            return Ok(Self::Transparent(SecretBytes::copy_from(item.body())));
        }
        Ok(Self::Bytes(Field::read(item)?))
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        match self {
            Self::Bytes(bytes) => bytes.write(w, tag, version),
            Self::Transparent(content) => {
                w.structure(tag, |w| content.expose(|items| w.encoded(items)));
            }
        }
    }
}
