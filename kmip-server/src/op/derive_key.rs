//! Derive Key: a key or secret from the caller's keys, or the start of what two of them agree on. What
//! needs the base key only as the key of an HMAC or a cipher is done in the token where it can; the
//! result is in this process for a moment in any case, and its custody says so.

use std::num::NonZeroU32;

use km_core::{
    material::ClearBytes,
    provenance::Origin,
    usage::{Action, Hash, KeyKind, derive::Derivation},
};
use kmip::{
    attribute::{Attribute, AttributeKind, Attributes, Link, UniqueIdentifier},
    enums::{DerivationMethod, KeyFormatType, LinkType, ObjectType, OperationCode, SecretDataType},
    op::derive_key::{DerivationParameters, Request, Response},
};

use crate::{
    cipher::{self, Given},
    context::Context,
    error::OpError,
    house,
    meta::{Form, Meta},
    qkd, template,
    usage::{self, DERIVE, Subject, bad},
    wanted::Wanted,
};

/// Most bytes that are derived at once.
const MOST: usize = 4096;
/// Most iterations of PBKDF2; about a second.
const MOST_ITERATIONS: i32 = 1_000_000;

pub(crate) async fn derive_key(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let kind = request.object_type;
    if !matches!(kind, ObjectType::SymmetricKey | ObjectType::SecretData) {
        let text = "Derive Key makes symmetric keys and secret data only";
        return Err(OpError::ObjectType(text.to_owned()));
    }
    let attributes = template::expand(cx, request.attributes).await?;
    let wanted = house::wanted(cx, attributes, kind, None).await?;
    qkd::refuse_claims(&wanted)?;
    let len = length(&wanted)?;
    let mut ids = request.ids.into_iter();
    let base = ids.next();
    let mut parameters = request.parameters;
    let cryptographic = parameters.cryptographic.take();
    let base = Subject::find(cx, base, cryptographic, DERIVE).await?;
    let other = ids.next();
    if ids.next().is_some() {
        return Err(bad("a key is derived from a key and at most one secret, or from two keys"));
    }
    let (base, data) = match request.method {
        DerivationMethod::AsymmetricKey => agreeing(cx, base, other, &parameters).await?,
        _ => (base, data(cx, &mut parameters, other).await?),
    };
    let _held = super::hold_names(cx, &[&wanted]).await?;
    base.spend(cx, len).await?;
    let clear = derive(cx, request.method, &base, data, parameters, len).await?;
    let id = store(cx, kind, &base, &wanted, &clear).await?;
    cx.remember(OperationCode::DeriveKey, vec![id.clone()]);
    Ok(Response { id, attributes: Attributes::default() })
}

/// Bytes that are wanted. Whether they fit the algorithm shows when the key is used, as with Register.
fn length(wanted: &Wanted) -> Result<usize, OpError> {
    let bits = wanted.length.ok_or(OpError::Missing("Cryptographic Length is missing"))?;
    let bytes = usize::try_from(bits).ok().filter(|bits| bits % 8 == 0).map(|bits| bits / 8);
    bytes.filter(|bytes| (1..=MOST).contains(bytes)).ok_or_else(|| {
        let text = format!("derived are 1 to {MOST} whole bytes");
        OpError::invalid(AttributeKind::CryptographicLength, &text)
    })
}

/// What goes in besides the key: of the request, or a secret of the caller.
async fn data(
    cx: &Context<'_>,
    parameters: &mut DerivationParameters,
    id: Option<UniqueIdentifier>,
) -> Result<Option<ClearBytes>, OpError> {
    match (parameters.data.take(), id) {
        (Some(_), Some(_)) => Err(bad("derivation data comes from the request or from an object")),
        (data, None) => data.map(|data| usage::clear(Some(data))).transpose(),
        (None, Some(id)) => {
            let secret = Subject::find(cx, Some(id), None, DERIVE).await?;
            let clear = cx.objects().open(&secret.object).await.map_err(usage::used)?;
            Ok(Some(clear.expose(ClearBytes::copy_from)))
        }
    }
}

/// The private key of an agreement, and the public one as what goes in; named in either order.
async fn agreeing(
    cx: &Context<'_>,
    one: Subject,
    other: Option<UniqueIdentifier>,
    parameters: &DerivationParameters,
) -> Result<(Subject, Option<ClearBytes>), OpError> {
    if parameters.data.is_some() {
        return Err(bad("Asymmetric Key takes two keys and no Derivation Data"));
    }
    let other = other.ok_or(OpError::Missing("the second of the two keys is missing"))?;
    let other = Subject::find(cx, Some(other), None, DERIVE).await?;
    let (private, public) = match (one.meta.kind(), other.meta.kind()) {
        (ObjectType::PrivateKey, ObjectType::PublicKey) => (one, other),
        (ObjectType::PublicKey, ObjectType::PrivateKey) => (other, one),
        _ => {
            let text = "Asymmetric Key takes a Private Key and a Public Key".to_owned();
            return Err(OpError::ObjectType(text));
        }
    };
    for (key, formats) in [
        (&private, &[KeyFormatType::Pkcs8, KeyFormatType::EcPrivateKey][..]),
        (&public, &[KeyFormatType::X509][..]),
    ] {
        if key.meta.form != Form::Bytes
            || !key.meta.format().is_some_and(|is| formats.contains(&is))
        {
            return Err(key.unusable(&format!("its form is none of {formats:?}; register it so")));
        }
    }
    let point = ClearBytes::from_vec(public.public_key(cx).await?);
    Ok((private, Some(point)))
}

async fn derive(
    cx: &Context<'_>,
    method: DerivationMethod,
    base: &Subject,
    data: Option<ClearBytes>,
    parameters: DerivationParameters,
    len: usize,
) -> Result<ClearBytes, OpError> {
    let needed =
        |data: Option<ClearBytes>| data.ok_or(OpError::Missing("Derivation Data is missing"));
    let hash = || base.parameters.hashing_algorithm.map_or(base.mac_hash(), usage::hash_of);
    let salt = parameters.salt.clone().unwrap_or_default();
    let how = match method {
        // With a salt it is HKDF (RFC 5869), as PyKMIP has it.
        DerivationMethod::Hmac if parameters.salt.is_none() => {
            return cut(prf(cx, base, hash()?, &needed(data)?).await?, len);
        }
        DerivationMethod::Nist800_108C => {
            return counted(cx, base, hash()?, &needed(data)?, len).await;
        }
        DerivationMethod::Encrypt => {
            let kind = base.kind()?;
            let given = Given { iv: parameters.iv, aad: None };
            let cipher = cipher::cipher(base, kind, given)?;
            if kind == KeyKind::Rsa || cipher::tag_of(&cipher).is_some() {
                return Err(bad("keys are derived with block ciphers, and without a tag"));
            }
            let action = Action::Encrypt(cipher);
            return cut(base.act(cx, kind, &action, &needed(data)?).await?, len);
        }
        DerivationMethod::AsymmetricKey => {
            let public = needed(data)?.expose(<[u8]>::to_vec);
            let agreed = cx.objects().agree_in_process(&base.object, public).await;
            return cut(agreed.map_err(usage::used)?, len);
        }
        DerivationMethod::Hash => Derivation::Hash(hash()?),
        DerivationMethod::Pbkdf2 => {
            let count = parameters.iterations.unwrap_or(0);
            let iterations = u32::try_from(count).ok().and_then(NonZeroU32::new);
            let iterations = iterations.filter(|_| count <= MOST_ITERATIONS);
            let iterations = iterations
                .ok_or_else(|| bad(&format!("Iteration Count is from 1 to {MOST_ITERATIONS}")))?;
            Derivation::Pbkdf2 { hash: hash()?, salt, iterations }
        }
        DerivationMethod::Hmac | DerivationMethod::Hkdf => {
            let info = data.map_or_else(Vec::new, |data| data.expose(<[u8]>::to_vec));
            Derivation::Hkdf { hash: hash()?, salt, info }
        }
        method => {
            let text = format!("this server does not derive keys by {method:?}");
            return Err(OpError::CannotUse(text));
        }
    };
    cx.objects().derive_in_process(&base.object, how, len).await.map_err(usage::used)
}

/// HMAC with the base key. A key made in the token for something else is not used so.
async fn prf(
    cx: &Context<'_>,
    base: &Subject,
    hash: Hash,
    data: &ClearBytes,
) -> Result<ClearBytes, OpError> {
    if base.meta.in_token && base.kind()? != KeyKind::Hmac {
        return Err(base.unusable("it was made in the token, and not for HMAC"));
    }
    base.act(cx, KeyKind::Hmac, &Action::Mac(hash), data).await
}

/// NIST SP 800-108 in counter mode with HMAC; the counter has 32 bits and stands first.
async fn counted(
    cx: &Context<'_>,
    base: &Subject,
    hash: Hash,
    data: &ClearBytes,
    len: usize,
) -> Result<ClearBytes, OpError> {
    let mut derived = ClearBytes::from_vec(Vec::new());
    for counter in 1u32.. {
        let input = join(&counter.to_be_bytes(), data);
        let block = prf(cx, base, hash, &input).await?;
        derived = derived.expose(|start| join(start, &block));
        if derived.len() >= len {
            break;
        }
    }
    cut(derived, len)
}

fn join(start: &[u8], end: &ClearBytes) -> ClearBytes {
    let mut both = Vec::with_capacity(start.len() + end.len());
    both.extend_from_slice(start);
    end.expose(|end| both.extend_from_slice(end));
    ClearBytes::from_vec(both)
}

fn cut(derived: ClearBytes, len: usize) -> Result<ClearBytes, OpError> {
    let found = derived.len();
    derived.slice(0..len).ok_or_else(|| {
        let text = format!("the derivation gives {found} bytes, not {len}");
        OpError::invalid(AttributeKind::CryptographicLength, &text)
    })
}

async fn store(
    cx: &Context<'_>,
    kind: ObjectType,
    base: &Subject,
    wanted: &Wanted,
    clear: &ClearBytes,
) -> Result<String, OpError> {
    let mut meta = clear.expose(|bytes| Meta::new(kind, Form::Bytes, bytes, cx.now));
    meta.set_format(KeyFormatType::Raw);
    if kind == ObjectType::SecretData {
        meta.subtype = SecretDataType::Seed.number();
    }
    meta.dates.original = Some(cx.now);
    wanted.apply(&mut meta);
    let mut rest = wanted.rest.clone();
    rest.push(Attribute::Link(Link {
        kind: LinkType::DerivationBaseObjectLink,
        target: UniqueIdentifier::from(base.object.uid.as_str()),
    }));
    let uid = km_core::objects::Objects::fresh_uid();
    let new = super::draft(cx, uid, &meta, &rest, Origin::Derived);
    Ok(cx.objects().create(new, clear).await?.uid)
}
