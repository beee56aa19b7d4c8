//! Delegated Login: a ticket with which another application may do a part of what the caller may.

use kmip::op::delegated_login::{Request, Response};

use crate::{context::Context, error::OpError, tickets::Rights};

pub(crate) async fn delegated_login(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    super::login::refuse_limits(request.usage_limits.is_some())?;
    let Request { lease_time, request_count, rights, .. } = request;
    let rights = Some(Rights::read(rights.list)?);
    let ticket = cx.server.tickets.issue(cx, lease_time, request_count, rights).await?;
    tracing::info!(caller = %cx.caller.application(), "rights were passed on in a ticket");
    Ok(Response { ticket })
}
