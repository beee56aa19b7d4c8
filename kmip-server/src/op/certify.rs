//! Certify: a certificate for a public key, signed by the authority in the token.

use authority::{Leaf, Span, Uses};
use km_core::{
    material::ClearBytes,
    objects::{Object, ObjectState, Objects},
    provenance::Origin,
};
use kmip::{
    DateTime,
    attribute::{Attribute, Attributes, UniqueIdentifier},
    enums::{
        CertificateRequestType, CertificateType, KeyFormatType, LinkType, ObjectType, OperationCode,
    },
    object::KeyMaterial,
    op::certify::{Request, Response},
};

use super::rekey::link;
use crate::{
    certificate,
    certifier::Certifier,
    context::Context,
    error::OpError,
    find, formats, house,
    meta::{Form, Meta},
    qkd, storage, template, terms,
    unit::Unit,
    wanted::Wanted,
};

pub(crate) async fn certify(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let certifier = certifier(cx)?;
    let Request { id, request_id, request_type, request, attributes, protection_storage_masks } =
        request;
    storage::choose(cx, protection_storage_masks.as_ref(), false)?;
    let mut attributes = template::expand(cx, attributes).await?;
    let house = house::of(cx).await?;
    house.complete(&mut attributes, ObjectType::Certificate, None);
    house.check(&attributes, ObjectType::Certificate, None)?;
    // A Certificate Request may stand in the place of the key (KMIP 2.1, 6.1.6).
    let (id, request_id) = match (&request_id, &request) {
        (None, None) => match request_in_place_of_key(cx, id.clone()).await? {
            Some(request) => (None, Some(request)),
            None => (id, None),
        },
        _ => (id, request_id),
    };
    let asked = asked(cx, request_id, request_type, request).await?;
    let key = public_key(cx, id, asked.as_ref()).await?;
    let leaf = match (asked, &key) {
        (Some(leaf), _) => leaf,
        (None, Some(key)) => named(Leaf::new("", &key.info, Uses::Signing)?, &attributes)?,
        (None, None) => {
            let text = "Certify needs a public key or a certificate request";
            return Err(OpError::Missing(text));
        }
    };
    let (from, until) = dates(&attributes);
    let span = certifier.span(cx.now, from, until)?;
    let der = certifier.authority.issue(&leaf, span).await?;
    let key = key.map(|key| key.uid);
    let draft = Draft { der, span, key, attributes };
    let (meta, wanted) = draft.read(cx)?;
    let _held = super::hold_names(cx, &[&wanted]).await?;
    let unit = Unit::begin(cx);
    let done = draft.store(cx, unit.objects(), &meta, &wanted).await;
    let id = unit.end(done).await?;
    tracing::info!(caller = %cx.caller.application(), certificate = %id, subject = %leaf.subject_text(),
        "a certificate was issued");
    cx.remember(OperationCode::Certify, vec![id.clone()]);
    Ok(Response { id, attributes: Attributes::default() })
}

/// The authority, when there is one and the caller may have its certificates; with a ticket both the
/// one whose it is and its holder.
pub(super) fn certifier<'a>(cx: &Context<'a>) -> Result<&'a Certifier, OpError> {
    let certifier = cx.server.certifier().ok_or(OpError::Operation)?;
    let may = |application| certifier.applications.contains(application);
    match may(cx.caller.application()) && may(cx.payer().application()) {
        true => Ok(certifier),
        false => {
            let text = "this application may have no certificates issued; ask the operator";
            Err(OpError::Denied(text.to_owned()))
        }
    }
}

/// What the certificate request says, if there is one.
pub(super) async fn asked(
    cx: &Context<'_>,
    id: Option<UniqueIdentifier>,
    kind: Option<CertificateRequestType>,
    request: Option<Vec<u8>>,
) -> Result<Option<Leaf>, OpError> {
    let (kind, bytes) = match (id, request) {
        (None, None) => return Ok(None),
        (_, Some(bytes)) => {
            let text = "Certificate Request Type is missing";
            (kind.ok_or(OpError::Missing(text))?, bytes)
        }
        (Some(id), None) => {
            let (object, _) = find::on_line(cx, Some(id)).await?;
            let meta = Meta::of(&object)?;
            if meta.kind() != ObjectType::CertificateRequest {
                let text = format!("object {} is no certificate request", object.uid);
                return Err(OpError::ObjectType(text));
            }
            let kind = CertificateRequestType::from_number(meta.subtype);
            (kind, cx.objects().open(&object).await?.expose(<[u8]>::to_vec))
        }
    };
    Ok(Some(match kind {
        CertificateRequestType::Pkcs10 => Leaf::of_request(&bytes, Uses::Signing)?,
        CertificateRequestType::Pem => Leaf::of_pem_request(&bytes, Uses::Signing)?,
        _ => {
            let text = "certificate requests are taken as PKCS #10, in DER or in PEM";
            return Err(OpError::CertificateRequest(text.to_owned()));
        }
    }))
}

/// The object that is to be certified, if it is a certificate request.
async fn request_in_place_of_key(
    cx: &Context<'_>,
    id: Option<UniqueIdentifier>,
) -> Result<Option<UniqueIdentifier>, OpError> {
    let object = match find::on_line(cx, id).await {
        Ok((object, _)) => object,
        Err(OpError::NoPlaceholder) => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_request = Meta::of(&object)?.kind() == ObjectType::CertificateRequest;
    Ok(is_request.then(|| object.uid.as_str().into()))
}

/// A public key of the caller's.
pub(super) struct PublicKey {
    uid: String,
    /// SubjectPublicKeyInfo.
    pub(super) info: Vec<u8>,
}

/// The public key a request names. Without a name and beside a certificate request, the ID
/// placeholder stands for one only when it is the key of that request.
async fn public_key(
    cx: &Context<'_>,
    id: Option<UniqueIdentifier>,
    asked: Option<&Leaf>,
) -> Result<Option<PublicKey>, OpError> {
    let is_named = id.is_some();
    let found = match find::on_line(cx, id).await {
        Err(OpError::NoPlaceholder) if asked.is_some() => return Ok(None),
        found => found?.0,
    };
    let is_key = Meta::of(&found)?.kind() == ObjectType::PublicKey;
    if !is_named && asked.is_some() && !is_key {
        return Ok(None);
    }
    let key = info(cx, &found).await?;
    match asked.is_none_or(|asked| asked.is_for(&key.info)) {
        true => Ok(Some(key)),
        false if is_named => {
            let text = "the certificate request is for another key than the one named";
            Err(OpError::CertificateRequest(text.to_owned()))
        }
        false => Ok(None),
    }
}

/// The bytes of a public key that may be certified.
pub(super) async fn info(cx: &Context<'_>, object: &Object) -> Result<PublicKey, OpError> {
    let meta = Meta::of(object)?;
    if meta.kind() != ObjectType::PublicKey || meta.wrapping.is_some() {
        let text = "a certificate is made for a public key that is not wrapped";
        return Err(OpError::ObjectType(text.to_owned()));
    }
    match meta.state_at(object.state, cx.now) {
        ObjectState::PreActive | ObjectState::Active => {}
        ObjectState::Destroyed | ObjectState::DestroyedCompromised => {
            return Err(OpError::Destroyed(object.uid.clone()));
        }
        state => {
            let text = format!("public key {} is {state:?}, and is certified no more", object.uid);
            return Err(OpError::Lifecycle(text));
        }
    }
    let clear = cx.objects().open(object).await?;
    let info = match formats::convert(&meta, &clear, KeyFormatType::X509)? {
        KeyMaterial::Bytes(bytes) => bytes.expose(<[u8]>::to_vec),
        KeyMaterial::Transparent(_) => {
            return Err(OpError::Internal("a public key has no X.509 form".to_owned()));
        }
    };
    Ok(PublicKey { uid: object.uid.clone(), info })
}

/// With the subject that the attributes name.
fn named(leaf: Leaf, attributes: &Attributes) -> Result<Leaf, OpError> {
    for attribute in attributes.iter() {
        match attribute {
            Attribute::X509CertificateSubject(subject) => {
                return Ok(leaf.subject_der(&subject.distinguished_name)?);
            }
            Attribute::CertificateSubject(subject) => {
                return Ok(leaf.subject(&subject.distinguished_name)?);
            }
            _ => {}
        }
    }
    let parts = certificate::subject_parts(attributes);
    if parts.is_empty() {
        let text = "the certificate needs a subject: send a Certificate Subject attribute";
        return Err(OpError::Missing(text));
    }
    Ok(leaf.subject(&parts)?)
}

/// Activation and Deactivation Date that are asked for.
pub(super) fn dates(attributes: &Attributes) -> (Option<i64>, Option<i64>) {
    let mut dates = (None, None);
    for attribute in attributes.iter() {
        match attribute {
            Attribute::ActivationDate(DateTime(date)) => dates.0 = Some(*date),
            Attribute::DeactivationDate(DateTime(date)) => dates.1 = Some(*date),
            _ => {}
        }
    }
    dates
}

/// A certificate that was issued and is not stored yet.
pub(super) struct Draft {
    pub(super) der: Vec<u8>,
    pub(super) span: Span,
    /// The object of its public key, if there is one.
    pub(super) key: Option<String>,
    /// What the client asked for.
    pub(super) attributes: Attributes,
}

impl Draft {
    /// Its attributes: those that were asked for, and what the certificate says itself.
    pub(super) fn read(&self, cx: &Context<'_>) -> Result<(Meta, Wanted), OpError> {
        let kind = ObjectType::Certificate;
        let mut meta = Meta::new(kind, Form::Bytes, &self.der, cx.now);
        meta.subtype = CertificateType::X509.number();
        let said = certificate::attributes(&self.der, &mut meta);
        let seconds = |time: u64| DateTime(i64::try_from(time).unwrap_or(i64::MAX));
        let mut all = self.attributes.clone();
        all.list.retain(|instance| {
            !matches!(
                instance.attribute,
                Attribute::ActivationDate(_) | Attribute::DeactivationDate(_)
            )
        });
        all.push(Attribute::ActivationDate(seconds(self.span.from)));
        all.push(Attribute::DeactivationDate(seconds(self.span.until)));
        let mut wanted = Wanted::read(all, kind)?;
        qkd::refuse_claims(&wanted)?;
        wanted.apply(&mut meta);
        meta.dates.original = Some(cx.now);
        certificate::complete(&mut wanted.rest, said);
        let own = self.key.as_deref().map(|key| link(LinkType::PublicKeyLink, key));
        own.into_iter().for_each(|link| wanted.rest.push(link));
        Ok((meta, wanted))
    }

    /// Stores it, and links the public key with it.
    pub(super) async fn store(
        &self,
        cx: &Context<'_>,
        objects: &Objects,
        meta: &Meta,
        wanted: &Wanted,
    ) -> Result<String, OpError> {
        let uid = Objects::fresh_uid();
        let new = super::draft(cx, uid.clone(), meta, &wanted.rest, Origin::HsmRng);
        objects.create(new, &ClearBytes::copy_from(&self.der)).await?;
        let Some(key) = &self.key else { return Ok(uid) };
        let (old, version) = objects.get(cx.caller.tenant(), key).await?;
        let (mut key_meta, rest) = Meta::with_rest(&old)?;
        let is_old = |attribute: &&Attribute| matches!(attribute, Attribute::Link(link) if link.kind == LinkType::CertificateLink);
        let mut rest: Attributes = rest.iter().filter(|a| !is_old(a)).cloned().collect();
        rest.push(link(LinkType::CertificateLink, &uid));
        key_meta.dates.changed = cx.now;
        let (attributes, terms) = (key_meta.encode(&rest), terms::of(key_meta.kind(), &rest));
        let new = Object { attributes, terms, ..old.clone() };
        objects.update(&old, version, &new).await?;
        Ok(uid)
    }
}
