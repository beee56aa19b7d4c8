//! Cancel: an operation in the background that has not begun is not done.

use kmip::op::cancel::{Request, Response};

use crate::{context::Context, error::OpError, later};

pub(crate) async fn cancel(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let result = later::cancel(cx, &request.correlation_value);
    Ok(Response { correlation_value: request.correlation_value, result })
}
