//! The one table of attributes: type, tag (2.x), name (1.x), versions, and whether an object may
//! have several.

use super::types::*;
use super::{UnknownAttribute, VendorAttribute};
use crate::enums::*;
use crate::tag::Tag;
use crate::ttlv::{Item, Result, Writer};
use crate::version::Version;
use crate::wire::{DateTime, Field, Interval};

macro_rules! attributes {
    ($( $name:ident: $count:ident $type:ty = $tag:ident $text:literal @ $since:ident
        $(..= $until:ident)? ; )+) => {
        /// Which attribute, without a value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AttributeKind {
            $( #[doc = concat!("`", $text, "`, since ", stringify!($since))] $name, )+
        }

        impl AttributeKind {
            /// Every attribute that KMIP 1.0 to 2.1 define.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// Its name in 1.x.
            pub fn name(self) -> &'static str {
                match self { $( Self::$name => $text, )+ }
            }

            /// Its tag in 2.x.
            pub fn tag(self) -> Tag {
                match self { $( Self::$name => Tag::$tag, )+ }
            }

            /// The attribute of this 1.x name.
            pub fn from_name(name: &str) -> Option<Self> {
                Some(match name { $( $text => Self::$name, )+ _ => return None })
            }

            /// The attribute of this 2.x tag.
            pub fn from_tag(tag: Tag) -> Option<Self> {
                Some(match tag { $( Tag::$tag => Self::$name, )+ _ => return None })
            }

            /// Whether `version` defines it.
            pub fn in_version(self, version: Version) -> bool {
                match self { $(
                    Self::$name => version >= Version::$since
                        $( && version <= Version::$until )?,
                )+ }
            }

            /// Whether an object may have several instances.
            pub fn is_multiple(self) -> bool {
                match self { $( Self::$name => attributes!(@count $count), )+ }
            }
        }

        /// One attribute with its value; the same type for every version.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Attribute {
            $( #[doc = concat!("`", $text, "`")] $name($type), )+
            /// Custom attribute (`x-…` in 1.x) or vendor attribute (2.x).
            Vendor(VendorAttribute),
            /// An attribute the table does not have; decoded so that a server can refuse it by
            /// name, never encoded.
            Unknown(UnknownAttribute),
        }

        impl Attribute {
            /// Which attribute this is, when the table has it.
            pub fn kind(&self) -> Option<AttributeKind> {
                Some(match self {
                    $( Self::$name(_) => AttributeKind::$name, )+
                    Self::Vendor(_) | Self::Unknown(_) => return None,
                })
            }

            /// Reads the value of a `kind`, whatever tag it stands under.
            pub(super) fn read_value(kind: AttributeKind, item: &Item<'_>) -> Result<Self> {
                Ok(match kind {
                    $( AttributeKind::$name => Self::$name(Field::read(item)?), )+
                })
            }

            /// Writes the bare value under `tag`. Vendor attributes are framed by the caller.
            pub(super) fn write_value(&self, w: &mut Writer, tag: Tag, version: Version) {
                match self {
                    $( Self::$name(value) => value.write(w, tag, version), )+
                    Self::Vendor(vendor) => vendor.value.encode(w, tag),
                    Self::Unknown(_) => {}
                }
            }

            /// Whether `version` has a meaning for the value itself.
            pub(super) fn value_known(&self, version: Version) -> bool {
                match self {
                    $( Self::$name(value) => value.known(version), )+
                    Self::Vendor(vendor) => vendor.value.known(version),
                    Self::Unknown(_) => false,
                }
            }
        }
    };
    (@count one) => { false };
    (@count many) => { true };
}

attributes! {
    UniqueIdentifier: one String = UniqueIdentifier "Unique Identifier" @ V1_0;
    Name: many Name = Name "Name" @ V1_0;
    ObjectType: one ObjectType = ObjectType "Object Type" @ V1_0;
    CryptographicAlgorithm: one CryptographicAlgorithm =
        CryptographicAlgorithm "Cryptographic Algorithm" @ V1_0;
    CryptographicLength: one i32 = CryptographicLength "Cryptographic Length" @ V1_0;
    CryptographicParameters: many CryptographicParameters =
        CryptographicParameters "Cryptographic Parameters" @ V1_0;
    CryptographicDomainParameters: one CryptographicDomainParameters =
        CryptographicDomainParameters "Cryptographic Domain Parameters" @ V1_0;
    CertificateType: one CertificateType = CertificateType "Certificate Type" @ V1_0;
    CertificateIdentifier: one CertificateIdentifier =
        CertificateIdentifier "Certificate Identifier" @ V1_0 ..= V1_4;
    CertificateSubject: one CertificateSubject =
        CertificateSubject "Certificate Subject" @ V1_0 ..= V1_4;
    CertificateIssuer: one CertificateIssuer =
        CertificateIssuer "Certificate Issuer" @ V1_0 ..= V1_4;
    Digest: many Digest = Digest "Digest" @ V1_0;
    OperationPolicyName: one String =
        OperationPolicyName "Operation Policy Name" @ V1_0 ..= V1_4;
    CryptographicUsageMask: one i32 = CryptographicUsageMask "Cryptographic Usage Mask" @ V1_0;
    LeaseTime: one Interval = LeaseTime "Lease Time" @ V1_0;
    UsageLimits: one UsageLimits = UsageLimits "Usage Limits" @ V1_0;
    State: one State = State "State" @ V1_0;
    InitialDate: one DateTime = InitialDate "Initial Date" @ V1_0;
    ActivationDate: one DateTime = ActivationDate "Activation Date" @ V1_0;
    ProcessStartDate: one DateTime = ProcessStartDate "Process Start Date" @ V1_0;
    ProtectStopDate: one DateTime = ProtectStopDate "Protect Stop Date" @ V1_0;
    DeactivationDate: one DateTime = DeactivationDate "Deactivation Date" @ V1_0;
    DestroyDate: one DateTime = DestroyDate "Destroy Date" @ V1_0;
    CompromiseOccurrenceDate: one DateTime =
        CompromiseOccurrenceDate "Compromise Occurrence Date" @ V1_0;
    CompromiseDate: one DateTime = CompromiseDate "Compromise Date" @ V1_0;
    RevocationReason: one RevocationReason = RevocationReason "Revocation Reason" @ V1_0;
    ArchiveDate: one DateTime = ArchiveDate "Archive Date" @ V1_0;
    ObjectGroup: many String = ObjectGroup "Object Group" @ V1_0;
    Link: many Link = Link "Link" @ V1_0;
    ApplicationSpecificInformation: many ApplicationSpecificInformation =
        ApplicationSpecificInformation "Application Specific Information" @ V1_0;
    ContactInformation: one String = ContactInformation "Contact Information" @ V1_0;
    LastChangeDate: one DateTime = LastChangeDate "Last Change Date" @ V1_0;
    CertificateLength: one i32 = CertificateLength "Certificate Length" @ V1_1;
    X509CertificateIdentifier: one X509CertificateIdentifier =
        X_509CertificateIdentifier "X.509 Certificate Identifier" @ V1_1;
    X509CertificateSubject: one X509CertificateSubject =
        X_509CertificateSubject "X.509 Certificate Subject" @ V1_1;
    X509CertificateIssuer: one X509CertificateIssuer =
        X_509CertificateIssuer "X.509 Certificate Issuer" @ V1_1;
    DigitalSignatureAlgorithm: many DigitalSignatureAlgorithm =
        DigitalSignatureAlgorithm "Digital Signature Algorithm" @ V1_1;
    Fresh: one bool = Fresh "Fresh" @ V1_1;
    AlternativeName: many AlternativeName = AlternativeName "Alternative Name" @ V1_2;
    KeyValuePresent: one bool = KeyValuePresent "Key Value Present" @ V1_2;
    KeyValueLocation: many KeyValueLocation = KeyValueLocation "Key Value Location" @ V1_2;
    OriginalCreationDate: one DateTime = OriginalCreationDate "Original Creation Date" @ V1_2;
    RandomNumberGenerator: one RngParameters =
        RandomNumberGenerator "Random Number Generator" @ V1_3;
    Pkcs12FriendlyName: one String = PKCS_12FriendlyName "PKCS#12 Friendly Name" @ V1_4;
    Description: one String = Description "Description" @ V1_4;
    Comment: one String = Comment "Comment" @ V1_4;
    Sensitive: one bool = Sensitive "Sensitive" @ V1_4;
    AlwaysSensitive: one bool = AlwaysSensitive "Always Sensitive" @ V1_4;
    Extractable: one bool = Extractable "Extractable" @ V1_4;
    NeverExtractable: one bool = NeverExtractable "Never Extractable" @ V1_4;
    CertificateSubjectCn: many String = CertificateSubjectCN "Certificate Subject CN" @ V1_4;
    CertificateSubjectO: many String = CertificateSubjectO "Certificate Subject O" @ V1_4;
    CertificateSubjectOu: many String = CertificateSubjectOU "Certificate Subject OU" @ V1_4;
    CertificateSubjectEmail: many String =
        CertificateSubjectEmail "Certificate Subject Email" @ V1_4;
    CertificateSubjectC: many String = CertificateSubjectC "Certificate Subject C" @ V1_4;
    CertificateSubjectSt: many String = CertificateSubjectST "Certificate Subject ST" @ V1_4;
    CertificateSubjectL: many String = CertificateSubjectL "Certificate Subject L" @ V1_4;
    CertificateSubjectUid: many String = CertificateSubjectUID "Certificate Subject UID" @ V1_4;
    CertificateSubjectSerialNumber: many String =
        CertificateSubjectSerialNumber "Certificate Subject Serial Number" @ V1_4;
    CertificateSubjectTitle: many String =
        CertificateSubjectTitle "Certificate Subject Title" @ V1_4;
    CertificateSubjectDc: many String = CertificateSubjectDC "Certificate Subject DC" @ V1_4;
    CertificateSubjectDnQualifier: many String =
        CertificateSubjectDNQualifier "Certificate Subject DN Qualifier" @ V1_4;
    CertificateIssuerCn: many String = CertificateIssuerCN "Certificate Issuer CN" @ V1_4;
    CertificateIssuerO: many String = CertificateIssuerO "Certificate Issuer O" @ V1_4;
    CertificateIssuerOu: many String = CertificateIssuerOU "Certificate Issuer OU" @ V1_4;
    CertificateIssuerEmail: many String =
        CertificateIssuerEmail "Certificate Issuer Email" @ V1_4;
    CertificateIssuerC: many String = CertificateIssuerC "Certificate Issuer C" @ V1_4;
    CertificateIssuerSt: many String = CertificateIssuerST "Certificate Issuer ST" @ V1_4;
    CertificateIssuerL: many String = CertificateIssuerL "Certificate Issuer L" @ V1_4;
    CertificateIssuerUid: many String = CertificateIssuerUID "Certificate Issuer UID" @ V1_4;
    CertificateIssuerSerialNumber: many String =
        CertificateIssuerSerialNumber "Certificate Issuer Serial Number" @ V1_4;
    CertificateIssuerTitle: many String =
        CertificateIssuerTitle "Certificate Issuer Title" @ V1_4;
    CertificateIssuerDc: many String = CertificateIssuerDC "Certificate Issuer DC" @ V1_4;
    CertificateIssuerDnQualifier: many String =
        CertificateIssuerDNQualifier "Certificate Issuer DN Qualifier" @ V1_4;
    KeyFormatType: one KeyFormatType = KeyFormatType "Key Format Type" @ V2_0;
    NistKeyType: one NistKeyType = NISTKeyType "NIST Key Type" @ V2_0;
    OpaqueDataType: one OpaqueDataType = OpaqueDataType "Opaque Data Type" @ V2_0;
    ProtectionLevel: one ProtectionLevel = ProtectionLevel "Protection Level" @ V2_0;
    ProtectionPeriod: one Interval = ProtectionPeriod "Protection Period" @ V2_0;
    ProtectionStorageMask: one i32 = ProtectionStorageMask "Protection Storage Mask" @ V2_0;
    QuantumSafe: one bool = QuantumSafe "Quantum Safe" @ V2_0;
    ShortUniqueIdentifier: one Vec<u8> =
        ShortUniqueIdentifier "Short Unique Identifier" @ V2_0;
    RotateAutomatic: one bool = RotateAutomatic "Rotate Automatic" @ V2_1;
    RotateDate: one DateTime = RotateDate "Rotate Date" @ V2_1;
    RotateGeneration: one i32 = RotateGeneration "Rotate Generation" @ V2_1;
    RotateInterval: one Interval = RotateInterval "Rotate Interval" @ V2_1;
    RotateLatest: one bool = RotateLatest "Rotate Latest" @ V2_1;
    RotateName: one RotateName = RotateName "Rotate Name" @ V2_1;
    RotateOffset: one Interval = RotateOffset "Rotate Offset" @ V2_1;
}
