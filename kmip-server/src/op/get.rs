//! Get: the object with its bytes. The one operation that lets clear bytes out.

use km_core::{
    objects::{Object, ObjectError},
    store::Version,
};
use kmip::{
    enums::{KeyFormatType, KeyWrapType},
    op::get::{Request, Response},
};

use crate::{context::Context, error::OpError, find, material, meta::Meta};

/// How often the mark of a first delivery is tried against others who change the object.
const TRIES: usize = 4;

pub(crate) async fn get(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    if request.key_wrapping_specification.is_some() {
        return Err(OpError::Wrapping);
    }
    let (object, version) = find::object(cx, request.id).await?;
    let meta = Meta::of(&object)?;
    let id = object.uid.clone();
    if object.state.is_destroyed() {
        return Err(OpError::Destroyed(id));
    }
    if meta.sensitive {
        return Err(OpError::Sensitive(id));
    }
    if !meta.extractable {
        return Err(OpError::NotExtractable(id));
    }
    check_form(&meta, request.key_format_type)?;
    if request.key_compression_type.is_some_and(|c| Some(c.number()) != meta.compression) {
        return Err(OpError::Compression);
    }
    if matches!(request.key_wrap_type, Some(KeyWrapType::Other(_))) {
        return Err(OpError::Wrapping);
    }
    let clear = cx.objects().open(&object).await?;
    if meta.fresh {
        used(cx, object, version).await?;
    }
    tracing::debug!(key = %id, caller = %cx.caller.sae(), "given");
    Ok(Response { id, object: material::give(&meta, &clear)? })
}

/// Objects leave in the form they came in. A symmetric key in Raw form is also called so by
/// clients that name the form.
fn check_form(meta: &Meta, wanted: Option<KeyFormatType>) -> Result<(), OpError> {
    let Some(wanted) = wanted else { return Ok(()) };
    match meta.format() {
        Some(found) if found != wanted => Err(OpError::KeyFormat(format!(
            "the key is in {found:?} form and is not converted; ask for that or for none"
        ))),
        _ => Ok(()),
    }
}

/// Marks the object as given before its bytes leave.
async fn used(cx: &Context<'_>, object: Object, version: Version) -> Result<(), OpError> {
    let (mut object, mut version) = (object, version);
    for _ in 0..TRIES {
        let mut changed = object.clone();
        Meta::change(&mut changed, |meta| meta.fresh = false);
        match cx.objects().update(&object, version, &changed).await {
            Ok(()) => return Ok(()),
            Err(ObjectError::Conflict(uid)) => {
                (object, version) = cx.objects().get(cx.caller.sae(), &uid).await?;
                if object.state.is_destroyed() {
                    return Err(OpError::Destroyed(uid));
                }
                if !Meta::of(&object)?.fresh {
                    return Ok(());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(ObjectError::Conflict(object.uid).into())
}
