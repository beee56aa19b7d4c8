//! Set Defaults: what new objects of the tenant get that their requests do not say.

use kmip::{
    enums::OperationCode,
    op::set_defaults::{Request, Response},
};

use crate::{context::Context, error::OpError, house};

pub(crate) async fn set_defaults(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    cx.check_named(OperationCode::SetDefaults)?;
    let defaults = request.defaults.unwrap_or_default();
    house::check_defaults(&defaults)?;
    house::change(cx, |house| house.defaults = defaults.clone()).await?;
    tracing::info!(caller = %cx.caller.application(), tenant = %cx.caller.tenant(), "defaults were set");
    Ok(Response {})
}
