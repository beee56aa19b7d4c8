//! Join Split Key: the key out of its parts, as a new object.

use km_core::{material::ClearBytes, provenance::Origin};
use kmip::{
    attribute::{Attributes, UniqueIdentifier},
    enums::{KeyFormatType, ObjectType, OperationCode, SplitKeyMethod},
    op::join_split_key::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    find, house,
    meta::{Form, Meta},
    qkd, split, storage, template,
    wanted::has_word,
};

pub(crate) async fn join_split_key(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let kind = request.object_type;
    storage::choose(cx, request.protection_storage_masks.as_ref(), false)?;
    let attributes = template::expand(cx, request.attributes).await?;
    let (like, clear) = join(cx, request.ids).await?;
    let wanted = house::wanted(cx, attributes, kind, Some(&like)).await?;
    qkd::refuse_claims(&wanted)?;
    let mut meta = clear.expose(|bytes| Meta::new(kind, Form::Bytes, bytes, cx.now));
    match kind {
        ObjectType::SymmetricKey | ObjectType::PrivateKey => {}
        ObjectType::SecretData => {
            let text = "Secret Data Type is missing";
            let subtype = request.secret_data_type.ok_or(OpError::Missing(text))?;
            if !has_word(&subtype) {
                return Err(OpError::NoWord("Secret Data Type".to_owned()));
            }
            meta.subtype = subtype.number();
        }
        _ => {
            let text = "parts make a symmetric key, a private key or secret data";
            return Err(OpError::ObjectType(text.to_owned()));
        }
    }
    meta.set_format(like.format().unwrap_or(KeyFormatType::Raw));
    if let Some(algorithm) = like.algorithm() {
        meta.set_algorithm(algorithm);
    }
    meta.length = like.length;
    meta.usage_mask = like.usage_mask;
    wanted.apply(&mut meta);
    meta.sensitive |= like.sensitive;
    let _held = super::hold_names(cx, &[&wanted]).await?;
    let id = super::store(cx, &meta, &wanted, Origin::Registered, &clear).await?;
    cx.remember(OperationCode::JoinSplitKey, vec![id.clone()]);
    Ok(Response { id, attributes: Attributes::default() })
}

/// The key, and a part of it to take its attributes from.
async fn join(cx: &Context<'_>, ids: Vec<UniqueIdentifier>) -> Result<(Meta, ClearBytes), OpError> {
    let mut parts = Vec::new();
    for id in ids.into_iter().take(usize::from(u8::MAX)) {
        let (object, _) = find::on_line(cx, Some(id)).await?;
        if object.state.is_destroyed() {
            return Err(OpError::Destroyed(object.uid));
        }
        let meta = Meta::of(&object)?;
        if meta.part.is_none() || meta.wrapping.is_some() || meta.form != Form::Bytes {
            let text = format!("object {} is no part of a key in clear", object.uid);
            return Err(OpError::ObjectType(text));
        }
        parts.push((meta, cx.objects().open(&object).await?));
    }
    let (threshold, method) = agree(parts.iter().map(|(meta, _)| meta))?;
    let number = |meta: &Meta| meta.part.as_ref().and_then(|part| u8::try_from(part.part).ok());
    parts.sort_by_key(|(meta, _)| number(meta));
    parts.dedup_by_key(|(meta, _)| number(meta));
    parts.truncate(threshold);
    if parts.len() < threshold {
        let text = format!("{} different parts are here and {threshold} are needed", parts.len());
        return Err(OpError::Illegal(text));
    }
    let mut bytes: Vec<(u8, wiped::Wiped)> = Vec::new();
    for (meta, clear) in &parts {
        let copy = clear.expose(wiped::Wiped::copy_of);
        bytes.push((number(meta).filter(|number| *number != 0).ok_or_else(odd)?, copy));
    }
    let secret = match method {
        SplitKeyMethod::Xor => {
            let parts: Vec<&[u8]> = bytes.iter().map(|(_, part)| &**part).collect();
            split::join_xor(&parts)
        }
        SplitKeyMethod::PolynomialGf2_8 => {
            let parts: Vec<_> = bytes.iter().map(|(x, part)| (*x, &**part)).collect();
            split::join_gf256(&parts)
        }
        _ => return Err(OpError::Feature("keys are joined by XOR and in GF(2^8) only")),
    };
    let like = parts.swap_remove(0).0;
    Ok((like, secret.into()))
}

fn odd() -> OpError {
    OpError::Illegal("parts are numbered from 1 to 255".to_owned())
}

/// Threshold and method that all parts name.
fn agree<'a>(parts: impl Iterator<Item = &'a Meta>) -> Result<(usize, SplitKeyMethod), OpError> {
    let mut found: Option<(i32, i32, u32, u32)> = None;
    for meta in parts {
        let Some(part) = &meta.part else { continue };
        let this = (part.parts, part.threshold, part.method, meta.bytes);
        if found.is_some_and(|found| found != this) {
            let text = "the parts are not of one key: their numbers or lengths differ";
            return Err(OpError::Illegal(text.to_owned()));
        }
        found = Some(this);
    }
    let missing = OpError::Missing("Join Split Key needs the Unique Identifiers of the parts");
    let (all, threshold, method, _) = found.ok_or(missing)?;
    let method = SplitKeyMethod::from_number(method);
    // Exclusive or needs every part, whatever they say.
    let needed = if method == SplitKeyMethod::Xor { all } else { threshold };
    Ok((usize::try_from(needed).unwrap_or(usize::MAX), method))
}
