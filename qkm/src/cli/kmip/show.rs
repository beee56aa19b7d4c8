//! Attributes as people read them.

use kmip::{
    DateTime,
    attribute::{Attribute, AttributeRef},
    ttlv::Value,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Names of the bits of a Cryptographic Usage Mask (KMIP 2.1, 11.14), lowest first.
const USES: [&str; 23] = [
    "Sign",
    "Verify",
    "Encrypt",
    "Decrypt",
    "Wrap Key",
    "Unwrap Key",
    "Export",
    "MAC Generate",
    "MAC Verify",
    "Derive Key",
    "Content Commitment",
    "Key Agreement",
    "Certificate Sign",
    "CRL Sign",
    "Generate Cryptogram",
    "Validate Cryptogram",
    "Translate Encrypt",
    "Translate Decrypt",
    "Translate Wrap",
    "Translate Unwrap",
    "Authenticate",
    "Unrestricted",
    "FPE Encrypt",
];

pub(super) fn name(attribute: &Attribute) -> String {
    match attribute.key() {
        AttributeRef::Kind(kind) => kind.name().to_owned(),
        AttributeRef::Vendor { vendor, name } => format!("{vendor}-{name}"),
        AttributeRef::UnknownName(name) => name,
        AttributeRef::UnknownTag(tag) => tag.to_string(),
    }
}

pub(super) fn value(attribute: &Attribute) -> String {
    match attribute {
        Attribute::UniqueIdentifier(text)
        | Attribute::ObjectGroup(text)
        | Attribute::OperationPolicyName(text)
        | Attribute::ContactInformation(text)
        | Attribute::Comment(text)
        | Attribute::Description(text) => text.clone(),
        Attribute::Name(name) => name.value.clone(),
        Attribute::CryptographicUsageMask(mask) => uses(*mask),
        Attribute::Digest(digest) => {
            format!(
                "{:?} {}",
                digest.hashing_algorithm,
                hex(digest.value.as_deref().unwrap_or(&[]))
            )
        }
        Attribute::Link(link) => {
            format!("{:?} {}", link.kind, link.target.as_text().unwrap_or("(placeholder)"))
        }
        Attribute::ApplicationSpecificInformation(info) => {
            format!("{} {}", info.namespace, info.data.as_deref().unwrap_or_default())
        }
        Attribute::Vendor(vendor) => match &vendor.value {
            Value::TextString(text) => text.clone(),
            Value::ByteString(bytes) => hex(bytes),
            other => inner(&format!("{other:?}")),
        },
        Attribute::InitialDate(at)
        | Attribute::ActivationDate(at)
        | Attribute::ProcessStartDate(at)
        | Attribute::ProtectStopDate(at)
        | Attribute::DeactivationDate(at)
        | Attribute::DestroyDate(at)
        | Attribute::CompromiseOccurrenceDate(at)
        | Attribute::CompromiseDate(at)
        | Attribute::ArchiveDate(at)
        | Attribute::LastChangeDate(at)
        | Attribute::OriginalCreationDate(at) => date(*at),
        other => inner(&format!("{other:?}")),
    }
}

/// What stands in the outermost parentheses.
fn inner(debug: &str) -> String {
    let stripped = debug.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    stripped.unwrap_or(debug).to_owned()
}

fn uses(mask: i32) -> String {
    let set = USES.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn date(DateTime(seconds): DateTime) -> String {
    let at = OffsetDateTime::from_unix_timestamp(seconds).ok();
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| seconds.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use kmip::enums::State;

    use super::*;

    #[test]
    fn values_are_shown_as_words() {
        for (attribute, expected) in [
            (Attribute::State(State::Active), "Active"),
            (Attribute::CryptographicLength(256), "256"),
            (Attribute::CryptographicUsageMask(12), "Encrypt, Decrypt"),
            (Attribute::CryptographicUsageMask(0), "none"),
            (Attribute::InitialDate(DateTime(0)), "1970-01-01T00:00:00Z"),
            (Attribute::Fresh(true), "true"),
        ] {
            assert_eq!(value(&attribute), expected);
        }
    }
}
