//! Register: an object the client brings.

use km_core::provenance::Origin;
use kmip::{
    attribute::Attributes,
    enums::{ObjectType, OperationCode},
    op::register::{Request, Response},
};

use crate::{
    certificate,
    context::Context,
    error::OpError,
    house,
    material::{self, Brought},
    qkd, storage, template,
};

pub(crate) async fn register(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let Some(object) = request.object else {
        let text = "keys that the server is not given cannot be registered; send the object";
        return Err(OpError::Feature(text));
    };
    let kind = object.kind();
    if kind != request.object_type {
        let text = "Object Type and the object differ".to_owned();
        return Err(OpError::ObjectType(text));
    }
    storage::choose(cx, request.protection_storage_masks.as_ref(), false)?;
    let Brought { mut meta, clear, inner } = material::take(object, cx.now)?;
    let mut attributes = template::expand(cx, request.attributes).await?;
    // Some clients send attributes inside the key value only.
    for instance in inner.list {
        let said = |other: &kmip::attribute::Instance| other.attribute == instance.attribute;
        if !attributes.list.iter().any(said) {
            attributes.list.push(instance);
        }
    }
    material::reconcile(&mut meta, &attributes)?;
    let said = match kind {
        ObjectType::Certificate => clear.expose(|der| certificate::attributes(der, &mut meta)),
        _ => Vec::new(),
    };
    let mut wanted = house::wanted(cx, attributes, kind, Some(&meta)).await?;
    qkd::refuse_claims(&wanted)?;
    wanted.apply(&mut meta);
    certificate::complete(&mut wanted.rest, said);
    material::link_wrapping_key(cx, &meta, &mut wanted.rest)?;
    let _held = super::hold_names(cx, &[&wanted]).await?;
    let id = super::store(cx, &meta, &wanted, Origin::Registered, &clear).await?;
    cx.remember(OperationCode::Register, vec![id.clone()]);
    Ok(Response { id, attributes: Attributes::default() })
}
