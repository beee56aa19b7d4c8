//! Check: whether an object may be used so. What may not is refused with the reason.

use kmip::{
    enums::ResultReason,
    op::check::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    find,
    meta::Meta,
    shown,
    usage_limits::{self, left},
};

pub(crate) async fn check(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let (object, _) = find::object(cx, request.id).await?;
    if object.state.is_destroyed() {
        return Err(OpError::Destroyed(object.uid));
    }
    let (meta, rest) = Meta::with_rest(&object)?;
    let refuse = |reason, text: &str| Err(OpError::Check(reason, text.to_owned()));
    if let Some(asked) = request.usage_mask
        && asked & !meta.usage_mask.unwrap_or(0) != 0
    {
        let text = "the object's Cryptographic Usage Mask does not allow it";
        return refuse(ResultReason::IncompatibleCryptographicUsageMask, text);
    }
    if let (Some(asked), Some(limits)) = (request.usage_limits_count, usage_limits::of(&rest))
        && asked > left(limits)
    {
        let text = format!("the object may be used for {} more only", left(limits));
        return refuse(ResultReason::UsageLimitExceeded, &text);
    }
    if request.lease_time.is_some_and(|asked| asked.0 > shown::LEASE) {
        let text = format!("leases last {} seconds", shown::LEASE);
        return refuse(ResultReason::PermissionDenied, &text);
    }
    Ok(Response { id: object.uid, usage_limits_count: None, usage_mask: None, lease_time: None })
}
