//! Archive: an object is put aside; it can be looked at, and is used again after Recover.

use kmip::op::archive::{Request, Response};

use crate::{context::Context, error::OpError, find};

pub(crate) async fn archive(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let (object, _) = find::on_line(cx, request.id).await?;
    if object.state.is_destroyed() {
        return Err(OpError::Destroyed(object.uid));
    }
    let now = cx.now;
    let id = find::change(cx, object, |meta| meta.dates.archived = Some(now)).await?;
    Ok(Response { id })
}
