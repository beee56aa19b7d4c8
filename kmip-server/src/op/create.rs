//! Create: a symmetric key from the HSM's generator, or, for an Object Group `qkd/<cluster>` or
//! `qkd/<cluster>/<SAE ID>`, a fresh key of the pool with that cluster.

use km_core::{
    hsm::HsmError,
    objects::{ObjectError, Objects},
    provenance::Origin,
    vault::SealedObject,
};
use kmip::{
    attribute::{AttributeKind, Attributes},
    enums::{CryptographicAlgorithm as Algorithm, KeyFormatType, ObjectType, OperationCode},
    op::create::{ProtectionStorageMasks, Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    house,
    meta::{Form, Meta},
    qkd::{self, Share},
    storage, template, usage,
    wanted::Wanted,
};

/// Longest key, in bytes.
const MAX_KEY: i32 = 4096;

pub(crate) async fn create(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let kind = request.object_type;
    if kind != ObjectType::SymmetricKey {
        return Err(OpError::ObjectType("Create makes symmetric keys only".to_owned()));
    }
    let attributes = template::expand(cx, request.attributes).await?;
    let wanted = house::wanted(cx, attributes, kind, None).await?;
    if !matches!(wanted.format, None | Some(KeyFormatType::Raw)) {
        let text = "keys are created in Raw form; leave Key Format Type out";
        return Err(OpError::KeyFormat(text.to_owned()));
    }
    let masks = request.protection_storage_masks.as_ref();
    let id = match Share::asked(wanted.rest.iter())? {
        Some(share) => {
            storage::choose(cx, masks, false)?;
            let _held = super::hold_names(cx, &[&wanted]).await?;
            qkd::draw(cx, &share, &wanted, 1).await?.pop()
        }
        None => Some(make(cx, &wanted, masks).await?),
    };
    let id = id.ok_or_else(|| OpError::Temporary("the pool gave no key".to_owned()))?;
    cx.remember(OperationCode::Create, vec![id.clone()]);
    Ok(Response { object_type: kind, id, attributes: Attributes::default() })
}

async fn make(
    cx: &mut Context<'_>,
    wanted: &Wanted,
    masks: Option<&ProtectionStorageMasks>,
) -> Result<String, OpError> {
    qkd::refuse_claims(wanted)?;
    let missing = |text| OpError::Missing(text);
    let algorithm = wanted.algorithm.ok_or(missing("Cryptographic Algorithm is missing"))?;
    wanted.usage_mask.ok_or(missing("Cryptographic Usage Mask is missing"))?;
    let (len, bits) = key_len(algorithm, wanted.length)?;
    storage::choose(cx, masks, wanted.is_secret())?;
    let _held = super::hold_names(cx, &[wanted]).await?;
    if wanted.is_secret()
        && let Some(id) = make_in_token(cx, wanted, algorithm, (len, bits)).await?
    {
        return Ok(id);
    }
    storage::choose(cx, masks, false)?;
    let random = cx.objects().vault().random();
    let clear = random.bytes(len).await?;
    let kind = ObjectType::SymmetricKey;
    let mut meta = clear.expose(|bytes| Meta::new(kind, Form::Bytes, bytes, cx.now));
    meta.set_format(KeyFormatType::Raw);
    meta.length = Some(bits);
    meta.dates.original = Some(cx.now);
    wanted.apply(&mut meta);
    super::store(cx, &meta, wanted, random.origin(), &clear).await
}

/// A key that is never to leave in clear is made inside the token and never outside it; `None`
/// when the token makes no such keys and they may be made otherwise.
async fn make_in_token(
    cx: &Context<'_>,
    wanted: &Wanted,
    algorithm: Algorithm,
    (len, bits): (usize, i32),
) -> Result<Option<String>, OpError> {
    let uid = Objects::fresh_uid();
    let Some(sealed) = key_in_token(cx, &uid, algorithm, len).await? else { return Ok(None) };
    let mut meta = Meta::unseen(ObjectType::SymmetricKey, len, cx.now);
    meta.set_format(KeyFormatType::Raw);
    meta.length = Some(bits);
    wanted.apply(&mut meta);
    let new = super::draft(cx, uid.clone(), &meta, &wanted.rest, Origin::HsmRng);
    cx.objects().create_sealed(vec![(new, sealed)]).await?;
    Ok(Some(uid))
}

/// The key of `len` bytes for the object `uid`, made inside the token; `None` as in
/// [`make_in_token`].
pub(super) async fn key_in_token(
    cx: &Context<'_>,
    uid: &str,
    algorithm: Algorithm,
    len: usize,
) -> Result<Option<SealedObject>, OpError> {
    let Some((kind, trial)) = usage::secret_kind(algorithm) else { return Ok(None) };
    let (owner, bits) = (cx.caller.tenant().as_str(), u32::try_from(len * 8).unwrap_or(0));
    match cx.objects().make_in_token((uid, owner), (kind, bits), trial).await {
        Err(ObjectError::Hsm(HsmError::Unsupported(_))) => {
            cx.objects().check_process().map_err(usage::used)?;
            Ok(None)
        }
        made => Ok(Some(made?.sealed)),
    }
}

/// Bytes and bits of a key of `algorithm`, when it has keys of that length. Without a length, the
/// longest usual one.
pub(crate) fn key_len(algorithm: Algorithm, bits: Option<i32>) -> Result<(usize, i32), OpError> {
    let (default, fits): (i32, fn(i32) -> bool) = match algorithm {
        Algorithm::Aes | Algorithm::Camellia | Algorithm::Twofish | Algorithm::Aria => {
            (256, |bits| matches!(bits, 128 | 192 | 256))
        }
        Algorithm::Des3 => (168, |bits| matches!(bits, 112 | 128 | 168 | 192)),
        Algorithm::Des => (56, |bits| matches!(bits, 56 | 64)),
        Algorithm::Blowfish => (448, |bits| matches!(bits, 32..=448)),
        Algorithm::Cast5 => (128, |bits| matches!(bits, 40..=128)),
        Algorithm::Rc2 | Algorithm::Rc4 | Algorithm::Rc5 => (128, |bits| matches!(bits, 40..=2040)),
        Algorithm::Skipjack => (80, |bits| bits == 80),
        Algorithm::Idea | Algorithm::Seed | Algorithm::Sm4 => (128, |bits| bits == 128),
        Algorithm::ChaCha20 => (256, |bits| matches!(bits, 128 | 256)),
        Algorithm::Poly1305 | Algorithm::ChaCha20Poly1305 | Algorithm::Gost28147_89 => {
            (256, |bits| bits == 256)
        }
        algorithm => match hmac_bits(algorithm) {
            Some(bits) => (bits, |bits| matches!(bits, 8..=8192)),
            None => {
                let text = "Create makes keys of symmetric algorithms only";
                return Err(OpError::invalid(AttributeKind::CryptographicAlgorithm, text));
            }
        },
    };
    let bits = bits.unwrap_or(default);
    // DES counts its keys with or without their parity bits; the bytes are the same.
    let stored = match (algorithm, bits) {
        (Algorithm::Des, _) => 64,
        (Algorithm::Des3, 112 | 128) => 128,
        (Algorithm::Des3, _) => 192,
        (_, bits) => bits,
    };
    if !fits(bits) || stored % 8 != 0 || stored / 8 > MAX_KEY {
        let text = format!("{algorithm:?} has no keys of {bits} bits");
        return Err(OpError::invalid(AttributeKind::CryptographicLength, &text));
    }
    Ok((usize::try_from(stored / 8).unwrap_or(0), bits))
}

/// Length of the hash, for keyed hashes and the one-time pad.
fn hmac_bits(algorithm: Algorithm) -> Option<i32> {
    Some(match algorithm {
        Algorithm::HmacMd5 => 128,
        Algorithm::HmacSha1 => 160,
        Algorithm::HmacSha224 | Algorithm::HmacSha3_224 => 224,
        Algorithm::HmacSha256 | Algorithm::HmacSha3_256 | Algorithm::OneTimePad => 256,
        Algorithm::HmacSha384 | Algorithm::HmacSha3_384 => 384,
        Algorithm::HmacSha512 | Algorithm::HmacSha3_512 => 512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_algorithm() {
        assert_eq!(key_len(Algorithm::Aes, None).unwrap(), (32, 256));
        assert_eq!(key_len(Algorithm::Des3, Some(168)).unwrap(), (24, 168));
        assert_eq!(key_len(Algorithm::HmacSha256, Some(512)).unwrap(), (64, 512));
        for (algorithm, bits) in [
            (Algorithm::Aes, 129),
            (Algorithm::Aes, 0),
            (Algorithm::Aes, -256),
            (Algorithm::HmacSha1, i32::MAX),
            (Algorithm::HmacSha1, 12),
            (Algorithm::Rsa, 2048),
            (Algorithm::Other(0x8000_0001), 128),
        ] {
            assert!(key_len(algorithm, Some(bits)).is_err(), "{algorithm:?} {bits}");
        }
    }
}
