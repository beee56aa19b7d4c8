//! Objects of requests to clear bytes and a head, and back for Get.

use km_core::material::ClearBytes;
use kmip::{
    SecretBytes,
    attribute::{Attribute, AttributeKind, Attributes},
    enums::{
        CertificateType, KeyCompressionType, KeyFormatType, ObjectType, OpaqueDataType,
        SecretDataType,
    },
    object::{Certificate, KeyBlock, KeyMaterial, KeyValue, Object, OpaqueObject, SecretData},
};

use crate::{
    error::OpError,
    meta::{Form, Meta},
};

/// What a client brought: the head its form tells, its bytes, and attributes inside the key value.
pub(crate) struct Brought {
    pub(crate) meta: Meta,
    pub(crate) clear: ClearBytes,
    pub(crate) inner: Attributes,
}

/// Takes an object of Register apart.
pub(crate) fn take(object: Object, now: i64) -> Result<Brought, OpError> {
    let kind = object.kind();
    match object {
        Object::SymmetricKey(block) | Object::PublicKey(block) | Object::PrivateKey(block) => {
            take_block(kind, block, now)
        }
        Object::SecretData(secret) => {
            let mut brought = take_block(kind, secret.block, now)?;
            brought.meta.subtype = secret.kind.number();
            Ok(brought)
        }
        Object::OpaqueObject(opaque) => Ok(whole(kind, opaque.kind.number(), opaque.value, now)),
        Object::Certificate(certificate) => {
            let bytes = SecretBytes::copy_from(&certificate.value);
            Ok(whole(kind, certificate.kind.number(), bytes, now))
        }
        Object::Template(_) | Object::Other { .. } => Err(unsupported()),
    }
}

/// The refusal of object types this server does not keep.
pub(crate) fn unsupported() -> OpError {
    let text = "this server keeps symmetric, public and private keys, secret data, opaque objects \
                and certificates";
    OpError::ObjectType(text.to_owned())
}

fn clear(bytes: SecretBytes) -> ClearBytes {
    // The buffer itself changes hands; nothing is copied.
    ClearBytes::from_vec(std::mem::take(&mut *bytes.into_inner()))
}

fn whole(kind: ObjectType, subtype: u32, bytes: SecretBytes, now: i64) -> Brought {
    let clear = clear(bytes);
    let mut meta = clear.expose(|bytes| Meta::new(kind, Form::Bytes, bytes, now));
    meta.subtype = subtype;
    Brought { meta, clear, inner: Attributes::default() }
}

fn take_block(kind: ObjectType, block: KeyBlock, now: i64) -> Result<Brought, OpError> {
    if block.wrapping.is_some() {
        return Err(OpError::Wrapping);
    }
    let value = block.value.ok_or(OpError::Feature(
        "keys that the server is not given cannot be registered; send the Key Value",
    ))?;
    let (form, bytes, inner) = match value {
        KeyValue::Plain { material: KeyMaterial::Bytes(bytes), attributes } => {
            (Form::Bytes, bytes, attributes)
        }
        KeyValue::Plain { material: KeyMaterial::Transparent(fields), attributes } => {
            (Form::Transparent, fields, attributes)
        }
        KeyValue::Bytes(bytes) => (Form::Bytes, bytes, Attributes::default()),
    };
    if bytes.is_empty() {
        return Err(OpError::Missing("the Key Material is empty"));
    }
    let clear = clear(bytes);
    let mut meta = clear.expose(|bytes| Meta::new(kind, form, bytes, now));
    meta.set_format(block.format);
    meta.compression = block.compression.map(KeyCompressionType::number);
    if let Some(algorithm) = block.algorithm {
        meta.set_algorithm(algorithm);
    }
    meta.length = block.length;
    check_length(&meta)?;
    Ok(Brought { meta, clear, inner })
}

/// The bytes of a symmetric key in Raw form must have the length that was announced.
fn check_length(meta: &Meta) -> Result<(), OpError> {
    let raw = meta.kind() == ObjectType::SymmetricKey && meta.format() == Some(KeyFormatType::Raw);
    let Some(bits) = meta.length.filter(|_| raw) else { return Ok(()) };
    // Triple DES counts 56 or 64 bits of a byte group; both are in use.
    let found = u64::from(meta.bytes) * 8;
    let named = u64::try_from(bits).unwrap_or(0);
    if named == found || named * 8 == found * 7 {
        return Ok(());
    }
    let text = format!("the key has {found} bits, not {bits}");
    Err(OpError::invalid(AttributeKind::CryptographicLength, &text))
}

/// Joins what the request and the key block say about the same thing; they must agree.
pub(crate) fn reconcile(meta: &mut Meta, attributes: &Attributes) -> Result<(), OpError> {
    let differs = |kind| OpError::invalid(kind, "the attribute and the key block differ");
    for attribute in attributes.iter() {
        match attribute {
            Attribute::CryptographicAlgorithm(wanted)
                if meta.algorithm().is_some_and(|found| found != *wanted) =>
            {
                return Err(differs(AttributeKind::CryptographicAlgorithm));
            }
            Attribute::CryptographicLength(wanted)
                if meta.length.is_some_and(|found| found != *wanted) =>
            {
                return Err(differs(AttributeKind::CryptographicLength));
            }
            Attribute::CryptographicLength(bits) => {
                meta.length = Some(*bits);
                check_length(meta)?;
            }
            _ => {}
        }
    }
    if meta.length.is_none() && meta.kind() == ObjectType::SymmetricKey && meta.form == Form::Bytes
    {
        meta.length = i32::try_from(u64::from(meta.bytes) * 8).ok();
    }
    Ok(())
}

/// The object as Get answers it.
pub(crate) fn give(meta: &Meta, clear: &ClearBytes) -> Result<Object, OpError> {
    let bytes = || clear.expose(SecretBytes::copy_from);
    let block = || KeyBlock {
        format: meta.format().unwrap_or(KeyFormatType::Raw),
        compression: meta.compression.map(KeyCompressionType::from_number),
        value: Some(KeyValue::Plain {
            material: match meta.form {
                Form::Bytes => KeyMaterial::Bytes(bytes()),
                Form::Transparent => KeyMaterial::Transparent(bytes()),
            },
            attributes: Attributes::default(),
        }),
        algorithm: meta.algorithm(),
        length: meta.length,
        wrapping: None,
    };
    Ok(match meta.kind() {
        ObjectType::SymmetricKey => Object::SymmetricKey(block()),
        ObjectType::PublicKey => Object::PublicKey(block()),
        ObjectType::PrivateKey => Object::PrivateKey(block()),
        ObjectType::SecretData => Object::SecretData(SecretData {
            kind: SecretDataType::from_number(meta.subtype),
            block: block(),
        }),
        ObjectType::OpaqueObject => Object::OpaqueObject(OpaqueObject {
            kind: OpaqueDataType::from_number(meta.subtype),
            value: bytes(),
        }),
        ObjectType::Certificate => Object::Certificate(Certificate {
            kind: CertificateType::from_number(meta.subtype),
            value: clear.expose(<[u8]>::to_vec),
        }),
        kind => return Err(OpError::Internal(format!("an object of type {kind:?} is stored"))),
    })
}
