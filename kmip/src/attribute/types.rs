//! The structured attribute values.

use crate::enums::*;
use crate::tag::Tag;
use crate::ttlv::{Error, Item, Result, Type, Writer};
use crate::version::Version;
use crate::wire::{Field, wire_struct};

/// How a request or a link points to an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UniqueIdentifier {
    /// The identifier itself.
    Text(String),
    /// The result of an earlier item of the same batch (2.x).
    Reference(UniqueIdentifierCode),
    /// The n-th identifier of the placeholder list (2.x).
    Index(i32),
}

impl UniqueIdentifier {
    /// The identifier itself, if this is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(id) => Some(id),
            Self::Reference(_) | Self::Index(_) => None,
        }
    }
}

impl From<&str> for UniqueIdentifier {
    fn from(id: &str) -> Self {
        Self::Text(id.to_owned())
    }
}

impl Field for UniqueIdentifier {
    fn read(item: &Item<'_>) -> Result<Self> {
        match item.kind() {
            Type::TextString => Ok(Self::Text(item.text()?.to_owned())),
            Type::Enumeration => Ok(Self::Reference(Field::read(item)?)),
            Type::Integer => Ok(Self::Index(item.integer()?)),
            _ => Err(Error::WrongType {
                offset: item.offset(),
                tag: item.tag(),
                expected: Type::TextString,
            }),
        }
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        match self {
            Self::Text(id) => w.text(tag, id),
            Self::Reference(code) => code.write(w, tag, version),
            Self::Index(index) => w.integer(tag, *index),
        }
    }

    fn known(&self, version: Version) -> bool {
        match self {
            Self::Text(_) => true,
            Self::Reference(_) | Self::Index(_) => version.is_v2(),
        }
    }
}

wire_struct! {
    /// Name of an object.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct Name {
        /// The name.
        value: one String = NameValue @ V1_0,
        /// Its kind.
        kind: one NameType = NameType @ V1_0,
    }
}

impl Name {
    /// A plain text name.
    pub fn text(value: impl Into<String>) -> Self {
        Self { value: value.into(), kind: NameType::UninterpretedTextString }
    }
}

wire_struct! {
    /// Name under which others know an object.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct AlternativeName {
        /// The name.
        value: one String = AlternativeNameValue @ V1_2,
        /// Its kind.
        kind: one AlternativeNameType = AlternativeNameType @ V1_2,
    }
}

wire_struct! {
    /// Name shared by the generations of a rotated object.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct RotateName {
        /// The name.
        value: one String = RotateNameValue @ V2_1,
        /// Its kind.
        kind: one RotateNameType = RotateNameType @ V2_1,
    }
}

wire_struct! {
    /// How a key is to be used; every field may be absent.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
    pub struct CryptographicParameters {
        /// Mode.
        block_cipher_mode: opt BlockCipherMode = BlockCipherMode @ V1_0,
        /// Padding.
        padding_method: opt PaddingMethod = PaddingMethod @ V1_0,
        /// Hash.
        hashing_algorithm: opt HashingAlgorithm = HashingAlgorithm @ V1_0,
        /// Payment role.
        key_role_type: opt KeyRoleType = KeyRoleType @ V1_0,
        /// Signature algorithm.
        digital_signature_algorithm: opt DigitalSignatureAlgorithm =
            DigitalSignatureAlgorithm @ V1_2,
        /// Algorithm.
        cryptographic_algorithm: opt CryptographicAlgorithm = CryptographicAlgorithm @ V1_2,
        /// Server chooses the IV.
        random_iv: opt bool = RandomIV @ V1_2,
        /// Bits.
        iv_length: opt i32 = IVLength @ V1_2,
        /// Bytes.
        tag_length: opt i32 = TagLength @ V1_2,
        /// Bits.
        fixed_field_length: opt i32 = FixedFieldLength @ V1_2,
        /// Bits.
        invocation_field_length: opt i32 = InvocationFieldLength @ V1_2,
        /// Bits.
        counter_length: opt i32 = CounterLength @ V1_2,
        /// First counter.
        initial_counter_value: opt i32 = InitialCounterValue @ V1_2,
        /// Bytes.
        salt_length: opt i32 = SaltLength @ V1_4,
        /// Mask generator.
        mask_generator: opt MaskGenerator = MaskGenerator @ V1_4,
        /// Hash of the mask generator.
        mask_generator_hashing_algorithm: opt HashingAlgorithm =
            MaskGeneratorHashingAlgorithm @ V1_4,
        /// OAEP label.
        p_source: opt Vec<u8> = PSource @ V1_4,
        /// PSS trailer.
        trailer_field: opt i32 = TrailerField @ V1_4,
    }
}

wire_struct! {
    /// Domain of an asymmetric key.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
    pub struct CryptographicDomainParameters {
        /// Bits of Q.
        q_length: opt i32 = Qlength @ V1_0,
        /// Curve, numbered as in KMIP 2.1, 11.43.
        recommended_curve: opt Curve = RecommendedCurve @ V1_0,
    }
}

/// Number of a recommended curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Curve(pub u32);

impl Field for Curve {
    fn read(item: &Item<'_>) -> Result<Self> {
        item.enumeration().map(Self)
    }
    fn write(&self, w: &mut Writer, tag: Tag, _: Version) {
        w.enumeration(tag, self.0);
    }
}

wire_struct! {
    /// Certificate identifier of KMIP 1.0.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct CertificateIdentifier {
        /// Issuer.
        issuer: one String = Issuer @ V1_0,
        /// Serial number.
        serial_number: opt String = SerialNumber @ V1_0,
    }
}

wire_struct! {
    /// Certificate subject of KMIP 1.0.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct CertificateSubject {
        /// Distinguished name.
        distinguished_name: one String = CertificateSubjectDistinguishedName @ V1_0,
        /// Alternative names.
        alternative_names: many String = CertificateSubjectAlternativeName @ V1_0,
    }
}

wire_struct! {
    /// Certificate issuer of KMIP 1.0.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct CertificateIssuer {
        /// Distinguished name.
        distinguished_name: one String = CertificateIssuerDistinguishedName @ V1_0,
        /// Alternative names.
        alternative_names: many String = CertificateIssuerAlternativeName @ V1_0,
    }
}

wire_struct! {
    /// Issuer and serial number of an X.509 certificate, DER.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct X509CertificateIdentifier {
        /// Issuer.
        issuer: one Vec<u8> = IssuerDistinguishedName @ V1_1,
        /// Serial number.
        serial_number: one Vec<u8> = CertificateSerialNumber @ V1_1,
    }
}

wire_struct! {
    /// Subject of an X.509 certificate, DER.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct X509CertificateSubject {
        /// Distinguished name.
        distinguished_name: one Vec<u8> = SubjectDistinguishedName @ V1_1,
        /// Alternative names.
        alternative_names: many Vec<u8> = SubjectAlternativeName @ V1_1,
    }
}

wire_struct! {
    /// Issuer of an X.509 certificate, DER.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct X509CertificateIssuer {
        /// Distinguished name.
        distinguished_name: one Vec<u8> = IssuerDistinguishedName @ V1_1,
        /// Alternative names.
        alternative_names: many Vec<u8> = IssuerAlternativeName @ V1_1,
    }
}

wire_struct! {
    /// Digest of key material.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct Digest {
        /// Hash.
        hashing_algorithm: one HashingAlgorithm = HashingAlgorithm @ V1_0,
        /// Value.
        value: opt Vec<u8> = DigestValue @ V1_0,
        /// Form that was hashed.
        key_format_type: opt KeyFormatType = KeyFormatType @ V1_1,
    }
}

wire_struct! {
    /// How much a key may still be used.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct UsageLimits {
        /// Allowed in all.
        total: one i64 = UsageLimitsTotal @ V1_0,
        /// Still left.
        count: opt i64 = UsageLimitsCount @ V1_0,
        /// What is counted.
        unit: one UsageLimitsUnit = UsageLimitsUnit @ V1_0,
    }
}

wire_struct! {
    /// Why an object was revoked.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct RevocationReason {
        /// Code.
        code: one RevocationReasonCode = RevocationReasonCode @ V1_0,
        /// Free text.
        message: opt String = RevocationMessage @ V1_0,
    }
}

wire_struct! {
    /// Pointer to another object.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct Link {
        /// Relation.
        kind: one LinkType = LinkType @ V1_0,
        /// The other object.
        target: one UniqueIdentifier = LinkedObjectIdentifier @ V1_0,
    }
}

wire_struct! {
    /// Data of an application about an object.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct ApplicationSpecificInformation {
        /// Name space.
        namespace: one String = ApplicationNamespace @ V1_0,
        /// Data; absent when the server is to generate it (1.3).
        data: opt String = ApplicationData @ V1_0,
    }
}

wire_struct! {
    /// Where a key value is that the server does not hold.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct KeyValueLocation {
        /// Place.
        value: one String = KeyValueLocationValue @ V1_2,
        /// Kind of place.
        kind: one KeyValueLocationType = KeyValueLocationType @ V1_2,
    }
}

wire_struct! {
    /// Random number generator.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct RngParameters {
        /// Kind.
        algorithm: one RngAlgorithm = RNGAlgorithm @ V1_3,
        /// Cipher it rests on.
        cryptographic_algorithm: opt CryptographicAlgorithm = CryptographicAlgorithm @ V1_3,
        /// Bits.
        cryptographic_length: opt i32 = CryptographicLength @ V1_3,
        /// Hash it rests on.
        hashing_algorithm: opt HashingAlgorithm = HashingAlgorithm @ V1_3,
        /// Kind of DRBG.
        drbg_algorithm: opt DrbgAlgorithm = DRBGAlgorithm @ V1_3,
        /// Curve it rests on.
        recommended_curve: opt Curve = RecommendedCurve @ V1_3,
        /// FIPS 186 variant.
        fips186_variation: opt Fips186Variation = FIPS186Variation @ V1_3,
        /// Reseeded before every use.
        prediction_resistance: opt bool = PredictionResistance @ V1_3,
    }
}
