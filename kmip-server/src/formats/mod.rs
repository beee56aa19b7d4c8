//! Key material from one Key Format Type to another. Enter through [`convert`].
//!
//! ASN.1 is read and written by the crates `pkcs1`, `pkcs8` and `sec1`; the transparent forms are
//! TTLV. Secret parts stay in buffers that are overwritten.

mod ec;
mod rsa;
mod transparent;

use km_core::material::ClearBytes;
use kmip::{
    SecretBytes,
    enums::{KeyFormatType as Format, ObjectType},
    object::KeyMaterial,
    tag::Tag,
};
use wiped::Wiped;

use crate::{
    error::OpError,
    meta::{Form, Meta},
};

/// Bytes of an encoding, overwritten on drop.
pub(crate) type Encoded = Wiped;

/// The material of an object in the form `wanted`.
pub(crate) fn convert(
    meta: &Meta,
    clear: &ClearBytes,
    wanted: Format,
) -> Result<KeyMaterial, OpError> {
    let stored = meta.format().unwrap_or(Format::Raw);
    clear.expose(|bytes| {
        if stored == wanted {
            return Ok(material(meta.form == Form::Transparent, SecretBytes::copy_from(bytes)));
        }
        let refused = || cannot(stored, wanted);
        let made = match meta.kind() {
            ObjectType::SymmetricKey => symmetric(bytes, stored, wanted),
            // Both are bytes nobody looks into.
            ObjectType::SecretData => match (stored, wanted) {
                (Format::Raw, Format::Opaque) | (Format::Opaque, Format::Raw) => {
                    Some(Wiped::copy_of(bytes))
                }
                _ => None,
            },
            ObjectType::PrivateKey => {
                let rsa =
                    rsa::private(bytes, stored).and_then(|key| rsa::say_private(&key, wanted));
                rsa.or_else(|| ec::private(bytes, stored).and_then(|key| key.say(wanted)))
            }
            ObjectType::PublicKey => {
                let rsa = rsa::public(bytes, stored).and_then(|key| rsa::say_public(&key, wanted));
                rsa.or_else(|| ec::public(bytes, stored).and_then(|key| key.say(wanted)))
            }
            _ => None,
        };
        Ok(material(is_transparent(wanted), SecretBytes::new(made.ok_or_else(refused)?)))
    })
}

/// As [`convert`], to the bytes of a form that is not transparent.
pub(crate) fn recode(
    meta: &Meta,
    clear: &ClearBytes,
    wanted: Format,
) -> Result<ClearBytes, OpError> {
    match convert(meta, clear, wanted)? {
        KeyMaterial::Bytes(bytes) => Ok(bytes.into_inner().into()),
        KeyMaterial::Transparent(_) => {
            let text = "keys are made in encoded forms; ask Get for a transparent one".to_owned();
            Err(OpError::KeyFormat(text))
        }
    }
}

fn material(transparent: bool, bytes: SecretBytes) -> KeyMaterial {
    if transparent { KeyMaterial::Transparent(bytes) } else { KeyMaterial::Bytes(bytes) }
}

fn cannot(stored: Format, wanted: Format) -> OpError {
    OpError::KeyFormat(format!(
        "the key is in {stored:?} form and cannot be said in {wanted:?}; ask for another or for none"
    ))
}

/// The form that says the same in versions that have this one no more.
pub(crate) fn newer(format: Format) -> Option<Format> {
    match format {
        Format::TransparentEcdsaPrivateKey
        | Format::TransparentEcdhPrivateKey
        | Format::TransparentEcmqvPrivateKey => Some(Format::TransparentEcPrivateKey),
        Format::TransparentEcdsaPublicKey
        | Format::TransparentEcdhPublicKey
        | Format::TransparentEcmqvPublicKey => Some(Format::TransparentEcPublicKey),
        _ => None,
    }
}

/// Whether material of `format` is a structure.
pub(crate) fn is_transparent(format: Format) -> bool {
    matches!(
        format,
        Format::TransparentSymmetricKey
            | Format::TransparentDsaPrivateKey
            | Format::TransparentDsaPublicKey
            | Format::TransparentRsaPrivateKey
            | Format::TransparentRsaPublicKey
            | Format::TransparentDhPrivateKey
            | Format::TransparentDhPublicKey
            | Format::TransparentEcdsaPrivateKey
            | Format::TransparentEcdsaPublicKey
            | Format::TransparentEcdhPrivateKey
            | Format::TransparentEcdhPublicKey
            | Format::TransparentEcmqvPrivateKey
            | Format::TransparentEcmqvPublicKey
            | Format::TransparentEcPrivateKey
            | Format::TransparentEcPublicKey
    )
}

fn symmetric(bytes: &[u8], stored: Format, wanted: Format) -> Option<Encoded> {
    match (stored, wanted) {
        (Format::Raw, Format::TransparentSymmetricKey) => {
            Some(transparent::write(|w| w.bytes(Tag::Key, bytes)))
        }
        (Format::TransparentSymmetricKey, Format::Raw) => {
            let content = transparent::whole(bytes);
            let item = transparent::open(&content)?;
            Some(Wiped::copy_of(item.required(Tag::Key).ok()?.bytes().ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
