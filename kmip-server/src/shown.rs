//! The attributes of an object as answers show them. What a client's version does not know is left
//! out when the answer is encoded.

use km_core::{
    objects::{Object, ObjectState},
    provenance::Origin,
};
use kmip::{
    DateTime,
    attribute::{
        Attribute, AttributeRef, Attributes, Digest, Instance, RevocationReason, VendorAttribute,
    },
    enums::{
        CertificateType, HashingAlgorithm, KeyFormatType, ObjectType, OpaqueDataType,
        RevocationReasonCode, State,
    },
    ttlv::Value,
};

use crate::{
    context::Context,
    error::OpError,
    meta::{Meta, sha256},
    qkd::{VENDOR_GRADE, VENDOR_LINK},
};

/// Every attribute of `object`, the most asked for first.
pub(crate) fn all(object: &Object, now: i64) -> Result<Vec<Attribute>, OpError> {
    let (meta, rest) = Meta::with_rest(object)?;
    let mut list =
        vec![Attribute::UniqueIdentifier(object.uid.clone()), Attribute::ObjectType(meta.kind())];
    list.extend(meta.algorithm().map(Attribute::CryptographicAlgorithm));
    list.extend(meta.length.map(Attribute::CryptographicLength));
    list.extend(meta.usage_mask.map(Attribute::CryptographicUsageMask));
    list.push(Attribute::State(state(meta.state_at(object.state, now))));
    dates(&meta, &mut list);
    if let Some((code, message)) = &meta.revocation {
        let code = RevocationReasonCode::from_number(*code);
        let message = message.clone();
        list.push(Attribute::RevocationReason(RevocationReason { code, message }));
    }
    form(&meta, &mut list);
    list.extend(rest.list.into_iter().map(|instance| instance.attribute));
    origin(object, &mut list);
    Ok(list)
}

/// As [`all`], with the Digest also where it is not kept and the bytes have to be opened for it.
pub(crate) async fn with_digest(
    cx: &Context<'_>,
    object: &Object,
) -> Result<Vec<Attribute>, OpError> {
    let mut list = all(object, cx.now)?;
    let meta = Meta::of(object)?;
    if meta.digest.is_none() && !object.state.is_destroyed() {
        let clear = cx.objects().open(object).await?;
        list.push(digest(&meta, clear.expose(sha256)));
    }
    Ok(list)
}

fn digest(meta: &Meta, hash: [u8; 32]) -> Attribute {
    Attribute::Digest(Digest {
        hashing_algorithm: HashingAlgorithm::Sha256,
        value: Some(hash.to_vec()),
        key_format_type: Some(digested_form(meta)),
    })
}

/// As an answer carries them: the second and later instances of an attribute are numbered.
pub(crate) fn listed(list: Vec<Attribute>) -> Attributes {
    let mut counts: Vec<(AttributeRef, i32)> = Vec::new();
    let mut answer = Attributes::default();
    for attribute in list {
        let key = attribute.key();
        let index = match counts.iter_mut().find(|(seen, _)| *seen == key) {
            Some((_, count)) => {
                *count += 1;
                Some(*count)
            }
            None => {
                counts.push((key, 0));
                None
            }
        };
        answer.list.push(Instance { index, attribute });
    }
    answer
}

pub(crate) fn state(state: ObjectState) -> State {
    match state {
        ObjectState::PreActive => State::PreActive,
        ObjectState::Active => State::Active,
        ObjectState::Deactivated => State::Deactivated,
        ObjectState::Compromised => State::Compromised,
        ObjectState::Destroyed => State::Destroyed,
        ObjectState::DestroyedCompromised => State::DestroyedCompromised,
    }
}

fn dates(meta: &Meta, list: &mut Vec<Attribute>) {
    let dates = &meta.dates;
    list.push(Attribute::InitialDate(DateTime(dates.initial)));
    list.push(Attribute::LastChangeDate(DateTime(dates.changed)));
    type Make = fn(DateTime) -> Attribute;
    let others: [(Option<i64>, Make); 9] = [
        (dates.original, Attribute::OriginalCreationDate),
        (dates.activation, Attribute::ActivationDate),
        (dates.process_start, Attribute::ProcessStartDate),
        (dates.protect_stop, Attribute::ProtectStopDate),
        (dates.deactivation, Attribute::DeactivationDate),
        (dates.destroyed, Attribute::DestroyDate),
        (dates.compromise_occurrence, Attribute::CompromiseOccurrenceDate),
        (dates.compromise, Attribute::CompromiseDate),
        (dates.archived, Attribute::ArchiveDate),
    ];
    list.extend(others.into_iter().filter_map(|(date, make)| date.map(DateTime).map(make)));
}

fn form(meta: &Meta, list: &mut Vec<Attribute>) {
    list.extend(meta.digest.map(|hash| digest(meta, hash)));
    list.push(Attribute::Fresh(meta.fresh));
    match meta.kind() {
        ObjectType::Certificate => {
            list.push(Attribute::CertificateType(CertificateType::from_number(meta.subtype)));
            list.push(Attribute::CertificateLength(i32::try_from(meta.bytes).unwrap_or(i32::MAX)));
            return;
        }
        ObjectType::CertificateRequest | ObjectType::Template => return,
        ObjectType::OpaqueObject => {
            list.push(Attribute::OpaqueDataType(OpaqueDataType::from_number(meta.subtype)));
            return;
        }
        _ => {}
    }
    list.extend(meta.format().map(Attribute::KeyFormatType));
    list.push(Attribute::Sensitive(meta.sensitive));
    list.push(Attribute::AlwaysSensitive(meta.sensitive));
    list.push(Attribute::Extractable(meta.extractable));
    list.push(Attribute::NeverExtractable(!meta.extractable));
}

/// The form the digest was taken of, which versions after 1.0 require also of objects without a
/// key block.
fn digested_form(meta: &Meta) -> KeyFormatType {
    meta.format().unwrap_or(match meta.kind() {
        ObjectType::Certificate => KeyFormatType::X509,
        _ => KeyFormatType::Opaque,
    })
}

/// How a pool key came to be (announced in the metadata, seed clause 6.2c).
fn origin(object: &Object, list: &mut Vec<Attribute>) {
    if let Origin::Qkd(link) = &object.provenance.origin {
        let vendor = |name: &str, text: &str| {
            Attribute::Vendor(VendorAttribute {
                vendor: "x".to_owned(),
                name: name.to_owned(),
                value: Value::TextString(text.to_owned()),
            })
        };
        list.push(vendor(VENDOR_GRADE, object.provenance.grade().as_str()));
        list.push(vendor(VENDOR_LINK, link.as_str()));
    }
}
