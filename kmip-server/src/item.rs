//! One item of a batch: may it be asked for, what it comes to, and how that is told.

use kmip::{
    Answer, Field, Operation,
    enums::OperationCode,
    message::{Outcome, RequestItem, ResponseItem},
};

use crate::{context::Context, error::OpError, later, notices, op, together};

/// What an item came to.
pub(crate) enum Done {
    /// Its own answer.
    Now(Answer),
    /// What became of another operation, which is told in its place, and where that waits until it
    /// is.
    Told(OperationCode, Outcome, Option<later::Place>),
}

/// The response item for what an item came to.
pub(crate) fn outcome(
    cx: &Context<'_>,
    code: OperationCode,
    id: Option<Vec<u8>>,
    done: Result<Done, OpError>,
) -> ResponseItem {
    match done {
        Ok(Done::Now(answer)) => ResponseItem::success(id, answer),
        Ok(Done::Told(code, outcome, _)) => {
            ResponseItem { code: Some(code), id, outcome, extension: None }
        }
        Err(error) => {
            tracing::debug!(caller = %cx.caller.application(), operation = ?code, %error, "refused");
            let reason = error.reason(cx.version);
            ResponseItem::failed(Some(code), id, reason, error.to_string())
        }
    }
}

/// Does an item of its own.
pub(crate) async fn do_item(cx: &mut Context<'_>, item: RequestItem) -> Result<Done, OpError> {
    let operation = allowed(cx, item)?;
    if let Some(told) = later::told(cx, &operation).await {
        return told;
    }
    let attribute = notices::attribute_of(&operation);
    let answer = dispatch(cx, operation).await?;
    cx.note(|| notices::of(&answer, attribute)).await;
    Ok(Done::Now(answer))
}

/// The operation of an item, if this server does it and the caller may ask for it.
pub(crate) fn allowed(cx: &mut Context<'_>, item: RequestItem) -> Result<Operation, OpError> {
    if item.extensions.iter().any(|extension| extension.critical) {
        return Err(OpError::Extension);
    }
    // An answer in a version that has no words for it would say nothing of what was done. Discover Versions
    // is how a client of 1.0 finds out that there are others.
    let has_words = item.code.known(cx.version) || item.code == OperationCode::DiscoverVersions;
    if item.ephemeral == Some(true) {
        return Err(OpError::Feature(
            "what an item gives is not kept back; send it without Ephemeral",
        ));
    }
    if !has_words || !op::query::operations(cx.server).any(|had| had == item.code) {
        return Err(OpError::Operation);
    }
    if cx.is_staged() && op::cannot_be_undone(item.code) {
        return Err(OpError::Feature(
            "what it does cannot be taken back; send it outside of a batch that may be undone",
        ));
    }
    cx.begin(item.code)?;
    Ok(item.operation?)
}

/// What is seldom asked for and large has a box of its own: the box of a request has room for the largest of
/// the others, and all of it is overwritten when the request is answered.
async fn dispatch(cx: &mut Context<'_>, operation: Operation) -> Result<Answer, OpError> {
    Ok(match operation {
        Operation::DiscoverVersions(r) => {
            op::discover_versions::discover_versions(cx, *r).await?.into()
        }
        Operation::Query(r) => Box::pin(op::query::query(cx, *r)).await?.into(),
        Operation::Create(r) => op::create::create(cx, *r).await?.into(),
        Operation::Register(r) => Box::pin(op::register::register(cx, *r)).await?.into(),
        Operation::Locate(r) => op::locate::locate(cx, *r).await?.into(),
        Operation::Get(r) => op::get::get(cx, *r).await?.into(),
        Operation::GetAttributes(r) => op::get_attributes::get_attributes(cx, *r).await?.into(),
        Operation::GetAttributeList(r) => {
            op::get_attribute_list::get_attribute_list(cx, *r).await?.into()
        }
        Operation::AddAttribute(r) => {
            Box::pin(op::add_attribute::add_attribute(cx, *r)).await?.into()
        }
        Operation::ModifyAttribute(r) => {
            Box::pin(op::modify_attribute::modify_attribute(cx, *r)).await?.into()
        }
        Operation::DeleteAttribute(r) => {
            Box::pin(op::delete_attribute::delete_attribute(cx, *r)).await?.into()
        }
        Operation::SetAttribute(r) => {
            Box::pin(op::set_attribute::set_attribute(cx, *r)).await?.into()
        }
        Operation::AdjustAttribute(r) => {
            Box::pin(op::adjust_attribute::adjust_attribute(cx, *r)).await?.into()
        }
        Operation::Check(r) => op::check::check(cx, *r).await?.into(),
        Operation::ObtainLease(r) => op::obtain_lease::obtain_lease(cx, *r).await?.into(),
        Operation::GetUsageAllocation(r) => {
            Box::pin(op::get_usage_allocation::get_usage_allocation(cx, *r)).await?.into()
        }
        Operation::Activate(r) => Box::pin(op::activate::activate(cx, *r)).await?.into(),
        Operation::Revoke(r) => Box::pin(op::revoke::revoke(cx, *r)).await?.into(),
        Operation::Destroy(r) => Box::pin(op::destroy::destroy(cx, *r)).await?.into(),
        Operation::Archive(r) => Box::pin(op::archive::archive(cx, *r)).await?.into(),
        Operation::Recover(r) => Box::pin(op::recover::recover(cx, *r)).await?.into(),
        Operation::ReKey(r) => Box::pin(op::rekey::rekey(cx, *r)).await?.into(),
        Operation::ReKeyKeyPair(r) => {
            Box::pin(op::rekey_key_pair::rekey_key_pair(cx, *r)).await?.into()
        }
        Operation::Certify(r) => Box::pin(op::certify::certify(cx, *r)).await?.into(),
        Operation::ReCertify(r) => Box::pin(op::recertify::recertify(cx, *r)).await?.into(),
        Operation::Validate(r) => Box::pin(op::validate::validate(cx, *r)).await?.into(),
        Operation::Import(r) => Box::pin(op::import::import(cx, *r)).await?.into(),
        Operation::Export(r) => Box::pin(op::export::export(cx, *r)).await?.into(),
        Operation::Interop(r) => op::interop::interop(cx, *r).await?.into(),
        Operation::Log(r) => op::log::log(cx, *r).await?.into(),
        Operation::Ping(r) => op::ping::ping(cx, *r).await?.into(),
        Operation::SetEndpointRole(r) => {
            op::set_endpoint_role::set_endpoint_role(cx, *r).await?.into()
        }
        Operation::CreateSplitKey(r) => {
            Box::pin(op::create_split_key::create_split_key(cx, *r)).await?.into()
        }
        Operation::JoinSplitKey(r) => {
            Box::pin(op::join_split_key::join_split_key(cx, *r)).await?.into()
        }
        use_of_a_key @ (Operation::Encrypt(_)
        | Operation::Decrypt(_)
        | Operation::Sign(_)
        | Operation::SignatureVerify(_)
        | Operation::Mac(_)
        | Operation::MacVerify(_)) => together::act(cx, use_of_a_key).await?,
        Operation::Hash(r) => op::hash::hash(cx, *r).await?.into(),
        Operation::RngRetrieve(r) => op::rng_retrieve::rng_retrieve(cx, *r).await?.into(),
        Operation::RngSeed(r) => op::rng_seed::rng_seed(cx, *r).await?.into(),
        Operation::CreateKeyPair(r) => {
            Box::pin(op::create_key_pair::create_key_pair(cx, *r)).await?.into()
        }
        Operation::DeriveKey(r) => Box::pin(op::derive_key::derive_key(cx, *r)).await?.into(),
        Operation::Cancel(r) => op::cancel::cancel(cx, *r).await?.into(),
        Operation::QueryAsynchronousRequests(r) => {
            op::query_asynchronous_requests::query_asynchronous_requests(cx, *r).await?.into()
        }
        Operation::Login(r) => op::login::login(cx, *r).await?.into(),
        Operation::Logout(r) => op::logout::logout(cx, *r).await?.into(),
        Operation::DelegatedLogin(r) => op::delegated_login::delegated_login(cx, *r).await?.into(),
        Operation::Pkcs11(r) => op::pkcs11::pkcs11(cx, *r).await?.into(),
        Operation::SetDefaults(r) => Box::pin(op::set_defaults::set_defaults(cx, *r)).await?.into(),
        Operation::SetConstraints(r) => {
            Box::pin(op::set_constraints::set_constraints(cx, *r)).await?.into()
        }
        Operation::GetConstraints(r) => {
            Box::pin(op::get_constraints::get_constraints(cx, *r)).await?.into()
        }
        // The first two are answered before they come here; the next two are for clients.
        Operation::Poll(_)
        | Operation::Process(_)
        | Operation::Notify(_)
        | Operation::Put(_)
        | Operation::Raw(_) => {
            return Err(OpError::Operation);
        }
    })
}
