//! Logout: a ticket of the caller is good no more.

use kmip::op::logout::{Request, Response};

use crate::{context::Context, error::OpError};

pub(crate) async fn logout(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    cx.server.tickets.end(cx, &request.ticket)?;
    Ok(Response {})
}
