//! Import: an object under the identifier and with the attributes it had elsewhere, those included
//! that otherwise only the server sets.

use km_core::{
    key_id::KeyId,
    objects::{NewObject, Object, ObjectError, ObjectState},
    provenance::{Origin, Provenance},
};
use kmip::{
    DateTime,
    attribute::{Attribute, AttributeKind, Attributes},
    enums::{KeyWrapType, ObjectType, OperationCode, State},
    op::import::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    house,
    material::{self, Brought},
    meta::Meta,
    qkd, terms, usage_limits,
    wanted::{self, Wanted, has_word},
    wrap,
};

pub(crate) async fn import(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let id = request.id;
    if KeyId::parse(&id).is_some() {
        return Err(OpError::Denied(format!("{id} is the identifier of a pool key")));
    }
    let kind = request.object.kind();
    if kind != request.object_type {
        return Err(OpError::ObjectType("Object Type and the object differ".to_owned()));
    }
    let brought = material::take(request.object, cx.now)?;
    let Brought { mut meta, clear, inner } = match request.key_wrap_type {
        Some(KeyWrapType::NotWrapped) => wrap::unwrapped(cx, brought).await?,
        _ => brought,
    };
    let mut attributes = cx.resolve_links(request.attributes)?;
    attributes.list.extend(inner.list);
    material::reconcile(&mut meta, &attributes)?;
    let (of_server, of_client) = split(attributes);
    let limits = usage_limits::of(&of_client).cloned();
    house::check(cx, &of_client, kind, Some(&meta)).await?;
    let mut wanted = Wanted::read(of_client, kind)?;
    usage_limits::go_on(&mut wanted.rest, limits);
    qkd::refuse_claims(&wanted)?;
    wanted.apply(&mut meta);
    material::link_wrapping_key(cx, &meta, &mut wanted.rest)?;
    let state = impose(&mut meta, &mut wanted.rest, of_server)?;
    let _held = super::hold_names_of(cx, &[&wanted], &[&id]).await?;
    let new = NewObject {
        uid: id.clone(),
        owner: cx.caller.tenant().clone(),
        state: meta.state_at(state, cx.now),
        provenance: Provenance::local(Origin::Registered),
        attributes: meta.encode(&wanted.rest),
        terms: terms::of(kind, &wanted.rest),
    };
    let stored = match (
        qkd::existing(cx.objects(), cx.caller.tenant(), &id).await?,
        request.replace_existing,
    ) {
        (Some((old, version)), Some(true)) => {
            keeps_type(&old, kind)?;
            cx.objects().replace(new, &clear, (&old, version)).await
        }
        (Some(_), _) => Err(ObjectError::Exists(id.clone())),
        (None, _) => cx.objects().create(new, &clear).await,
    };
    match stored {
        Err(ObjectError::Exists(id)) => return Err(OpError::Exists(id)),
        stored => stored?,
    };
    cx.remember(OperationCode::Import, vec![id.clone()]);
    Ok(Response { id })
}

/// The Object Type is not changed before the object is destroyed (KMIP 1.4, 3.3); searches rely on it.
fn keeps_type(old: &Object, kind: ObjectType) -> Result<(), OpError> {
    if old.state.is_destroyed() || Meta::of(old)?.kind() == kind {
        return Ok(());
    }
    let text = "the object that is there has another Object Type; destroy it first, or import under \
                another identifier";
    Err(OpError::ObjectType(text.to_owned()))
}

/// Attributes that elsewhere only the server sets, and the others.
fn split(attributes: Attributes) -> (Vec<Attribute>, Attributes) {
    let templates = attributes.templates;
    let (of_server, of_client): (Vec<_>, Vec<_>) =
        attributes.list.into_iter().partition(|instance| wanted::is_read_only(&instance.attribute));
    let of_server = of_server.into_iter().map(|instance| instance.attribute).collect();
    (of_server, Attributes { templates, list: of_client })
}

/// Writes into the head what the other server knew. What follows from the bytes (Digest, lengths,
/// types) is not taken over but known here too.
fn impose(
    meta: &mut Meta,
    rest: &mut Attributes,
    attributes: Vec<Attribute>,
) -> Result<ObjectState, OpError> {
    let mut state = ObjectState::PreActive;
    let dates = &mut meta.dates;
    for attribute in attributes {
        match attribute {
            Attribute::State(State::PreActive) => {}
            Attribute::State(State::Active) => state = ObjectState::Active,
            Attribute::State(State::Deactivated) => state = ObjectState::Deactivated,
            Attribute::State(State::Compromised) => state = ObjectState::Compromised,
            Attribute::State(_) => {
                let text = "a destroyed object is not imported";
                return Err(OpError::invalid(AttributeKind::State, text));
            }
            Attribute::InitialDate(DateTime(date)) => dates.initial = date,
            Attribute::CompromiseDate(DateTime(date)) => dates.compromise = Some(date),
            Attribute::CompromiseOccurrenceDate(DateTime(date)) => {
                dates.compromise_occurrence = Some(date);
            }
            Attribute::ArchiveDate(DateTime(date)) => dates.archived = Some(date),
            Attribute::RevocationReason(reason) if !has_word(&reason.code) => {
                return Err(OpError::NoWord("Revocation Reason Code".to_owned()));
            }
            Attribute::RevocationReason(reason) => {
                meta.revocation = Some((reason.code.number(), reason.message));
            }
            rotation @ (Attribute::RotateDate(_)
            | Attribute::RotateGeneration(_)
            | Attribute::RotateLatest(_)) => rest.push(rotation),
            _ => {}
        }
    }
    Ok(state)
}
