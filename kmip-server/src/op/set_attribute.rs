//! Set Attribute: the value of an attribute that is there once, whether it was there before or not.

use kmip::op::set_attribute::{Request, Response};

use crate::{
    change::{Which, change},
    context::Context,
    error::OpError,
    house,
    wanted::called,
};

pub(crate) async fn set_attribute(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let new = request.new;
    if new.kind().is_some_and(|kind| kind.is_multiple()) {
        return Err(OpError::HasMany(called(&new.key())));
    }
    let house = house::of_added(cx, &new).await?;
    let act = change(cx, request.id, &[], |draft| match draft.present(&new) {
        true => draft.modify(Which::Only, &new),
        false => draft.add(&new, &house),
    });
    Ok(Response { id: act.await?.0 })
}
