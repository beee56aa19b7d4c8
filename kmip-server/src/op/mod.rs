//! The operations, one file each: the context and a request in, a response or a refusal out.

pub(crate) mod activate;
pub(crate) mod add_attribute;
pub(crate) mod adjust_attribute;
pub(crate) mod archive;
pub(crate) mod cancel;
pub(crate) mod certify;
pub(crate) mod check;
pub(crate) mod create;
pub(crate) mod create_key_pair;
pub(crate) mod create_split_key;
pub(crate) mod decrypt;
pub(crate) mod delegated_login;
pub(crate) mod delete_attribute;
pub(crate) mod derive_key;
pub(crate) mod destroy;
pub(crate) mod discover_versions;
pub(crate) mod encrypt;
pub(crate) mod export;
pub(crate) mod get;
pub(crate) mod get_attribute_list;
pub(crate) mod get_attributes;
pub(crate) mod get_constraints;
pub(crate) mod get_usage_allocation;
pub(crate) mod hash;
pub(crate) mod import;
pub(crate) mod interop;
pub(crate) mod join_split_key;
pub(crate) mod locate;
pub(crate) mod log;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod mac;
pub(crate) mod mac_verify;
pub(crate) mod modify_attribute;
pub(crate) mod obtain_lease;
pub(crate) mod ping;
pub(crate) mod pkcs11;
pub(crate) mod query;
pub(crate) mod query_asynchronous_requests;
pub(crate) mod recertify;
pub(crate) mod recover;
pub(crate) mod register;
pub(crate) mod rekey;
pub(crate) mod rekey_key_pair;
pub(crate) mod revoke;
pub(crate) mod rng_retrieve;
pub(crate) mod rng_seed;
pub(crate) mod set_attribute;
pub(crate) mod set_constraints;
pub(crate) mod set_defaults;
pub(crate) mod set_endpoint_role;
pub(crate) mod sign;
pub(crate) mod signature_verify;
pub(crate) mod validate;

use km_core::{
    material::ClearBytes,
    objects::{NewObject, ObjectState, Objects},
    provenance::{Origin, Provenance},
};

use kmip::{attribute::Attributes, enums::OperationCode};

use crate::{
    context::Context, error::OpError, locks::Held, meta::Meta, names, terms, wanted::Wanted,
};

/// Operations whose effect is not in the store, where a stage keeps it back.
pub(crate) fn cannot_be_undone(code: OperationCode) -> bool {
    matches!(
        code,
        OperationCode::Login
            | OperationCode::DelegatedLogin
            | OperationCode::Logout
            | OperationCode::Poll
            | OperationCode::Process
            | OperationCode::Cancel
            | OperationCode::SetDefaults
            | OperationCode::SetConstraints
    )
}

/// Holds the names that new objects ask for until they are stored; refuses names that are taken.
async fn hold_names(cx: &Context<'_>, wanted: &[&Wanted]) -> Result<Option<Held>, OpError> {
    hold_names_of(cx, wanted, &[]).await
}

/// As [`hold_names`], where the objects of `except` may have the names.
async fn hold_names_of(
    cx: &Context<'_>,
    wanted: &[&Wanted],
    except: &[&str],
) -> Result<Option<Held>, OpError> {
    let names: Vec<_> = wanted.iter().flat_map(|wanted| wanted.names()).collect();
    names::hold(cx, &names, except).await
}

/// Stores a new object; durable on return.
async fn store(
    cx: &Context<'_>,
    meta: &Meta,
    wanted: &Wanted,
    origin: Origin,
    clear: &ClearBytes,
) -> Result<String, OpError> {
    let new = draft(cx, Objects::fresh_uid(), meta, &wanted.rest, origin);
    Ok(cx.objects().create(new, clear).await?.uid)
}

/// A new object of the caller's, without its bytes.
fn draft(
    cx: &Context<'_>,
    uid: String,
    meta: &Meta,
    rest: &Attributes,
    origin: Origin,
) -> NewObject {
    NewObject {
        uid,
        owner: cx.caller.tenant().clone(),
        state: meta.state_at(ObjectState::PreActive, cx.now),
        provenance: Provenance::local(origin),
        attributes: meta.encode(rest),
        terms: terms::of(meta.kind(), rest),
    }
}
