//! What clients may do with an attribute once the object exists (KMIP, the rules table of each
//! attribute).

use kmip::attribute::{Attribute, AttributeKind as Kind, AttributeRef};

use crate::qkd;

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nothing.
    Fixed,
    /// It may be added when it is not there.
    Once,
    /// Added and modified, never deleted; the state of the object has a say.
    Date,
    /// Modified in one direction only.
    Lock,
    /// Anything while nothing is used up.
    Limits,
    /// Anything.
    Free,
}

/// The rule of an attribute.
pub(crate) fn of(attribute: &Attribute) -> Rule {
    of_key(&attribute.key())
}

/// The rule of an attribute by name.
pub(crate) fn of_key(key: &AttributeRef) -> Rule {
    match key {
        AttributeRef::Kind(kind) => of_kind(*kind),
        AttributeRef::Vendor { name, .. } if !name.starts_with(qkd::VENDOR_PREFIX) => Rule::Free,
        _ => Rule::Fixed,
    }
}

fn of_kind(kind: Kind) -> Rule {
    match kind {
        Kind::ActivationDate
        | Kind::ProcessStartDate
        | Kind::ProtectStopDate
        | Kind::DeactivationDate => Rule::Date,
        Kind::Sensitive | Kind::Extractable => Rule::Lock,
        Kind::UsageLimits => Rule::Limits,
        Kind::CryptographicUsageMask | Kind::OperationPolicyName => Rule::Once,
        Kind::Name
        | Kind::AlternativeName
        | Kind::ApplicationSpecificInformation
        | Kind::Comment
        | Kind::ContactInformation
        | Kind::CryptographicParameters
        | Kind::Description
        | Kind::KeyValueLocation
        | Kind::Link
        | Kind::ObjectGroup
        | Kind::Pkcs12FriendlyName
        | Kind::ProtectionPeriod
        | Kind::RotateAutomatic
        | Kind::RotateInterval
        | Kind::RotateName
        | Kind::RotateOffset => Rule::Free,
        _ => Rule::Fixed,
    }
}
