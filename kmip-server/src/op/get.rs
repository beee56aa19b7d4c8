//! Get: the object with its bytes, in the form and the wrapping asked for. With Export the one
//! operation that lets clear bytes out.

use km_core::{
    objects::{Object, ObjectError},
    store::Version,
};
use kmip::{
    Field,
    attribute::Attribute,
    enums::{KeyCompressionType, KeyFormatType, KeyWrapType},
    object::{KeyWrappingSpecification, Object as Carried},
    op::get::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    find, formats,
    material::{self, Given},
    meta::Meta,
    shown, wrap,
};

/// How often the mark of a first delivery is tried against others who change the object.
const TRIES: usize = 4;

/// How an object is wanted.
pub(crate) struct Wish {
    pub(crate) format: Option<KeyFormatType>,
    pub(crate) compression: Option<KeyCompressionType>,
    pub(crate) wrap_type: Option<KeyWrapType>,
    pub(crate) wrapping: Option<KeyWrappingSpecification>,
}

pub(crate) async fn get(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let (object, version) = find::object(cx, request.id).await?;
    let meta = find::on_line_head(&object)?;
    let id = object.uid.clone();
    let wish = Wish {
        format: request.key_format_type,
        compression: request.key_compression_type,
        wrap_type: request.key_wrap_type,
        wrapping: request.key_wrapping_specification,
    };
    let object = give(cx, (object, &meta), version, wish).await?;
    tracing::debug!(key = %id, caller = %cx.caller.application(), "given");
    Ok(Response { id, object })
}

/// The object as wanted; from now on it counts as given.
pub(crate) async fn give(
    cx: &Context<'_>,
    (object, meta): (Object, &Meta),
    version: Version,
    wish: Wish,
) -> Result<Carried, OpError> {
    check(&object, meta, &wish)?;
    let clear = cx.objects().open(&object).await?;
    if !material::has_block(meta.kind()) {
        let carried = material::without_block(meta, &clear)?;
        mark(cx, object, version, meta).await?;
        return Ok(carried);
    }
    let mut given = Given::stored(meta, &clear);
    if let (Some(data), Some(KeyWrapType::NotWrapped)) = (&given.wrapping, wish.wrap_type) {
        given = Box::pin(wrap::unwrap(cx, &data.clone(), given)).await?;
    }
    let is_gone = !given.format.known(cx.version);
    if is_gone && meta.wrapping.is_some() {
        let text = format!(
            "the key was registered wrapped, in {:?} form, which KMIP {} does not have; ask in another",
            given.format, cx.version
        );
        return Err(OpError::KeyFormat(text));
    }
    let newer = || formats::newer(given.format).filter(|_| is_gone);
    let wanted = wish.format.or_else(newer);
    if let Some(wanted) = wanted.filter(|wanted| *wanted != given.format) {
        if meta.wrapping.is_some() {
            let text = "a key that was registered wrapped is not converted";
            return Err(OpError::KeyFormat(text.to_owned()));
        }
        given.value = material::plain(formats::convert(meta, &clear, wanted)?);
        given.format = wanted;
    }
    if let Some(wanted) = wish.wrapping {
        let attributes: Vec<Attribute> = match wanted.attribute_names.is_empty() {
            true => Vec::new(),
            false => {
                let shown = Box::pin(shown::with_digest(cx, &object)).await?;
                shown.into_iter().map(|i| i.attribute).collect()
            }
        };
        given = Box::pin(wrap::wrap(cx, wanted, given, &attributes)).await?;
    }
    mark(cx, object, version, meta).await?;
    material::with_block(meta, given)
}

fn check(object: &Object, meta: &Meta, wish: &Wish) -> Result<(), OpError> {
    let id = || object.uid.clone();
    if object.state.is_destroyed() {
        return Err(OpError::Destroyed(id()));
    }
    let wrapped = wish.wrapping.is_some()
        || (meta.wrapping.is_some() && wish.wrap_type != Some(KeyWrapType::NotWrapped));
    if meta.sensitive && !wrapped {
        return Err(OpError::Sensitive(id()));
    }
    if !meta.extractable {
        return Err(OpError::NotExtractable(id()));
    }
    if wish.compression.is_some_and(|c| Some(c.number()) != meta.compression) {
        return Err(OpError::Compression);
    }
    if matches!(wish.wrap_type, Some(KeyWrapType::Other(_))) {
        return Err(OpError::Wrapping("this server has no such Key Wrap Type".to_owned()));
    }
    if wish.wrapping.is_some() && !material::has_block(meta.kind()) {
        let text = "an object without a Key Block is not wrapped; ask for it as it is".to_owned();
        return Err(OpError::ObjectType(text));
    }
    Ok(())
}

/// Marks the object as given before its bytes leave.
async fn mark(
    cx: &Context<'_>,
    object: Object,
    version: Version,
    meta: &Meta,
) -> Result<(), OpError> {
    match meta.fresh {
        true => Box::pin(mark_first(cx, object, version)).await,
        false => Ok(()),
    }
}

async fn mark_first(
    cx: &Context<'_>,
    mut object: Object,
    mut version: Version,
) -> Result<(), OpError> {
    for _ in 0..TRIES {
        let mut changed = object.clone();
        Meta::change(&mut changed, |meta| meta.fresh = false);
        match cx.objects().update(&object, version, &changed).await {
            Ok(()) => return Ok(()),
            Err(ObjectError::Conflict(uid)) => {
                (object, version) = cx.objects().get(cx.caller.tenant(), &uid).await?;
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
