//! Modify Attribute: another value for an attribute of an object.

use kmip::op::modify_attribute::{Request, Response};

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
    let (current, new) = (request.current, request.new);
    let which = match &current {
        Some(current) => Which::Value(current),
        None if cx.version.is_v2() => Which::Only,
        None => Which::Index(new.index.unwrap_or(0)),
    };
    // A name that stays what it is needs no claim.
    let same = current.as_ref() == Some(&new.attribute);
    let claimed: Vec<&str> = names::of(&new.attribute).filter(|_| !same).into_iter().collect();
    let act = change(cx, request.id, &claimed, |draft| draft.modify(which, &new.attribute));
    let (id, modified) = act.await?;
    Ok(Response { id, attribute: Some(modified) })
}
