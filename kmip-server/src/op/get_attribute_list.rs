//! Get Attribute List: the names of the attributes an object has.

use kmip::{
    attribute::{AttributeRef, Instance},
    op::get_attribute_list::{Request, Response},
};

use crate::{context::Context, error::OpError, find, shown};

pub(crate) async fn get_attribute_list(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let (object, _) = find::object(cx, request.id).await?;
    let mut names: Vec<AttributeRef> = Vec::new();
    for Instance { attribute, .. } in shown::with_digest(cx, &object).await? {
        let name = attribute.key();
        if attribute.known(cx.version) && !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(Response { id: object.uid.clone(), attributes: names })
}
