//! Set Constraints: what new objects of the tenant must be like.

use kmip::{
    enums::OperationCode,
    op::set_constraints::{Request, Response},
};

use crate::{context::Context, error::OpError, house};

pub(crate) async fn set_constraints(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    cx.check_named(OperationCode::SetConstraints)?;
    house::check_constraints(&request.constraints)?;
    house::change(cx, |house| house.constraints = request.constraints.clone()).await?;
    tracing::info!(caller = %cx.caller.application(), tenant = %cx.caller.tenant(), "constraints were set");
    Ok(Response {})
}
