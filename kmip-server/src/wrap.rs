//! Keys wrapped by other keys of the same client: AES key wrap of RFC 3394 (NIST Key Wrap) and of
//! RFC 5649 (with padding). Enter through [`wrap`] and [`unwrap`].

use aes_kw::{
    AesKw, AesKwp, KeyInit,
    aes::{Aes128, Aes192, Aes256},
};
use km_core::{material::ClearBytes, objects::ObjectError, objects::ObjectState};
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
    usage,
};

/// Cryptographic Usage Mask: Wrap Key.
const WRAP: i32 = 0x10;
/// Cryptographic Usage Mask: Unwrap Key.
const UNWRAP: i32 = 0x20;

/// The two modes this server has.
#[derive(Clone, Copy)]
enum Mode {
    Plain,
    Padded,
}

impl Mode {
    /// What a client asks for; nothing asks for the plain one.
    fn of(key: &KeyInformation) -> Result<Self, OpError> {
        match key.parameters.as_ref().and_then(|parameters| parameters.block_cipher_mode) {
            None | Some(BlockCipherMode::NistKeyWrap) => Ok(Self::Plain),
            Some(BlockCipherMode::AesKeyWrapPadding) => Ok(Self::Padded),
            Some(mode) => Err(refused(&format!(
                "keys are wrapped in NIST Key Wrap and AES Key Wrap Padding, not in {mode:?}"
            ))),
        }
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
    let mode = Mode::of(info)?;
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
    let wrapped = SecretBytes::new(key.expose(|key| encrypt(mode, key, &plain))?);
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
    let mode = Mode::of(info)?;
    let key = key(cx, &info.id, UNWRAP).await?;
    let wrapped = match &given.value {
        KeyValue::Plain { material: KeyMaterial::Bytes(bytes), .. } | KeyValue::Bytes(bytes) => {
            bytes
        }
        KeyValue::Plain { .. } => return Err(refused("a wrapped key is a byte string")),
    };
    let clear = wrapped.expose(|wrapped| key.expose(|key| decrypt(mode, key, wrapped)))?;
    let value = match data.encoding {
        Some(EncodingOption::NoEncoding) => {
            material::plain(KeyMaterial::Bytes(SecretBytes::new(clear)))
        }
        _ => {
            let item = ttlv::parse(&clear, &ttlv::Limits::default());
            let value = item.and_then(|item| KeyValue::read(&item));
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

/// The bytes of a wrapping key of the caller that may be used for `usage`.
async fn key(
    cx: &Context<'_>,
    id: &UniqueIdentifier,
    usage: i32,
) -> Result<std::sync::Arc<ClearBytes>, OpError> {
    // Wrapping runs here; an operator may forbid cryptography outside the token.
    cx.objects().check_process().map_err(usage::used)?;
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
    Ok(cx.objects().open(&object).await?)
}

const SEMIBLOCK: usize = 8;

fn encrypt(mode: Mode, key: &[u8], plain: &[u8]) -> Result<Wiped, OpError> {
    let whole = plain.len() >= 2 * SEMIBLOCK && plain.len().is_multiple_of(SEMIBLOCK);
    if plain.is_empty() || (matches!(mode, Mode::Plain) && !whole) {
        let text = "NIST Key Wrap takes 16, 24, 32 … bytes; use AES Key Wrap Padding";
        return Err(OpError::BadData(text.to_owned()));
    }
    let mut out = Wiped::zeros(plain.len().next_multiple_of(SEMIBLOCK) + SEMIBLOCK);
    macro_rules! with {
        ($cipher:ty) => {
            match mode {
                Mode::Plain => AesKw::<$cipher>::new_from_slice(key)
                    .ok()
                    .and_then(|kw| kw.wrap_key(plain, &mut out).ok().map(<[u8]>::len)),
                Mode::Padded => AesKwp::<$cipher>::new_from_slice(key)
                    .ok()
                    .and_then(|kw| kw.wrap_key(plain, &mut out).ok().map(<[u8]>::len)),
            }
        };
    }
    let len = match key.len() {
        16 => with!(Aes128),
        24 => with!(Aes192),
        32 => with!(Aes256),
        _ => None,
    };
    out.truncate(len.ok_or_else(|| OpError::BadData("the key is not wrapped".to_owned()))?);
    Ok(out)
}

fn decrypt(mode: Mode, key: &[u8], wrapped: &[u8]) -> Result<Wiped, OpError> {
    let least = if matches!(mode, Mode::Plain) { 3 } else { 2 };
    let mut out = Wiped::zeros(wrapped.len());
    macro_rules! with {
        ($cipher:ty) => {
            match mode {
                Mode::Plain => AesKw::<$cipher>::new_from_slice(key)
                    .ok()
                    .and_then(|kw| kw.unwrap_key(wrapped, &mut out).ok().map(<[u8]>::len)),
                Mode::Padded => AesKwp::<$cipher>::new_from_slice(key)
                    .ok()
                    .and_then(|kw| kw.unwrap_key(wrapped, &mut out).ok().map(<[u8]>::len)),
            }
        };
    }
    let len = match key.len() {
        16 => with!(Aes128),
        24 => with!(Aes192),
        32 => with!(Aes256),
        _ => None,
    };
    let text = "the key does not unwrap: it was changed, or wrapped by another key or mode";
    out.truncate(
        len.filter(|_| wrapped.len() >= least * SEMIBLOCK)
            .ok_or_else(|| OpError::BadData(text.to_owned()))?,
    );
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        digits
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    /// Mode, key, plain and wrapped.
    const VECTORS: [(Mode, &str, &str, &str); 5] = [
        // RFC 3394, 4.1.
        (
            Mode::Plain,
            "000102030405060708090A0B0C0D0E0F",
            "00112233445566778899AABBCCDDEEFF",
            "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5",
        ),
        // RFC 3394, 4.2.
        (
            Mode::Plain,
            "000102030405060708090A0B0C0D0E0F1011121314151617",
            "00112233445566778899AABBCCDDEEFF",
            "96778B25AE6CA435F92B5B97C050AED2468AB8A17AD84E5D",
        ),
        // RFC 3394, 4.6.
        (
            Mode::Plain,
            "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
            "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
            "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21",
        ),
        // RFC 5649, 6, both.
        (
            Mode::Padded,
            "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8",
            "c37b7e6492584340bed12207808941155068f738",
            "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
        ),
        (
            Mode::Padded,
            "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8",
            "466f7250617369",
            "afbeb0f07dfbf5419200f2ccb50bb24f",
        ),
    ];

    #[test]
    fn known_answers_of_rfc_3394_and_rfc_5649() {
        for (mode, key, plain, wrapped) in VECTORS {
            let (key, plain, wrapped) = (bytes(key), bytes(plain), bytes(wrapped));
            assert_eq!(*encrypt(mode, &key, &plain).unwrap(), wrapped);
            assert_eq!(*decrypt(mode, &key, &wrapped).unwrap(), plain);
            for at in 0..wrapped.len() {
                let mut changed = wrapped.clone();
                changed[at] ^= 1;
                assert!(decrypt(mode, &key, &changed).is_err(), "byte {at} was changed");
            }
        }
    }

    #[test]
    fn odd_lengths_are_refused_or_padded() {
        let key = [1; 32];
        for len in [0, 1, 7, 8, 15, 17] {
            assert!(encrypt(Mode::Plain, &key, &vec![7; len]).is_err(), "{len}");
        }
        for len in [1, 8, 9, 31] {
            let wrapped = encrypt(Mode::Padded, &key, &vec![7; len]).unwrap();
            assert_eq!(*decrypt(Mode::Padded, &key, &wrapped).unwrap(), vec![7; len]);
        }
        for len in [0, 8, 15] {
            assert!(decrypt(Mode::Plain, &key, &vec![7; len]).is_err(), "{len}");
            assert!(decrypt(Mode::Padded, &key, &vec![7; len]).is_err(), "{len}");
        }
    }
}
