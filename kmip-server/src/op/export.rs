//! Export: an object with all its attributes, under the rules of Get.

use kmip::op::export::{Request, Response};

use super::get::{Wish, give};
use crate::{context::Context, error::OpError, find, shown};

pub(crate) async fn export(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let (object, version) = find::object(cx, request.id).await?;
    let meta = find::on_line_head(&object)?;
    let id = object.uid.clone();
    let attributes = shown::listed(shown::with_digest(cx, &object).await?);
    let wish = Wish {
        format: request.key_format_type,
        compression: request.key_compression_type,
        wrap_type: request.key_wrap_type,
        wrapping: request.key_wrapping_specification,
    };
    let object = give(cx, (object, &meta), version, wish).await?;
    tracing::debug!(key = %id, caller = %cx.caller.application(), "exported");
    Ok(Response { id, attributes, object })
}
