//! Destroy: the bytes of an object are erased; what is known about it stays.

use km_core::objects::ObjectStep;
use kmip::op::destroy::{Request, Response};

use crate::{context::Context, error::OpError, find};

pub(crate) async fn destroy(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let now = cx.now;
    let object = find::step(cx, request.id, ObjectStep::Destroy, |meta| {
        meta.dates.destroyed = Some(now);
    });
    Ok(Response { id: object.await?.uid })
}
