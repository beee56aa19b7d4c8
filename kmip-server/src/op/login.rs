//! Login: a ticket for the caller.

use kmip::op::login::{Request, Response};

use crate::{context::Context, error::OpError};

pub(crate) async fn login(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    refuse_limits(request.usage_limits.is_some())?;
    let Request { lease_time, request_count, .. } = request;
    let ticket = cx.server.tickets.issue(cx, lease_time, request_count, None).await?;
    Ok(Response { ticket })
}

pub(super) fn refuse_limits(asked: bool) -> Result<(), OpError> {
    match asked {
        true => Err(OpError::Feature("tickets have no Usage Limits here; give the key some")),
        false => Ok(()),
    }
}
