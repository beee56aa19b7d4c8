//! Delete Attribute: takes an attribute, or an instance of it, away from an object.

use kmip::op::delete_attribute::{Request, Response};

use crate::{
    change::{Which, change},
    context::Context,
    error::OpError,
};

pub(crate) async fn delete_attribute(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let Request { id, name, index, current } = request;
    let current = current.map(|current| cx.resolve_link(current)).transpose()?;
    let key = current.as_ref().map(|current| current.key()).or(name);
    let key = key.ok_or(OpError::Missing("which attribute is to be deleted is missing"))?;
    let which = match &current {
        Some(current) => Some(Which::Value(current)),
        // A reference means all instances.
        None if cx.version.is_v2() => None,
        None => Some(Which::Index(index.unwrap_or(0))),
    };
    let (id, deleted) = change(cx, id, &[], |draft| draft.delete(&key, which)).await?;
    Ok(Response { id, attribute: Some(deleted) })
}
