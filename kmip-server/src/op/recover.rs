//! Recover: an archived object is used again. One that is not archived stays as it is.

use kmip::op::recover::{Request, Response};

use crate::{context::Context, error::OpError, find, meta::Meta};

pub(crate) async fn recover(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let (object, _) = find::object(cx, request.id).await?;
    let id = match Meta::of(&object)?.dates.archived {
        None => object.uid,
        Some(_) => find::change(cx, object, |meta| meta.dates.archived = None).await?,
    };
    Ok(Response { id })
}
