//! The operations, one file each: the context and a request in, a response or a refusal out.

pub(crate) mod activate;
pub(crate) mod create;
pub(crate) mod destroy;
pub(crate) mod discover_versions;
pub(crate) mod get;
pub(crate) mod get_attribute_list;
pub(crate) mod get_attributes;
pub(crate) mod locate;
pub(crate) mod query;
pub(crate) mod register;
pub(crate) mod revoke;

use km_core::{
    ids::SaeId,
    material::ClearBytes,
    objects::{NewObject, ObjectState, Objects},
    provenance::{Origin, Provenance},
};

use crate::{context::Context, error::OpError, locks::Held, meta::Meta, terms, wanted::Wanted};

/// Holds the names a new object asks for until it is stored; refuses names that are taken.
async fn hold_names(cx: &Context<'_>, wanted: &Wanted) -> Result<Option<Held>, OpError> {
    let names: Vec<&str> = wanted.names().collect();
    if names.is_empty() {
        return Ok(None);
    }
    let owner = cx.caller.sae();
    let locks = names.iter().map(|name| format!("name:{owner}/{name}")).collect();
    let held = cx.server.locks.hold(locks).await;
    for name in names {
        if is_taken(cx.objects(), owner, name).await? {
            return Err(OpError::NameTaken(name.to_owned()));
        }
    }
    Ok(Some(held))
}

async fn is_taken(objects: &Objects, owner: &SaeId, name: &str) -> Result<bool, OpError> {
    Ok(!objects.search(owner, &terms::name(name), None, 1).await?.is_empty())
}

/// Stores a new object; durable on return.
async fn store(
    cx: &Context<'_>,
    meta: &Meta,
    wanted: &Wanted,
    origin: Origin,
    clear: &ClearBytes,
) -> Result<String, OpError> {
    let new = NewObject {
        uid: Objects::fresh_uid(),
        owner: cx.caller.sae().clone(),
        state: meta.state_at(ObjectState::PreActive, cx.now),
        provenance: Provenance::local(origin),
        attributes: meta.encode(&wanted.rest),
        terms: terms::of(meta.kind(), &wanted.rest),
    };
    Ok(cx.objects().create(new, clear).await?.uid)
}
