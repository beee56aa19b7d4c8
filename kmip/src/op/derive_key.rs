//! Derive Key: a new key or secret from managed ones. (KMIP 2.1, 6.1)

use crate::attribute::{Attributes, CryptographicParameters, UniqueIdentifier};
use crate::enums::{DerivationMethod, ObjectType};
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, SecretBytes, put, set, wire_struct};

wire_struct! {
    /// What the method needs besides the key.
    #[derive(Debug, Default)]
    pub struct DerivationParameters {
        /// How the base key is used.
        cryptographic: opt CryptographicParameters = CryptographicParameters @ V1_0,
        /// IV of a cipher.
        iv: opt Vec<u8> = InitializationVector @ V1_0,
        /// What goes in besides the key.
        data: opt SecretBytes = DerivationData @ V1_0,
        /// Salt.
        salt: opt Vec<u8> = Salt @ V1_0,
        /// Iterations of PBKDF2.
        iterations: opt i32 = IterationCount @ V1_0,
    }
}

/// Request payload.
#[derive(Debug)]
pub struct Request {
    /// What to make.
    pub object_type: ObjectType,
    /// The base key and, if it is kept so, secret data that goes in; a private and a public key
    /// that agree.
    pub ids: Vec<UniqueIdentifier>,
    /// Method.
    pub method: DerivationMethod,
    /// Its parameters.
    pub parameters: DerivationParameters,
    /// Attributes of the new object.
    pub attributes: Attributes,
}

impl Field for Request {
    fn read(item: &Item<'_>) -> Result<Self> {
        let (mut object_type, mut method, mut parameters) = (None, None, None);
        let (mut ids, mut attributes) = (Vec::new(), Attributes::default());
        for child in item.children()? {
            match child.tag() {
                Tag::ObjectType => set(&mut object_type, &child)?,
                Tag::UniqueIdentifier => ids.push(Field::read(&child)?),
                Tag::DerivationMethod => set(&mut method, &child)?,
                Tag::DerivationParameters => set(&mut parameters, &child)?,
                Tag::TemplateAttribute | Tag::Attributes => attributes.absorb(&child)?,
                _ => {}
            }
        }
        let missing = |tag| Error::Missing { offset: item.offset(), tag };
        Ok(Self {
            object_type: object_type.ok_or(missing(Tag::ObjectType))?,
            ids,
            method: method.ok_or(missing(Tag::DerivationMethod))?,
            parameters: parameters.ok_or(missing(Tag::DerivationParameters))?,
            attributes,
        })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            self.object_type.write(w, Tag::ObjectType, version);
            for id in &self.ids {
                put(id, w, Tag::UniqueIdentifier, version);
            }
            self.method.write(w, Tag::DerivationMethod, version);
            self.parameters.write(w, Tag::DerivationParameters, version);
            self.attributes.encode_template(w, version);
        });
    }

    fn known(&self, version: Version) -> bool {
        self.object_type.known(version)
            && self.method.known(version)
            && self.attributes.all_known(version)
    }
}

/// Response payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The new object.
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
