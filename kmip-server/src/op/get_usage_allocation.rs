//! Get Usage Allocation: takes a part off what an object may still be used. The part is the
//! client's on return, and never given back.

use kmip::op::get_usage_allocation::{Request, Response};

use crate::{change::change, context::Context, error::OpError, usage_limits};

pub(crate) async fn get_usage_allocation(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let count = request.usage_limits_count;
    let taken = change(cx, request.id, &[], |draft| {
        if usage_limits::of(&draft.rest).is_none() {
            return Err(OpError::NoAttribute("Usage Limits".to_owned()));
        }
        usage_limits::take(&mut draft.rest, count)
    });
    Ok(Response { id: taken.await?.0 })
}
