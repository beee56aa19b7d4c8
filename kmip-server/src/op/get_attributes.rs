//! Get Attributes: those asked for, in the order asked, or all.

use kmip::{
    attribute::{AttributeKind, AttributeRef, Instance},
    op::get_attributes::{Request, Response},
};

use crate::{context::Context, error::OpError, find, shown};

pub(crate) async fn get_attributes(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let (object, _) = find::object(cx, request.id).await?;
    let names = &request.attributes;
    let all = match names.is_empty() || names.contains(&AttributeKind::Digest.into()) {
        true => shown::with_digest(cx, &object).await?,
        false => shown::all(&object, cx.now)?,
    };
    let list = match request.attributes.as_slice() {
        [] => all,
        names => pick(&all, names),
    };
    Ok(Response { id: object.uid.clone(), attributes: shown::listed(list) })
}

fn pick(all: &[Instance], names: &[AttributeRef]) -> Vec<Instance> {
    let mut asked: Vec<&AttributeRef> = Vec::new();
    for name in names {
        if !asked.contains(&name) {
            asked.push(name);
        }
    }
    let of = |name: &&AttributeRef| {
        let name = (*name).clone();
        all.iter().filter(move |instance| instance.attribute.key() == name).cloned()
    };
    asked.iter().flat_map(of).collect()
}
