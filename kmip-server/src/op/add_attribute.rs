//! Add Attribute: one more attribute of an object, or one more instance of it.

use kmip::op::add_attribute::{Request, Response};

use crate::{change::change, context::Context, error::OpError, house, names};

pub(crate) async fn add_attribute(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let attribute = cx.resolve_link(request.attribute.attribute)?;
    if request.attribute.index.is_some_and(|index| index != 0) {
        let text = "the server numbers instances; add the attribute without an Attribute Index";
        return Err(OpError::Invalid(text.to_owned()));
    }
    let claimed: Vec<&str> = names::of(&attribute).into_iter().collect();
    let house = house::of_added(cx, &attribute).await?;
    let act = change(cx, request.id, &claimed, |draft| draft.add(&attribute, &house));
    let (id, added) = act.await?;
    Ok(Response { id, attribute: Some(added) })
}
