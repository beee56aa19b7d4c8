//! Re-certify: a new certificate for the key of an old one, linked with it. The names go over to the
//! new certificate.

use authority::{Leaf, Uses};
use km_core::{
    objects::{Object, ObjectState, Objects},
    store::Version,
};
use kmip::{
    Interval,
    attribute::{Attribute, Attributes},
    enums::{CertificateType, LinkType, ObjectType, OperationCode},
    op::{
        certify,
        recertify::{Request, Response},
    },
};

use super::{
    certify::{Draft, asked, certifier, dates, info},
    rekey::{check_dates, is_renamed, succeed, superseded},
};
use crate::{
    certifier::Certifier,
    context::Context,
    error::OpError,
    find, house,
    meta::{Meta, linked},
    storage, template,
    unit::Unit,
    wanted,
};

pub(crate) async fn recertify(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let certifier = certifier(cx)?;
    let Request { certify: asked_for, offset } = request;
    let certify::Request {
        id,
        request_id,
        request_type,
        request,
        attributes,
        protection_storage_masks,
    } = asked_for;
    storage::choose(cx, protection_storage_masks.as_ref(), false)?;
    let changes = template::expand(cx, attributes).await?;
    check_dates(offset, &[&changes])?;
    let asked = asked(cx, request_id, request_type, request).await?;
    let (old, version) = find::on_line(cx, id).await?;
    let (meta, rest) = check(&old)?;
    let before =
        cx.objects().open(&old).await?.expose(|der| Leaf::of_certificate(der, Uses::Signing))?;
    let key = linked(&rest, LinkType::PublicKeyLink).map(str::to_owned);
    check_key(cx, key.as_deref(), &before).await?;
    let leaf = match asked {
        Some(asked) if asked.has_key_of(&before) => asked,
        Some(_) => {
            let text = "the certificate request is for another key than the old certificate";
            return Err(OpError::CertificateRequest(text.to_owned()));
        }
        None if key.is_some() => before,
        // Nothing else shows that its holder still has the key, and wants it certified.
        None => {
            let text = "the certificate's key is not among these objects: send a certificate \
                        request that it signed";
            return Err(OpError::Missing(text));
        }
    };
    let span = span(cx, certifier, &meta, offset, &changes)?;
    let der = certifier.authority.issue(&leaf, span).await?;
    let attributes = succession(&rest, &changes);
    house::check(cx, &attributes, ObjectType::Certificate, None).await?;
    let draft = Draft { der, span, key, attributes };
    let (new_meta, mut wanted) = draft.read(cx)?;
    succeed(&mut wanted.rest, &old.uid, &rest, cx.now);
    let renamed = is_renamed(&changes);
    let except = (!renamed).then_some(old.uid.as_str());
    let _held = super::hold_names_of(cx, &[&wanted], except.as_slice()).await?;
    let unit = Unit::begin(cx);
    let done = match draft.store(cx, unit.objects(), &new_meta, &wanted).await {
        Ok(id) => {
            let changed = superseded(&old, meta, &rest, &id, renamed, cx.now);
            write(unit.objects(), (&old, version), &changed).await.map(|()| id)
        }
        refused => refused,
    };
    let id = unit.end(done).await?;
    tracing::info!(caller = %cx.caller.application(), certificate = %id, subject = %leaf.subject_text(),
        "a certificate was renewed");
    cx.remember(OperationCode::ReCertify, vec![id.clone()]);
    Ok(Response { id, attributes: Attributes::default() })
}

async fn write(
    objects: &Objects,
    (old, version): (&Object, Version),
    changed: &Object,
) -> Result<(), OpError> {
    Ok(objects.update(old, version, changed).await?)
}

fn check(old: &Object) -> Result<(Meta, Attributes), OpError> {
    let (meta, rest) = Meta::with_rest(old)?;
    let x509 = CertificateType::from_number(meta.subtype) == CertificateType::X509;
    if meta.kind() != ObjectType::Certificate || !x509 {
        return Err(OpError::ObjectType("Re-certify renews X.509 certificates".to_owned()));
    }
    if old.state.is_destroyed() {
        return Err(OpError::Destroyed(old.uid.clone()));
    }
    if old.state == ObjectState::Compromised || meta.revocation.is_some() {
        let text = format!("certificate {} was revoked, and is not renewed; use Certify", old.uid);
        return Err(OpError::Lifecycle(text));
    }
    Ok((meta, rest))
}

/// Refuses a key that is certified no more, or that the old certificate, `before`, is not for.
async fn check_key(cx: &Context<'_>, key: Option<&str>, before: &Leaf) -> Result<(), OpError> {
    let Some(key) = key else { return Ok(()) };
    let (object, _) = find::on_line(cx, Some(key.into())).await?;
    match before.is_for(&info(cx, &object).await?.info) {
        true => Ok(()),
        false => {
            let text = format!("the certificate is linked with key {key}, and is for another");
            Err(OpError::Illegal(text))
        }
    }
}

/// When the new certificate is valid: with an offset as long as the old one from then on, else as the
/// attributes say, else from now on for as long as new certificates are.
fn span(
    cx: &Context<'_>,
    certifier: &Certifier,
    old: &Meta,
    offset: Option<Interval>,
    changes: &Attributes,
) -> Result<authority::Span, OpError> {
    let Some(offset) = offset else {
        let (from, until) = dates(changes);
        return certifier.span(cx.now, from, until);
    };
    let from = cx.now.saturating_add(i64::from(offset.0));
    let dates = &old.dates;
    let until = dates.activation.zip(dates.deactivation);
    let until = until.map(|(begin, end)| end.saturating_add(from.saturating_sub(begin)));
    certifier.span(cx.now, Some(from), until)
}

/// What the new certificate asks for: what the old one has and the new one does not say itself.
fn succession(rest: &Attributes, changes: &Attributes) -> Attributes {
    let mut all = changes.clone();
    let stays = |attribute: &&Attribute| {
        let said = changes.iter().any(|change| change.key() == attribute.key());
        !said && !matches!(attribute, Attribute::Link(_)) && wanted::may_be_asked_for(attribute)
    };
    rest.iter().filter(stays).cloned().for_each(|attribute| all.push(attribute));
    all
}
