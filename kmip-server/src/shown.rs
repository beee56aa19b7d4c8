//! The attributes of an object as answers show them. What a client's version does not know is left
//! out when the answer is encoded.

use km_core::{
    objects::{Object, ObjectState},
    provenance::Origin,
    vault::SealedObject,
};
use kmip::{
    DateTime, Interval,
    attribute::{Attribute, Attributes, Digest, Instance, RevocationReason, VendorAttribute},
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
    numbering, op,
    qkd::VENDOR_CUSTODY,
    storage::{HARDWARE, SOFTWARE},
};

/// How long a lease of an object lasts, in seconds.
pub(crate) const LEASE: u32 = 3600;
/// Every attribute of `object`, the most asked for first, each instance with its index.
pub(crate) fn all(object: &Object, now: i64) -> Result<Vec<Instance>, OpError> {
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
    list.push(Attribute::LeaseTime(Interval(LEASE)));
    list.push(Attribute::ShortUniqueIdentifier(short(&object.uid)));
    let inside = object.sealed.as_ref().is_some_and(SealedObject::is_kept_in_token);
    list.push(Attribute::ProtectionStorageMask(if inside { HARDWARE } else { SOFTWARE }));
    let mut list: Vec<Instance> = list.into_iter().map(first).collect();
    let generator_known = rest.iter().any(|a| matches!(a, Attribute::RandomNumberGenerator(_)));
    // What a client could once say itself is not so.
    let said = |i: &Instance| !matches!(i.attribute, Attribute::ProtectionStorageMask(_));
    list.extend(rest.list.into_iter().filter(said));
    let generated = matches!(object.provenance.origin, Origin::HsmRng | Origin::Library);
    if generated && !generator_known {
        list.push(first(Attribute::RandomNumberGenerator(op::query::rng())));
    }
    let mut more = Vec::new();
    origin(object, &meta, &mut more);
    list.extend(more.into_iter().map(first));
    Ok(list)
}

fn first(attribute: Attribute) -> Instance {
    Instance { index: None, attribute }
}

/// A short name for the same object: the bytes of its UUID, or of a hash where it has none.
fn short(uid: &str) -> Vec<u8> {
    match uuid::Uuid::try_parse(uid) {
        Ok(uuid) => uuid.as_bytes().to_vec(),
        Err(_) => sha256(uid.as_bytes())[..16].to_vec(),
    }
}

/// As [`all`], with the Digest also where it is not kept and the bytes have to be opened for it.
pub(crate) async fn with_digest(
    cx: &Context<'_>,
    object: &Object,
) -> Result<Vec<Instance>, OpError> {
    let mut list = all(object, cx.now)?;
    let meta = Meta::of(object)?;
    if has_digest_to_make(object, &meta) {
        let clear = cx.objects().open(object).await?;
        list.push(first(digest(&meta, clear.expose(sha256))));
    }
    Ok(list)
}

/// Whether the Digest is not kept and can be made of the bytes.
pub(crate) fn has_digest_to_make(object: &Object, meta: &Meta) -> bool {
    meta.digest.is_none() && !object.state.is_destroyed() && !meta.in_token
}

fn digest(meta: &Meta, hash: [u8; 32]) -> Attribute {
    Attribute::Digest(Digest {
        hashing_algorithm: HashingAlgorithm::Sha256,
        value: Some(hash.to_vec()),
        key_format_type: Some(digested_form(meta)),
    })
}

/// As an answer carries them.
pub(crate) fn listed(list: Vec<Instance>) -> Attributes {
    let list = list.into_iter().map(numbering::told).collect();
    Attributes { templates: Vec::new(), list }
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
    list.push(Attribute::AlwaysSensitive(meta.sensitive && !meta.locked_later.sensitive));
    list.push(Attribute::Extractable(meta.extractable));
    let never = !meta.extractable && !meta.locked_later.not_extractable;
    list.push(Attribute::NeverExtractable(never));
}

/// The form the digest was taken of, which versions after 1.0 require also of objects without a
/// key block.
fn digested_form(meta: &Meta) -> KeyFormatType {
    meta.format().unwrap_or(match meta.kind() {
        ObjectType::Certificate => KeyFormatType::X509,
        _ => KeyFormatType::Opaque,
    })
}

/// Where the key is kept, and how a pool key came to be (announced in the metadata, seed clause
/// 6.2c).
fn origin(object: &Object, meta: &Meta, list: &mut Vec<Attribute>) {
    let vendor = |name: &str, text: &str| {
        Attribute::Vendor(VendorAttribute {
            vendor: "x".to_owned(),
            name: name.to_owned(),
            value: Value::TextString(text.to_owned()),
        })
    };
    if matches!(meta.kind(), ObjectType::SymmetricKey | ObjectType::PrivateKey) {
        let custody = if meta.in_token { "in-token" } else { "host-transient" };
        list.push(vendor(VENDOR_CUSTODY, custody));
    }
    let told = object.provenance.told();
    list.extend(told.into_iter().map(|(name, text)| vendor(name, &text)));
}
