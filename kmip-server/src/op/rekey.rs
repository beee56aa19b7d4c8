//! Re-key: a new symmetric key with the attributes of an old one, linked with it. The names go over
//! to the new key.

use km_core::{
    objects::{Object, ObjectError, Objects},
    provenance::Origin,
    store::Version,
    vault::SealedObject,
};
use kmip::{
    DateTime, Interval,
    attribute::{Attribute, AttributeKind, Attributes, Link, UniqueIdentifier},
    enums::{KeyFormatType, LinkType, ObjectType, OperationCode},
    op::{
        create::ProtectionStorageMasks,
        rekey::{Request, Response},
    },
};

use crate::{
    context::Context,
    error::OpError,
    find, house,
    meta::{Dates, Form, Meta},
    qkd, storage, template, terms,
    wanted::{self, Wanted},
};

/// How often it is tried again when others change the old key at the same time.
const TRIES: usize = 4;

pub(crate) async fn rekey(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let Request { id, offset, attributes, protection_storage_masks } = request;
    let changes = template::expand(cx, attributes).await?;
    let (mut old, mut version) = find::on_line(cx, id).await?;
    check(&old, offset, &changes)?;
    let masks = protection_storage_masks.as_ref();
    for _ in 0..TRIES {
        match replace(cx, (&old, version), offset, &changes, masks).await {
            Err(Failed::Store(ObjectError::Conflict(uid))) => {
                (old, version) = cx.objects().get(cx.caller.tenant(), &uid).await?;
            }
            Err(Failed::Store(error)) => return Err(error.into()),
            Err(Failed::Operation(error)) => return Err(error),
            Ok(id) => {
                cx.remember(OperationCode::ReKey, vec![id.clone()]);
                return Ok(Response { id, attributes: Attributes::default() });
            }
        }
    }
    Err(ObjectError::Conflict(old.uid).into())
}

enum Failed {
    Store(ObjectError),
    Operation(OpError),
}

impl<E: Into<OpError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Operation(error.into())
    }
}

fn check(old: &Object, offset: Option<Interval>, changes: &Attributes) -> Result<(), OpError> {
    let meta = Meta::of(old)?;
    if meta.kind() != ObjectType::SymmetricKey {
        return Err(OpError::ObjectType("Re-key makes symmetric keys only".to_owned()));
    }
    if old.state.is_destroyed() {
        return Err(OpError::Destroyed(old.uid.clone()));
    }
    if matches!(old.provenance.origin, Origin::Qkd(_)) {
        let text = "a pool key has no successor; create another with the same Object Group";
        return Err(OpError::Denied(text.to_owned()));
    }
    if meta.wrapping.is_some() || meta.format() != Some(KeyFormatType::Raw) {
        let text = "only keys in Raw form that are not wrapped are made again";
        return Err(OpError::Illegal(text.to_owned()));
    }
    check_dates(offset, &[changes])
}

fn is_date(attribute: &Attribute) -> bool {
    matches!(
        attribute.kind(),
        Some(
            AttributeKind::ActivationDate
                | AttributeKind::ProcessStartDate
                | AttributeKind::ProtectStopDate
                | AttributeKind::DeactivationDate
        )
    )
}

/// One try: the new key stored, the old one changed, both or none.
async fn replace(
    cx: &mut Context<'_>,
    (old, version): (&Object, Version),
    offset: Option<Interval>,
    changes: &Attributes,
    masks: Option<&ProtectionStorageMasks>,
) -> Result<String, Failed> {
    let (old_meta, old_rest) = Meta::with_rest(old)?;
    let renamed = is_renamed(changes);
    let kind = ObjectType::SymmetricKey;
    let all = succession(&old_meta, &old_rest, cx.now, offset, changes);
    house::check(cx, &all, kind, None).await?;
    let wanted = Wanted::read(all, kind)?;
    qkd::refuse_claims(&wanted)?;
    if wanted.algorithm != old_meta.algorithm() || wanted.length != old_meta.length {
        let text = "a key is made again with its algorithm and length; use Create".to_owned();
        return Err(OpError::Invalid(text).into());
    }
    // Names that come from the old key are free as soon as the commit below is.
    let taken_from = (!renamed).then_some(old.uid.as_str());
    let _held = super::hold_names_of(cx, &[&wanted], taken_from.as_slice()).await?;
    place(cx, old, &wanted, masks)?;
    let uid = Objects::fresh_uid();
    let (mut meta, sealed, origin) = successor(cx, &uid, old, &old_meta, &wanted).await?;
    meta.set_format(KeyFormatType::Raw);
    wanted.apply(&mut meta);
    let mut rest = wanted.rest.clone();
    succeed(&mut rest, &old.uid, &old_rest, cx.now);
    let new = super::draft(cx, uid, &meta, &rest, origin);
    let changed = superseded(old, old_meta, &old_rest, &new.uid, renamed, cx.now);
    let made = cx.objects().supersede(new, sealed, (old, version), &changed).await;
    Ok(made.map_err(Failed::Store)?.uid)
}

/// Where the new key is kept: where the old one is, when nobody says and it may be asked for.
fn place(
    cx: &mut Context<'_>,
    old: &Object,
    wanted: &Wanted,
    masks: Option<&ProtectionStorageMasks>,
) -> Result<(), OpError> {
    let is = |is: fn(&SealedObject) -> bool| old.sealed.as_ref().is_some_and(is);
    if masks.is_none() && is(SealedObject::is_kept_in_token) {
        cx.keep_inside();
    }
    storage::choose(cx, masks, is(SealedObject::is_only_in_token) || wanted.is_secret())
}

/// The new key: in the token, if that is where the old one was made or the new one is never to leave
/// it. One of the old kind that the token makes no more is refused, not made here.
async fn successor(
    cx: &Context<'_>,
    uid: &str,
    old: &Object,
    old_meta: &Meta,
    wanted: &Wanted,
) -> Result<(Meta, SealedObject, Origin), OpError> {
    let (kind, objects) = (ObjectType::SymmetricKey, cx.objects());
    let len = usize::try_from(old_meta.bytes).unwrap_or(usize::MAX);
    let was_inside = old.sealed.as_ref().is_some_and(SealedObject::is_only_in_token);
    if was_inside && wanted.extractable == Some(true) {
        let text = "the old key never leaves the token, and its successor does not either";
        return Err(OpError::Denied(text.to_owned()));
    }
    if let Some(algorithm) = wanted.algorithm.filter(|_| was_inside || wanted.is_secret()) {
        match super::create::key_in_token(cx, uid, algorithm, len).await? {
            Some(sealed) => return Ok((Meta::unseen(kind, len, cx.now), sealed, Origin::HsmRng)),
            None if was_inside => {
                let text = "the old key never leaves the token, which makes no such keys now";
                return Err(OpError::Denied(text.to_owned()));
            }
            None => {}
        }
    }
    let random = objects.vault().random();
    let clear = random.bytes(len).await?;
    let mut meta = clear.expose(|bytes| Meta::new(kind, Form::Bytes, bytes, cx.now));
    meta.dates.original = Some(cx.now);
    let sealed = objects.seal(uid, cx.caller.tenant(), &clear).await?;
    Ok((meta, sealed, random.origin()))
}

/// Whether the new object has names of its own, and the old one keeps those it has.
pub(super) fn is_renamed(changes: &Attributes) -> bool {
    changes.iter().any(|attribute| matches!(attribute, Attribute::Name(_)))
}

pub(super) fn link(kind: LinkType, uid: &str) -> Attribute {
    Attribute::Link(Link { kind, target: UniqueIdentifier::from(uid) })
}

/// Says in `rest` that its object takes the place of `old`, which has `old_rest`.
pub(super) fn succeed(rest: &mut Attributes, old: &str, old_rest: &Attributes, now: i64) {
    rest.push(link(LinkType::ReplacedObjectLink, old));
    rest.push(Attribute::RotateGeneration(generation(old_rest).saturating_add(1)));
    rest.push(Attribute::RotateDate(DateTime(now)));
    rest.push(Attribute::RotateLatest(true));
}

/// How often the object was made anew, with those before it (2.1).
fn generation(rest: &Attributes) -> i32 {
    let of = |attribute: &Attribute| match attribute {
        Attribute::RotateGeneration(generation) => Some(*generation),
        _ => None,
    };
    rest.iter().find_map(of).unwrap_or(0)
}

/// Links of the old object that say nothing about the new one.
fn is_of_the_old(attribute: &Attribute) -> bool {
    matches!(attribute, Attribute::Link(link) if matches!(
        link.kind,
        LinkType::ReplacedObjectLink
            | LinkType::ReplacementObjectLink
            | LinkType::CertificateLink
            | LinkType::PublicKeyLink
            | LinkType::PrivateKeyLink
    ))
}

/// Refuses dates beside the offset they follow from.
pub(super) fn check_dates(
    offset: Option<Interval>,
    changes: &[&Attributes],
) -> Result<(), OpError> {
    if offset.is_some() && changes.iter().any(|changes| changes.iter().any(is_date)) {
        let text = "the dates follow from Offset; leave them out or leave Offset out";
        return Err(OpError::Invalid(text.to_owned()));
    }
    Ok(())
}

/// What the new key asks for: what the old one has, its dates moved by `offset`, with `changes`.
pub(super) fn succession(
    meta: &Meta,
    rest: &Attributes,
    now: i64,
    offset: Option<Interval>,
    changes: &Attributes,
) -> Attributes {
    let mut all = changes.clone();
    let mut keep = |attribute: Attribute| {
        let said = changes.iter().any(|change| change.key() == attribute.key());
        if !said && !is_of_the_old(&attribute) && wanted::may_be_asked_for(&attribute) {
            all.push(attribute);
        }
    };
    meta.algorithm().map(Attribute::CryptographicAlgorithm).into_iter().for_each(&mut keep);
    meta.length.map(Attribute::CryptographicLength).into_iter().for_each(&mut keep);
    meta.usage_mask.map(Attribute::CryptographicUsageMask).into_iter().for_each(&mut keep);
    keep(Attribute::Sensitive(meta.sensitive));
    keep(Attribute::Extractable(meta.extractable));
    moved(&meta.dates, now, offset).into_iter().for_each(&mut keep);
    rest.iter().cloned().map(unused).for_each(&mut keep);
    all
}

/// A new key has all of its usage before it.
fn unused(attribute: Attribute) -> Attribute {
    match attribute {
        Attribute::UsageLimits(mut limits) => {
            limits.count = None;
            Attribute::UsageLimits(limits)
        }
        other => other,
    }
}

/// The dates of the new key: with an offset, activation comes so long after now, and all others
/// keep their distance from it; without one, they stay.
fn moved(dates: &Dates, now: i64, offset: Option<Interval>) -> Vec<Attribute> {
    let activation = offset.map(|offset| now.saturating_add(i64::from(offset.0)));
    let shift = activation.zip(dates.activation).map_or(0, |(new, old)| new.saturating_sub(old));
    let later = |date: Option<i64>| date.map(|date| DateTime(date.saturating_add(shift)));
    [
        activation.map(DateTime).or(dates.activation.map(DateTime)).map(Attribute::ActivationDate),
        later(dates.process_start).map(Attribute::ProcessStartDate),
        later(dates.protect_stop).map(Attribute::ProtectStopDate),
        later(dates.deactivation).map(Attribute::DeactivationDate),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The old key as it is from now on.
pub(super) fn superseded(
    old: &Object,
    mut meta: Meta,
    rest: &Attributes,
    by: &str,
    renamed: bool,
    now: i64,
) -> Object {
    let generation = generation(rest);
    let stays = |attribute: &&Attribute| match attribute {
        Attribute::Name(_) => renamed,
        Attribute::RotateGeneration(_) | Attribute::RotateLatest(_) => false,
        attribute => !is_replacement(attribute),
    };
    let mut rest: Attributes = rest.iter().filter(stays).cloned().collect();
    rest.push(link(LinkType::ReplacementObjectLink, by));
    rest.push(Attribute::RotateGeneration(generation));
    rest.push(Attribute::RotateLatest(false));
    meta.dates.changed = now;
    Object { attributes: meta.encode(&rest), terms: terms::of(meta.kind(), &rest), ..old.clone() }
}

fn is_replacement(attribute: &Attribute) -> bool {
    matches!(attribute, Attribute::Link(link) if link.kind == LinkType::ReplacementObjectLink)
}
