//! Templates (1.x): attributes kept under a name, for requests that name them.

use kmip::{
    attribute::{Attribute, Attributes},
    enums::ObjectType,
};

use crate::{
    context::Context,
    error::OpError,
    meta::{Meta, decode_list},
    terms,
};

/// Most templates one request names.
const MAX_TEMPLATES: usize = 8;
/// Most objects that may have the name of a template, destroyed ones left out.
const MAX_SAME: usize = 4;

/// `attributes` with those of the templates they name; what the request says itself goes first.
pub(crate) async fn expand(
    cx: &Context<'_>,
    attributes: Attributes,
) -> Result<Attributes, OpError> {
    let mut attributes = cx.resolve_links(attributes)?;
    let templates = std::mem::take(&mut attributes.templates);
    if templates.len() > MAX_TEMPLATES {
        let text = format!("a request names at most {MAX_TEMPLATES} templates");
        return Err(OpError::TooMuch(text));
    }
    for name in templates {
        for attribute in content(cx, &name.value).await?.iter() {
            // The template's own name is not that of the object.
            let own = matches!(attribute, Attribute::Name(_) | Attribute::ObjectType(_));
            let single = attribute.kind().is_none_or(|kind| !kind.is_multiple());
            let said = |other: &Attribute| match single {
                true => other.key() == attribute.key(),
                false => other == attribute,
            };
            if !own && !attributes.iter().any(said) {
                attributes.push(attribute.clone());
            }
        }
    }
    Ok(attributes)
}

async fn content(cx: &Context<'_>, name: &str) -> Result<Attributes, OpError> {
    let owner = cx.caller.tenant();
    for uid in cx.objects().search(owner, &terms::name(name), MAX_SAME).await? {
        let (object, _) = cx.objects().get(owner, &uid).await?;
        if Meta::of(&object)?.kind() == ObjectType::Template {
            let clear = cx.objects().open(&object).await?;
            return Ok(clear.expose(decode_list)?);
        }
    }
    Err(OpError::NotFound(name.to_owned()))
}
