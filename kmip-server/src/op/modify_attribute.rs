//! Modify Attribute: another value for an attribute of an object.

use kmip::{
    attribute::Instance,
    op::modify_attribute::{Request, Response},
};

use crate::{
    change::{Which, change},
    context::Context,
    error::OpError,
    names,
};

pub(crate) async fn modify_attribute(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let current = request.current.map(|current| cx.resolve_link(current)).transpose()?;
    let Instance { index, attribute: new } = request.new;
    let new = cx.resolve_link(new)?;
    let which = match &current {
        Some(current) => Which::Value(current),
        None if cx.version.is_v2() => Which::Only,
        None => Which::Index(index.unwrap_or(0)),
    };
    let claimed: Vec<&str> = names::of(&new).into_iter().collect();
    let act = change(cx, request.id, &claimed, |draft| draft.modify(which, &new));
    let (id, modified) = act.await?;
    Ok(Response { id, attribute: Some(modified) })
}
