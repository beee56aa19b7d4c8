//! Get Usage Allocation: takes a part off what an object may still be used. The part is the
//! client's on return, and never given back.

use kmip::op::get_usage_allocation::{Request, Response};

use crate::{context::Context, error::OpError, usage_limits};

pub(crate) async fn get_usage_allocation(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    Ok(Response { id: usage_limits::spend(cx, request.id, request.usage_limits_count).await? })
}
