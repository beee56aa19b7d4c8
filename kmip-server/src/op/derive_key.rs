//! Derive Key: a key or secret from the caller's keys, or the start of what two of them agree on. What
//! needs the base key only as the key of an HMAC or a cipher, or for an agreement, is done in the token
//! where it can. The result is in this process for a moment, and its custody says so, unless it is
//! agreed on and never to leave the token.

use std::num::NonZeroU32;

use km_core::{
    material::ClearBytes,
    objects::{NewObject, Objects},
    provenance::Origin,
    usage::{Action, Hash, KeyKind, derive::Derivation},
};
use kmip::{
    attribute::{Attribute, AttributeKind, Attributes, Link, UniqueIdentifier},
    enums::{DerivationMethod, KeyFormatType, LinkType, ObjectType, OperationCode, SecretDataType},
    op::derive_key::{DerivationParameters, Request, Response},
};

use crate::{
    agreement::Agreement,
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
    let _held = super::hold_names(cx, &[&wanted]).await?;
    let id = match request.method {
        DerivationMethod::AsymmetricKey if parameters.data.is_some() => {
            return Err(bad("Asymmetric Key takes two keys and no Derivation Data"));
        }
        DerivationMethod::AsymmetricKey => {
            agreed(cx, &Agreement::find(cx, base, other).await?, &wanted, (kind, len)).await?
        }
        method => {
            let data = data(cx, &mut parameters, other).await?;
            base.spend(cx, len).await?;
            let clear = derive(cx, method, &base, data, parameters, len).await?;
            store(cx, kind, &base, &wanted, &clear).await?
        }
    };
    cx.remember(OperationCode::DeriveKey, vec![id.clone()]);
    Ok(Response { id, attributes: Attributes::default() })
}

/// Makes an object of what two keys agree on: inside the token, if it is never to leave it.
async fn agreed(
    cx: &Context<'_>,
    agreement: &Agreement,
    wanted: &Wanted,
    (kind, len): (ObjectType, usize),
) -> Result<String, OpError> {
    let base = &agreement.private;
    base.spend(cx, len).await?;
    if wanted.is_secret() {
        let uid = Objects::fresh_uid();
        if let Some(sealed) = agreement.key_in_token(cx, wanted, (&uid, kind, len)).await? {
            let new = draft(cx, &uid, Meta::unseen(kind, len, cx.now), base, wanted);
            cx.objects().create_sealed(vec![(new, sealed)]).await?;
            return Ok(uid);
        }
    }
    let clear = cut(agreement.secret(cx).await?, len)?;
    store(cx, kind, base, wanted, &clear).await
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
    let action = Action::Derive { how, len: u32::try_from(len).unwrap_or(u32::MAX) };
    let kind = if base.meta.in_token { base.kind()? } else { KeyKind::Hmac };
    base.act(cx, kind, &action, &ClearBytes::from_vec(Vec::new())).await
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
    meta.dates.original = Some(cx.now);
    let new = draft(cx, &Objects::fresh_uid(), meta, base, wanted);
    Ok(cx.objects().create(new, clear).await?.uid)
}

/// The object that is made, whose head says its bytes already.
fn draft(
    cx: &Context<'_>,
    uid: &str,
    mut meta: Meta,
    base: &Subject,
    wanted: &Wanted,
) -> NewObject {
    meta.set_format(KeyFormatType::Raw);
    if meta.kind() == ObjectType::SecretData {
        meta.subtype = SecretDataType::Seed.number();
    }
    wanted.apply(&mut meta);
    let mut rest = wanted.rest.clone();
    rest.push(Attribute::Link(Link {
        kind: LinkType::DerivationBaseObjectLink,
        target: UniqueIdentifier::from(base.object.uid.as_str()),
    }));
    super::draft(cx, uid.to_owned(), &meta, &rest, Origin::Derived)
}
