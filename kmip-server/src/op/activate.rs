//! Activate: a Pre-Active object becomes Active.

use km_core::objects::ObjectStep;
use kmip::op::activate::{Request, Response};

use crate::{context::Context, error::OpError, find};

pub(crate) async fn activate(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let now = cx.now;
    let object = find::step(cx, request.id, ObjectStep::Activate, |meta| {
        meta.dates.activation = Some(now);
    });
    Ok(Response { id: object.await?.uid })
}
