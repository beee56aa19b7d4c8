//! Ping: the server answers.

use kmip::op::ping::{Request, Response};

use crate::{context::Context, error::OpError};

pub(crate) async fn ping(_: &mut Context<'_>, _: Request) -> Result<Response, OpError> {
    Ok(Response {})
}
