//! Enumerations of KMIP: one table per enumeration with name, number and the versions that have
//! each value. An unknown number is kept as `Other`, so decoding never fails on it and
//! an operation can refuse it by name.
//!
//! [`number_of`] and [`name_of`] look a value up by the tag it stands under, for encodings that
//! write names.

mod crypto;
mod object;
mod protocol;

pub use crypto::*;
pub use object::*;
pub use protocol::*;

use crate::tag::Tag;

macro_rules! wire_enum {
    (@name $variant:ident) => { stringify!($variant) };
    (@name $variant:ident $name:literal) => { $name };
    (@until) => { None };
    (@until $until:ident) => { Some($crate::version::Version::$until) };
    ($(#[$m:meta])* pub enum $enum:ident { $(
        $since:ident $(..= $until:ident)?: $( $variant:ident $($name:literal)? = $number:literal ),+ ;
    )+ }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $enum {
            $($(
                #[doc = concat!("`", stringify!($number), "`, since ", stringify!($since))]
                $variant,
            )+)+
            /// A number the table does not have: a vendor extension or a newer version.
            Other(u32),
        }

        impl $enum {
            /// Every value of the table.
            pub const ALL: &'static [Self] = &[ $($( Self::$variant, )+)+ ];

            /// The number on the wire.
            pub fn number(self) -> u32 {
                match self { $($( Self::$variant => $number, )+)+ Self::Other(number) => number }
            }

            /// The value with this number.
            pub fn from_number(number: u32) -> Self {
                match number { $($( $number => Self::$variant, )+)+ other => Self::Other(other) }
            }

            /// Its name in the XML encoding.
            pub fn name(self) -> Option<&'static str> {
                Some(match self {
                    $($( Self::$variant => wire_enum!(@name $variant $($name)?), )+)+
                    Self::Other(_) => return None,
                })
            }

            /// The value of this XML name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == Some(name))
            }

            /// The version that introduced it; vendor extensions stand outside versions.
            pub fn since(self) -> Option<$crate::version::Version> {
                Some(match self {
                    $( $( Self::$variant )|+ => $crate::version::Version::$since, )+
                    Self::Other(_) => return None,
                })
            }

            /// The last version that has it, where a later one took it away.
            pub fn until(self) -> Option<$crate::version::Version> {
                match self {
                    $( $( Self::$variant )|+ => wire_enum!(@until $($until)?), )+
                    Self::Other(_) => None,
                }
            }
        }

        impl $crate::wire::Field for $enum {
            fn read(item: &$crate::ttlv::Item<'_>) -> $crate::ttlv::Result<Self> {
                item.enumeration().map(Self::from_number)
            }
            fn write(
                &self,
                w: &mut $crate::ttlv::Writer,
                tag: $crate::tag::Tag,
                _: $crate::version::Version,
            ) {
                w.enumeration(tag, self.number());
            }
            fn known(&self, version: $crate::version::Version) -> bool {
                match self.since() {
                    Some(since) => {
                        since <= version && self.until().is_none_or(|until| version <= until)
                    }
                    None => self.number() & 0x8000_0000 != 0,
                }
            }
        }
    };
}
use wire_enum;

macro_rules! by_tag {
    ($( $($tag:ident)|+ => $enum:ident, )+) => {
        /// The number that `name` stands for in a field with this tag.
        pub fn number_of(tag: Tag, name: &str) -> Option<u32> {
            match tag {
                Tag::AttributeReference => Tag::from_name(name).map(Tag::number),
                $( $(Tag::$tag)|+ => $enum::from_name(name).map($enum::number), )+
                _ => None,
            }
        }

        /// The name of `number` in a field with this tag.
        pub fn name_of(tag: Tag, number: u32) -> Option<&'static str> {
            match tag {
                Tag::AttributeReference => Tag::new(number).name(),
                $( $(Tag::$tag)|+ => $enum::from_number(number).name(), )+
                _ => None,
            }
        }
    };
}

by_tag! {
    AdjustmentType => AdjustmentType,
    AlternativeNameType => AlternativeNameType,
    AsynchronousIndicator => AsynchronousIndicator,
    AttestationType => AttestationType,
    BatchErrorContinuationOption => BatchErrorContinuationOption,
    BlockCipherMode => BlockCipherMode,
    CancellationResult => CancellationResult,
    CertificateRequestType => CertificateRequestType,
    CertificateType => CertificateType,
    ClientRegistrationMethod => ClientRegistrationMethod,
    CredentialType => CredentialType,
    CryptographicAlgorithm => CryptographicAlgorithm,
    DRBGAlgorithm => DrbgAlgorithm,
    DerivationMethod => DerivationMethod,
    DestroyAction => DestroyAction,
    DigitalSignatureAlgorithm => DigitalSignatureAlgorithm,
    EncodingOption => EncodingOption,
    EndpointRole => EndpointRole,
    FIPS186Variation => Fips186Variation,
    HashingAlgorithm | MaskGeneratorHashingAlgorithm => HashingAlgorithm,
    InteropFunction => InteropFunction,
    KeyCompressionType => KeyCompressionType,
    KeyFormatType => KeyFormatType,
    KeyRoleType => KeyRoleType,
    KeyValueLocationType => KeyValueLocationType,
    KeyWrapType => KeyWrapType,
    LinkType => LinkType,
    MaskGenerator => MaskGenerator,
    NISTKeyType => NistKeyType,
    NameType => NameType,
    ObjectGroupMember => ObjectGroupMember,
    ObjectType => ObjectType,
    Operation => OperationCode,
    PKCS_11Function => Pkcs11Function,
    PKCS_11ReturnCode => Pkcs11ReturnCode,
    PaddingMethod => PaddingMethod,
    ProcessingStage => ProcessingStage,
    ProtectionLevel => ProtectionLevel,
    PutFunction => PutFunction,
    QueryFunction => QueryFunction,
    RNGAlgorithm => RngAlgorithm,
    RNGMode => RngMode,
    ResultReason => ResultReason,
    ResultStatus => ResultStatus,
    RevocationReasonCode => RevocationReasonCode,
    RotateNameType => RotateNameType,
    SecretDataType => SecretDataType,
    ShreddingAlgorithm => ShreddingAlgorithm,
    SplitKeyMethod => SplitKeyMethod,
    State => State,
    TicketType => TicketType,
    UniqueIdentifier => UniqueIdentifierCode,
    UnwrapMode => UnwrapMode,
    UsageLimitsUnit => UsageLimitsUnit,
    ValidationAuthorityType => ValidationAuthorityType,
    ValidationType => ValidationType,
    ValidityIndicator => ValidityIndicator,
    WrappingMethod => WrappingMethod,
}
