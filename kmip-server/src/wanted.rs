//! The attributes a Create or Register asks for, checked: what the head keeps, and the rest.

use kmip::{
    DateTime, Field, Version,
    attribute::{Attribute, AttributeKind, AttributeRef, Attributes},
    enums::{CryptographicAlgorithm, KeyFormatType, ObjectType},
};

use crate::{
    error::OpError,
    meta::{Dates, Meta, decode_list, encode_list},
    qkd, usage_limits,
};

/// The versions that together say all there is to say.
pub(crate) const VERSIONS: [Version; 2] = [Version::V2_1, Version::V1_4];
/// Most attributes of one object.
pub(crate) const MAX_WANTED: usize = 256;

#[derive(Default)]
pub(crate) struct Wanted {
    pub(crate) algorithm: Option<CryptographicAlgorithm>,
    pub(crate) length: Option<i32>,
    pub(crate) usage_mask: Option<i32>,
    pub(crate) format: Option<KeyFormatType>,
    dates: Dates,
    fresh: Option<bool>,
    sensitive: bool,
    pub(crate) extractable: Option<bool>,
    /// Everything the head has no place for.
    pub(crate) rest: Attributes,
}

impl Wanted {
    /// Reads the attributes of a request that makes an object of `kind`.
    pub(crate) fn read(attributes: Attributes, kind: ObjectType) -> Result<Self, OpError> {
        if let Some(template) = attributes.templates.first() {
            return Err(OpError::NotFound(template.value.clone()));
        }
        if attributes.list.len() > MAX_WANTED {
            return Err(OpError::TooMuch(format!("an object has at most {MAX_WANTED} attributes")));
        }
        let mut wanted = Self::default();
        let mut seen: Vec<AttributeKind> = Vec::new();
        for instance in attributes.list {
            if let Some(single) = instance.attribute.kind().filter(|kind| !kind.is_multiple()) {
                if seen.contains(&single) {
                    return Err(OpError::SingleValued(single));
                }
                seen.push(single);
            }
            wanted.take(instance.attribute, kind)?;
        }
        wanted.dates.check()?;
        Ok(wanted)
    }

    fn take(&mut self, attribute: Attribute, kind: ObjectType) -> Result<(), OpError> {
        match attribute {
            Attribute::CryptographicAlgorithm(v) if !has_word(&v) => {
                return Err(OpError::NoWord(called(&attribute.key())));
            }
            Attribute::KeyFormatType(v) if !has_word(&v) => {
                return Err(OpError::NoWord(called(&attribute.key())));
            }
            Attribute::ObjectType(wanted) if wanted == kind => {}
            Attribute::ObjectType(_) => {
                let text = "Object Type: the attribute and the request differ".to_owned();
                return Err(OpError::ObjectType(text));
            }
            // The object itself says it; see [`crate::material::reconcile`].
            Attribute::CertificateType(_) if kind == ObjectType::Certificate => {}
            Attribute::CryptographicAlgorithm(v) => self.algorithm = Some(v),
            Attribute::CryptographicLength(v) => self.length = Some(v),
            Attribute::CryptographicUsageMask(v) => self.usage_mask = Some(v),
            Attribute::KeyFormatType(v) => self.format = Some(v),
            Attribute::ActivationDate(DateTime(v)) => self.dates.activation = Some(v),
            Attribute::ProcessStartDate(DateTime(v)) => self.dates.process_start = Some(v),
            Attribute::ProtectStopDate(DateTime(v)) => self.dates.protect_stop = Some(v),
            Attribute::DeactivationDate(DateTime(v)) => self.dates.deactivation = Some(v),
            Attribute::OriginalCreationDate(DateTime(v)) => self.dates.original = Some(v),
            Attribute::Fresh(v) => self.fresh = Some(v),
            Attribute::Sensitive(v) => self.sensitive = v,
            Attribute::Extractable(v) => self.extractable = Some(v),
            Attribute::Unknown(unknown) => {
                return Err(OpError::UnknownAttribute(called(&unknown.key)));
            }
            attribute if is_read_only(&attribute) => {
                let what = match attribute.key() {
                    AttributeRef::Kind(kind) => kind.name().to_owned(),
                    key => called(&key),
                };
                return Err(OpError::ReadOnly(what));
            }
            attribute => {
                check_value(&attribute)?;
                self.rest.push(usage_limits::begun(attribute));
            }
        }
        Ok(())
    }

    /// Writes into a head what the client asked for.
    pub(crate) fn apply(&self, meta: &mut Meta) {
        if let Some(algorithm) = self.algorithm {
            meta.set_algorithm(algorithm);
        }
        meta.length = self.length.or(meta.length);
        meta.usage_mask = self.usage_mask.or(meta.usage_mask);
        meta.fresh = self.fresh.unwrap_or(true);
        meta.sensitive = self.sensitive || meta.in_token;
        meta.extractable = self.extractable.unwrap_or(true) && !meta.in_token;
        let dates = &mut meta.dates;
        dates.original = self.dates.original.or(dates.original);
        dates.activation = self.dates.activation;
        dates.process_start = self.dates.process_start;
        dates.protect_stop = self.dates.protect_stop;
        dates.deactivation = self.dates.deactivation;
    }

    /// Whether the key is never to leave in clear.
    pub(crate) fn is_secret(&self) -> bool {
        self.sensitive || self.extractable == Some(false)
    }

    /// Whether the client says that the key is to leave.
    pub(crate) fn is_to_leave(&self) -> bool {
        !self.sensitive && self.extractable == Some(true)
    }

    /// The names asked for.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.rest.iter().filter_map(|attribute| match attribute {
            Attribute::Name(name) => Some(name.value.as_str()),
            _ => None,
        })
    }
}

/// How an attribute is named to people.
pub(crate) fn called(key: &AttributeRef) -> String {
    match key {
        AttributeRef::Kind(kind) => kind.name().to_owned(),
        AttributeRef::Vendor { vendor, name } => format!("{vendor}-{name}"),
        AttributeRef::UnknownName(name) => name.chars().take(64).collect(),
        AttributeRef::UnknownTag(tag) => format!("{tag}"),
    }
}

/// Whether only the server sets it.
pub(crate) fn is_read_only(attribute: &Attribute) -> bool {
    if let Attribute::Vendor(vendor) = attribute {
        return vendor.name.starts_with(qkd::VENDOR_PREFIX);
    }
    matches!(
        attribute,
        Attribute::UniqueIdentifier(_)
            | Attribute::Digest(_)
            | Attribute::LeaseTime(_)
            | Attribute::State(_)
            | Attribute::InitialDate(_)
            | Attribute::DestroyDate(_)
            | Attribute::CompromiseOccurrenceDate(_)
            | Attribute::CompromiseDate(_)
            | Attribute::RevocationReason(_)
            | Attribute::ArchiveDate(_)
            | Attribute::LastChangeDate(_)
            | Attribute::CertificateType(_)
            | Attribute::CertificateLength(_)
            | Attribute::KeyValuePresent(_)
            | Attribute::AlwaysSensitive(_)
            | Attribute::NeverExtractable(_)
            | Attribute::OpaqueDataType(_)
            | Attribute::ProtectionStorageMask(_)
            | Attribute::RotateDate(_)
            | Attribute::RotateGeneration(_)
            | Attribute::RotateLatest(_)
            | Attribute::ShortUniqueIdentifier(_)
    )
}

/// Whether a client may ask for an attribute of this value now, whatever it could before.
pub(crate) fn may_be_asked_for(attribute: &Attribute) -> bool {
    !is_read_only(attribute) && check_value(attribute).is_ok()
}

/// Refuses values no attribute may have.
pub(crate) fn check_value(attribute: &Attribute) -> Result<(), OpError> {
    match attribute {
        Attribute::Name(name) if name.value.is_empty() => {
            Err(OpError::invalid(AttributeKind::Name, "a name has at least one character"))
        }
        Attribute::RotateAutomatic(true) => {
            let text = "this server makes no keys anew by itself; ask for Re-key when it is time";
            Err(OpError::invalid(AttributeKind::RotateAutomatic, text))
        }
        Attribute::ApplicationSpecificInformation(info) if info.data.is_none() => {
            Err(OpError::Namespace(info.namespace.clone()))
        }
        attribute => check_words(attribute),
    }
}

/// Refuses what could not be stored as it is said: an enumeration of which neither the newest 2.x nor the
/// newest 1.x has the value. It would be acknowledged and gone.
pub(crate) fn check_words(attribute: &Attribute) -> Result<(), OpError> {
    let kept = match attribute {
        // Where a field may be left out, the encoder leaves out what it has no word for.
        Attribute::CryptographicParameters(_) | Attribute::RandomNumberGenerator(_) => {
            let one: Attributes = [attribute.clone()].into_iter().collect();
            decode_list(&encode_list(&one)).is_ok_and(|read| read == one)
        }
        attribute => VERSIONS.iter().any(|version| attribute.known(*version)),
    };
    match kept {
        true => Ok(()),
        false => Err(OpError::NoWord(called(&attribute.key()))),
    }
}

/// As [`check_value`], of a value of an object itself.
pub(crate) fn has_word(value: &impl Field) -> bool {
    VERSIONS.iter().any(|version| value.known(*version))
}
