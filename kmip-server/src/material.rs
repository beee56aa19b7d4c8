//! Objects of requests to clear bytes and a head, and back for Get.

use km_core::material::ClearBytes;
use kmip::{
    BigInteger, SecretBytes,
    attribute::{Attribute, AttributeKind, Attributes, Link},
    enums::{
        CertificateRequestType, CertificateType, KeyCompressionType, KeyFormatType, LinkType,
        ObjectType, OpaqueDataType, SecretDataType, SplitKeyMethod,
    },
    object::{
        Certificate, CertificateRequest, KeyBlock, KeyMaterial, KeyValue, KeyWrappingData, Object,
        OpaqueObject, PgpKey, SecretData, SplitKey,
    },
};

use crate::{
    context::Context,
    error::OpError,
    meta::{Form, Meta, Part, decode_list, encode_list},
    wanted::{VERSIONS, has_word},
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
    check_words(&object)?;
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
        Object::CertificateRequest(request) => {
            let bytes = SecretBytes::copy_from(&request.value);
            Ok(whole(kind, request.kind.number(), bytes, now))
        }
        Object::PgpKey(key) => {
            let mut brought = take_block(kind, key.block, now)?;
            brought.meta.subtype = u32::try_from(key.version).unwrap_or(0);
            Ok(brought)
        }
        Object::SplitKey(split) => take_split(split, now),
        Object::Template(attributes) => {
            Ok(whole(kind, 0, SecretBytes::copy_from(&encode_list(&attributes)), now))
        }
    }
}

/// Refuses an object that could be given in no version: its types are of none, and no vendor's.
fn check_words(object: &Object) -> Result<(), OpError> {
    let block = object.key_block();
    let algorithm = block.and_then(|block| block.algorithm);
    let compression = block.and_then(|block| block.compression);
    let wrapping = block.and_then(|block| block.wrapping.as_ref());
    let has_words = VERSIONS.iter().any(|version| object.known(*version))
        && algorithm.is_none_or(|algorithm| has_word(&algorithm))
        && compression.is_none_or(|compression| has_word(&compression))
        && wrapping.is_none_or(|wrapping| {
            has_word(&wrapping.method)
                && wrapping.encoding.is_none_or(|encoding| has_word(&encoding))
        });
    match has_words {
        true => Ok(()),
        false => Err(OpError::NoWord("the object".to_owned())),
    }
}

/// Checks what makes a part useless.
fn take_split(split: SplitKey, now: i64) -> Result<Brought, OpError> {
    let SplitKey { parts, part, threshold, method, prime_field_size, block } = split;
    if !(1..=parts).contains(&part) || !(1..=parts).contains(&threshold) {
        let text = format!("part {part} of {parts}, of which {threshold} are needed, cannot be");
        return Err(OpError::Invalid(text));
    }
    let mut brought = take_block(ObjectType::SplitKey, block, now)?;
    brought.meta.part = Some(Part {
        parts,
        part,
        threshold,
        method: method.number(),
        prime: prime_field_size.map(|prime| prime.0),
    });
    Ok(brought)
}

fn clear(bytes: SecretBytes) -> ClearBytes {
    // The buffer itself changes hands; nothing is copied.
    bytes.into_inner().into()
}

fn whole(kind: ObjectType, subtype: u32, bytes: SecretBytes, now: i64) -> Brought {
    let clear = clear(bytes);
    let mut meta = clear.expose(|bytes| Meta::new(kind, Form::Bytes, bytes, now));
    meta.subtype = subtype;
    Brought { meta, clear, inner: Attributes::default() }
}

fn take_block(kind: ObjectType, block: KeyBlock, now: i64) -> Result<Brought, OpError> {
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
        KeyValue::Bytes(bytes) if block.wrapping.is_some() => {
            (Form::WrappedValue, bytes, Attributes::default())
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
    if let Some(wrapping) = &block.wrapping {
        meta.set_wrapping(wrapping);
        // It is of the wrapped bytes; whoever unwraps them looks at the lengths.
        return Ok(Brought { meta, clear, inner });
    }
    check_length(&meta)?;
    Ok(Brought { meta, clear, inner })
}

/// The bytes of a symmetric key in Raw form must have the length that was announced.
fn check_length(meta: &Meta) -> Result<(), OpError> {
    let raw = meta.wrapping.is_none()
        && meta.kind() == ObjectType::SymmetricKey
        && meta.format() == Some(KeyFormatType::Raw);
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

/// Adds the link to the key that what the client brought is wrapped with, which it need not say (2.0).
pub(crate) fn link_wrapping_key(
    cx: &Context<'_>,
    meta: &Meta,
    rest: &mut Attributes,
) -> Result<(), OpError> {
    let Some(key) = meta.wrapping_data().and_then(|data| data.encryption) else { return Ok(()) };
    let link = Link { kind: LinkType::WrappingKeyLink, target: key.id };
    let link = cx.resolve_link(Attribute::Link(link))?;
    if !rest.iter().any(|said| *said == link) {
        rest.push(link);
    }
    Ok(())
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
            Attribute::CertificateType(wanted) if meta.subtype != wanted.number() => {
                return Err(differs(AttributeKind::CertificateType));
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
    let plain = meta.form == Form::Bytes && meta.wrapping.is_none();
    if meta.length.is_none() && meta.kind() == ObjectType::SymmetricKey && plain {
        meta.length = i32::try_from(u64::from(meta.bytes) * 8).ok();
    }
    Ok(())
}

/// Key material on its way out.
pub(crate) struct Given {
    pub(crate) format: KeyFormatType,
    pub(crate) value: KeyValue,
    pub(crate) wrapping: Option<KeyWrappingData>,
}

impl Given {
    /// As it is stored.
    pub(crate) fn stored(meta: &Meta, clear: &ClearBytes) -> Self {
        let bytes = clear.expose(SecretBytes::copy_from);
        let value = match meta.form {
            Form::Bytes => plain(KeyMaterial::Bytes(bytes)),
            Form::Transparent => plain(KeyMaterial::Transparent(bytes)),
            Form::WrappedValue => KeyValue::Bytes(bytes),
        };
        let format = meta.format().unwrap_or(KeyFormatType::Raw);
        Self { format, value, wrapping: meta.wrapping_data() }
    }
}

/// A Key Value without attributes.
pub(crate) fn plain(material: KeyMaterial) -> KeyValue {
    KeyValue::Plain { material, attributes: Attributes::default() }
}

/// Whether objects of `kind` have a key block.
pub(crate) fn has_block(kind: ObjectType) -> bool {
    matches!(
        kind,
        ObjectType::SymmetricKey
            | ObjectType::PublicKey
            | ObjectType::PrivateKey
            | ObjectType::SecretData
            | ObjectType::SplitKey
            | ObjectType::PgpKey
    )
}

/// The object around `given`, as Get answers it.
pub(crate) fn with_block(meta: &Meta, given: Given) -> Result<Object, OpError> {
    let block = KeyBlock {
        format: given.format,
        compression: meta.compression.map(KeyCompressionType::from_number),
        value: Some(given.value),
        algorithm: meta.algorithm(),
        length: meta.length,
        wrapping: given.wrapping,
    };
    Ok(match meta.kind() {
        ObjectType::SymmetricKey => Object::SymmetricKey(block),
        ObjectType::PublicKey => Object::PublicKey(block),
        ObjectType::PrivateKey => Object::PrivateKey(block),
        ObjectType::SecretData => {
            let kind = SecretDataType::from_number(meta.subtype);
            Object::SecretData(SecretData { kind, block })
        }
        ObjectType::PgpKey => {
            let version = i32::try_from(meta.subtype).unwrap_or(i32::MAX);
            Object::PgpKey(PgpKey { version, block })
        }
        ObjectType::SplitKey => {
            let part = meta.part.clone().ok_or_else(|| odd(meta.kind()))?;
            Object::SplitKey(SplitKey {
                parts: part.parts,
                part: part.part,
                threshold: part.threshold,
                method: SplitKeyMethod::from_number(part.method),
                prime_field_size: part.prime.map(BigInteger),
                block,
            })
        }
        kind => return Err(odd(kind)),
    })
}

/// An object without a key block, as Get answers it.
pub(crate) fn without_block(meta: &Meta, clear: &ClearBytes) -> Result<Object, OpError> {
    let public = || clear.expose(<[u8]>::to_vec);
    Ok(match meta.kind() {
        ObjectType::OpaqueObject => Object::OpaqueObject(OpaqueObject {
            kind: OpaqueDataType::from_number(meta.subtype),
            value: clear.expose(SecretBytes::copy_from),
        }),
        ObjectType::Certificate => Object::Certificate(Certificate {
            kind: CertificateType::from_number(meta.subtype),
            value: public(),
        }),
        ObjectType::CertificateRequest => Object::CertificateRequest(CertificateRequest {
            kind: CertificateRequestType::from_number(meta.subtype),
            value: public(),
        }),
        ObjectType::Template => Object::Template(clear.expose(decode_list)?),
        kind => return Err(odd(kind)),
    })
}

fn odd(kind: ObjectType) -> OpError {
    OpError::Internal(format!("an object of type {kind:?} is stored"))
}
