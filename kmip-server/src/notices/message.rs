//! A notice to the requests that say it, in the version of the application: Notify with what an object
//! is like now, Put with the object.

use std::sync::Arc;

use km_core::{clock::now_ms, objects::Object};
use kmip::{
    Operation, RequestMessage, Version,
    attribute::{AttributeKind, AttributeRef, Attributes, Instance},
    enums::{LinkType, OperationCode, PutFunction},
    message::{RequestHeader, RequestItem},
    op,
};
use wiped::Wiped;

use super::{Notice, What};
use crate::{
    Server,
    caller::Caller,
    context::Context,
    error::OpError,
    meta::{Meta, linked},
    op::get::{Wish, give},
    policy::Sent,
    shown,
};

/// What is told of every change.
const LIFE: [AttributeKind; 8] = [
    AttributeKind::State,
    AttributeKind::LastChangeDate,
    AttributeKind::ActivationDate,
    AttributeKind::DeactivationDate,
    AttributeKind::DestroyDate,
    AttributeKind::CompromiseDate,
    AttributeKind::ArchiveDate,
    AttributeKind::RevocationReason,
];

/// The frames that tell `caller` of `notice`; none when there is nothing to tell it.
pub(super) async fn frames(
    server: &Arc<Server>,
    caller: &Arc<Caller>,
    (version, sent): (Version, Sent),
    notice: &Notice,
) -> Vec<Wiped> {
    let now = i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX);
    let cx = Context::new(server, &server.objects, false, (caller, None), version, now);
    let requests = match requests(&cx, sent, notice).await {
        Ok(requests) => requests,
        Err(error) => {
            // Such as one that is gone.
            let application = caller.application();
            tracing::debug!(%application, object = notice.uid, %error, "nothing to tell");
            return Vec::new();
        }
    };
    let frame = |operation: Operation| {
        let items = vec![RequestItem::new(operation)];
        let message = RequestMessage { version, header: RequestHeader::new(version), items };
        message.encode().ok()
    };
    requests.into_iter().filter_map(frame).collect()
}

async fn requests(
    cx: &Context<'_>,
    sent: Sent,
    notice: &Notice,
) -> Result<Vec<Operation>, OpError> {
    let (object, _) = cx.objects().get(cx.caller.tenant(), &notice.uid).await?;
    match &notice.what {
        What::Changed(attribute) => {
            let more = attribute.as_slice();
            Ok(notify(cx, &object, more)?.into_iter().collect())
        }
        What::Made => {
            let wanted = sent == Sent::All;
            let put = if wanted { put(cx, object, None).await } else { None };
            Ok(put.into_iter().collect())
        }
        What::Successor => {
            let mut all = Vec::new();
            let old = replaced(&object)?;
            if let Some(old) = &old {
                let (old, _) = cx.objects().get(cx.caller.tenant(), old).await?;
                all.extend(notify(cx, &old, &[AttributeKind::Link.into()])?);
            }
            if sent != Sent::Nothing {
                all.extend(put(cx, object, old).await);
            }
            Ok(all)
        }
    }
}

/// The object that `object` took the place of.
fn replaced(object: &Object) -> Result<Option<String>, OpError> {
    let (_, rest) = Meta::with_rest(object)?;
    Ok(linked(&rest, LinkType::ReplacedObjectLink).map(str::to_owned))
}

fn notify(
    cx: &Context<'_>,
    object: &Object,
    more: &[AttributeRef],
) -> Result<Option<Operation>, OpError> {
    if !cx.caller.may(OperationCode::GetAttributes) {
        return Ok(None);
    }
    let told = |instance: &Instance| {
        let key = instance.attribute.key();
        LIFE.iter().any(|kind| key == AttributeRef::Kind(*kind)) || more.contains(&key)
    };
    let attributes = told_of(cx, object, told)?;
    Ok(Some(op::notify::Request { id: object.uid.clone(), attributes }.into()))
}

fn told_of(
    cx: &Context<'_>,
    object: &Object,
    told: impl FnMut(&Instance) -> bool,
) -> Result<Attributes, OpError> {
    Ok(shown::listed(shown::all(object, cx.now)?.into_iter().filter(told).collect()))
}

/// As Get would give it, with all its attributes; none where Get would not.
async fn put(cx: &Context<'_>, object: Object, replaced: Option<String>) -> Option<Operation> {
    let uid = object.uid.clone();
    if !cx.caller.may(OperationCode::Get) {
        return None;
    }
    let put = given(cx, object, replaced).await;
    let application = cx.caller.application();
    let put = put.inspect_err(|error| {
        tracing::debug!(%application, object = uid, %error, "not put");
    });
    put.ok().map(Operation::from)
}

async fn given(
    cx: &Context<'_>,
    object: Object,
    replaced: Option<String>,
) -> Result<op::put::Request, OpError> {
    let (object, version) = cx.objects().get(cx.caller.tenant(), &object.uid).await?;
    let (id, attributes) = (object.uid.clone(), told_of(cx, &object, |_| true)?);
    let wish = Wish { format: None, compression: None, wrap_type: None, wrapping: None };
    let meta = Meta::of(&object)?;
    let carried = give(cx, (object, &meta), version, wish).await?;
    let function = if replaced.is_some() { PutFunction::Replace } else { PutFunction::New };
    tracing::debug!(key = %id, application = %cx.caller.application(), "put");
    Ok(op::put::Request { id, function, replaced, object: carried, attributes })
}
