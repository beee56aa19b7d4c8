//! Keys wrapped by other keys of the same client: AES key wrap of RFC 3394 (NIST Key Wrap) and of
//! RFC 5649 (with padding), in the token like any other use of a key. Enter through [`wrap`] and
//! [`unwrap`].

use km_core::{
    material::ClearBytes,
    objects::{Object, ObjectError, ObjectState},
    usage::{Action, Cipher, KeyKind},
};
use kmip::{
    Field, SecretBytes,
    attribute::{Attribute, AttributeRef, UniqueIdentifier},
    enums::{
        BlockCipherMode, CryptographicAlgorithm, EncodingOption, KeyFormatType, ObjectType,
        WrappingMethod,
    },
    object::{KeyInformation, KeyMaterial, KeyValue, KeyWrappingData, KeyWrappingSpecification},
    tag::Tag,
    ttlv::{self, Writer},
};
use wiped::Wiped;

use crate::{
    context::Context,
    error::OpError,
    material::{self, Brought, Given},
    meta::Meta,
    places::Places,
    usage,
};

/// Cryptographic Usage Mask: Wrap Key.
const WRAP: i32 = 0x10;
/// Cryptographic Usage Mask: Unwrap Key.
const UNWRAP: i32 = 0x20;

/// The mode a client asks for; nothing asks for the plain one.
fn mode(key: &KeyInformation) -> Result<Cipher, OpError> {
    match key.parameters.as_ref().and_then(|parameters| parameters.block_cipher_mode) {
        None | Some(BlockCipherMode::NistKeyWrap) => Ok(Cipher::KeyWrap { padded: false }),
        Some(BlockCipherMode::AesKeyWrapPadding) => Ok(Cipher::KeyWrap { padded: true }),
        Some(mode) => Err(refused(&format!(
            "keys are wrapped in NIST Key Wrap and AES Key Wrap Padding, not in {mode:?}"
        ))),
    }
}

fn refused(text: &str) -> OpError {
    OpError::Wrapping(text.to_owned())
}

/// The encrypting key, when that is all a client asks for.
fn encrypting(
    method: WrappingMethod,
    encryption: Option<&KeyInformation>,
    mac: bool,
) -> Result<&KeyInformation, OpError> {
    if method != WrappingMethod::Encrypt || mac {
        return Err(refused("keys are wrapped by encryption only; the Wrapping Method is Encrypt"));
    }
    encryption.ok_or(OpError::Missing("the Encryption Key Information is missing"))
}

/// `given` wrapped as `wanted` says; `attributes` are those of the object.
pub(crate) async fn wrap(
    cx: &Context<'_>,
    wanted: KeyWrappingSpecification,
    given: Given,
    attributes: &[Attribute],
) -> Result<Given, OpError> {
    let info = encrypting(wanted.method, wanted.encryption.as_ref(), wanted.mac.is_some())?;
    let mode = mode(info)?;
    if given.wrapping.is_some() {
        return Err(OpError::Illegal("the key is wrapped already".to_owned()));
    }
    let key = key(cx, &info.id, WRAP).await?;
    let bare = wanted.encoding == Some(EncodingOption::NoEncoding);
    let names: Vec<_> =
        wanted.attribute_names.iter().map(|name| AttributeRef::from_name(name)).collect();
    let plain = match bare {
        true => bytes_of(given.value, &names)?,
        false => encoded(cx, given.value, &names, attributes),
    };
    let done = act(cx, &key, &Action::Encrypt(mode), &plain.into()).await?;
    let wrapped = done.expose(SecretBytes::copy_from);
    let value = match bare {
        true => material::plain(KeyMaterial::Bytes(wrapped)),
        false => KeyValue::Bytes(wrapped),
    };
    let mut info = info.clone();
    info.id = UniqueIdentifier::Text(cx.resolve(Some(info.id))?);
    let wrapping = KeyWrappingData {
        method: wanted.method,
        encryption: Some(info),
        mac: None,
        mac_signature: None,
        iv: None,
        encoding: wanted.encoding,
    };
    Ok(Given { format: given.format, value, wrapping: Some(wrapping) })
}

/// The bytes of the Key Material, which has no room for attributes.
fn bytes_of(value: KeyValue, names: &[AttributeRef]) -> Result<Wiped, OpError> {
    if !names.is_empty() {
        let text = "attributes are wrapped along in TTLV Encoding only; leave the names out";
        return Err(OpError::Encoding(text));
    }
    match value {
        KeyValue::Plain { material: KeyMaterial::Bytes(bytes), .. } | KeyValue::Bytes(bytes) => {
            Ok(bytes.into_inner())
        }
        KeyValue::Plain { material: KeyMaterial::Transparent(_), .. } => {
            Err(OpError::Encoding("a transparent key has no bytes; ask for TTLV Encoding"))
        }
    }
}

/// The Key Value in TTLV, with those of the object's attributes that are named.
fn encoded(cx: &Context<'_>, value: KeyValue, names: &[AttributeRef], all: &[Attribute]) -> Wiped {
    let value = match value {
        KeyValue::Plain { material, .. } => {
            let along = all.iter().filter(|attribute| names.contains(&attribute.key()));
            KeyValue::Plain { material, attributes: along.cloned().collect() }
        }
        bytes => bytes,
    };
    let mut w = Writer::default();
    value.write(&mut w, Tag::KeyValue, cx.version);
    w.finish()
}

/// The clear Key Value of `given`, which `data` says how to unwrap.
pub(crate) async fn unwrap(
    cx: &Context<'_>,
    data: &KeyWrappingData,
    given: Given,
) -> Result<Given, OpError> {
    let info = encrypting(data.method, data.encryption.as_ref(), data.mac.is_some())?;
    let mode = mode(info)?;
    let key = key(cx, &info.id, UNWRAP).await?;
    let wrapped = match &given.value {
        KeyValue::Plain { material: KeyMaterial::Bytes(bytes), .. } | KeyValue::Bytes(bytes) => {
            bytes
        }
        KeyValue::Plain { .. } => return Err(refused("a wrapped key is a byte string")),
    };
    let wrapped = wrapped.expose(ClearBytes::copy_from);
    let clear = act(cx, &key, &Action::Decrypt(mode), &wrapped).await?;
    let value = match data.encoding {
        Some(EncodingOption::NoEncoding) => {
            material::plain(KeyMaterial::Bytes(clear.expose(SecretBytes::copy_from)))
        }
        _ => {
            let value = clear.expose(|clear| {
                let item = ttlv::parse(clear, &ttlv::Limits::default());
                item.and_then(|item| KeyValue::read(&item))
            });
            value.map_err(|_| {
                OpError::BadData("what was wrapped is no Key Value in TTLV".to_owned())
            })?
        }
    };
    Ok(Given { format: given.format, value, wrapping: None })
}

/// What a client brought, unwrapped when it is wrapped.
pub(crate) async fn unwrapped(cx: &Context<'_>, brought: Brought) -> Result<Brought, OpError> {
    let Some(data) = brought.meta.wrapping_data() else { return Ok(brought) };
    let given = unwrap(cx, &data, Given::stored(&brought.meta, &brought.clear)).await?;
    material::take(material::with_block(&brought.meta, given)?, cx.now)
}

/// In the token, where it can.
async fn act(
    cx: &Context<'_>,
    key: &Object,
    action: &Action,
    input: &ClearBytes,
) -> Result<ClearBytes, OpError> {
    let _place = Places::take(cx, 1).await?;
    cx.objects().use_key(key, KeyKind::Aes, action, input).await.map_err(usage::used)
}

/// A wrapping key of the caller that may be used for `usage`.
async fn key(cx: &Context<'_>, id: &UniqueIdentifier, usage: i32) -> Result<Object, OpError> {
    let uid = cx.resolve(Some(id.clone()))?;
    cx.check_right(&uid)?;
    let found = cx.objects().get(cx.caller.tenant(), &uid).await;
    let (object, _) = found.map_err(|error| match error {
        ObjectError::NotFound(uid) => OpError::WrappingKeyNotFound(uid),
        error => error.into(),
    })?;
    let meta = Meta::of(&object)?;
    if object.state.is_destroyed() {
        return Err(OpError::WrappingKeyDestroyed(uid));
    }
    if meta.dates.archived.is_some() {
        return Err(OpError::WrappingKeyArchived(uid));
    }
    let aes = meta.algorithm() == Some(CryptographicAlgorithm::Aes)
        && meta.format() == Some(KeyFormatType::Raw)
        && meta.wrapping.is_none();
    if meta.kind() != ObjectType::SymmetricKey || !aes {
        let text = format!("object {uid} is no AES key in Raw form, so it wraps nothing");
        return Err(OpError::ObjectType(text));
    }
    if meta.usage_mask.unwrap_or(0) & usage == 0 {
        let what = if usage == WRAP { "Wrap Key" } else { "Unwrap Key" };
        return Err(OpError::Mask(uid, what));
    }
    match meta.state_at(object.state, cx.now) {
        ObjectState::Active => {}
        // What was wrapped while the key was good can still be unwrapped.
        ObjectState::Deactivated | ObjectState::Compromised if usage == UNWRAP => {}
        _ => return Err(OpError::Lifecycle(format!("key {uid} is not active; activate it first"))),
    }
    Ok(object)
}
