//! Enumerations about managed objects and their attributes.

use super::wire_enum;

wire_enum! {
    /// Kind of managed object.
    pub enum ObjectType {
        V1_0: Certificate = 0x01, SymmetricKey = 0x02, PublicKey = 0x03, PrivateKey = 0x04,
            SplitKey = 0x05, SecretData = 0x07, OpaqueObject = 0x08;
        V1_0 ..= V1_4: Template = 0x06;
        V1_2: PgpKey "PGPKey" = 0x09;
        V2_0: CertificateRequest = 0x0A;
    }
}

wire_enum! {
    /// Life-cycle state.
    pub enum State {
        V1_0: PreActive = 0x01, Active = 0x02, Deactivated = 0x03, Compromised = 0x04,
            Destroyed = 0x05, DestroyedCompromised = 0x06;
    }
}

wire_enum! {
    /// Kind of name.
    pub enum NameType { V1_0: UninterpretedTextString = 0x01, Uri "URI" = 0x02; }
}

wire_enum! {
    /// Kind of alternative name.
    pub enum AlternativeNameType {
        V1_2: UninterpretedTextString = 0x01, Uri "URI" = 0x02, ObjectSerialNumber = 0x03,
            EmailAddress = 0x04, DnsName "DNSName" = 0x05,
            X500DistinguishedName "X_500DistinguishedName" = 0x06, IpAddress "IPAddress" = 0x07;
    }
}

wire_enum! {
    /// Why an object was revoked.
    pub enum RevocationReasonCode {
        V1_0: Unspecified = 0x01, KeyCompromise = 0x02, CaCompromise "CACompromise" = 0x03,
            AffiliationChanged = 0x04, Superseded = 0x05, CessationOfOperation = 0x06,
            PrivilegeWithdrawn = 0x07;
    }
}

wire_enum! {
    /// Relation between two objects.
    pub enum LinkType {
        V1_0: CertificateLink = 0x101, PublicKeyLink = 0x102, PrivateKeyLink = 0x103,
            DerivationBaseObjectLink = 0x104, DerivedKeyLink = 0x105, ReplacementObjectLink = 0x106,
            ReplacedObjectLink = 0x107;
        V1_2: ParentLink = 0x108, ChildLink = 0x109, PreviousLink = 0x10A, NextLink = 0x10B;
        V1_4: Pkcs12CertificateLink "PKCS_12CertificateLink" = 0x10C,
            Pkcs12PasswordLink "PKCS_12PasswordLink" = 0x10D;
        V2_0: WrappingKeyLink = 0x10E;
    }
}

wire_enum! {
    /// What usage limits count.
    pub enum UsageLimitsUnit { V1_0: Byte = 0x01, Object = 0x02; }
}

wire_enum! {
    /// Kind of certificate.
    pub enum CertificateType { V1_0: X509 "X_509" = 0x01, Pgp "PGP" = 0x02; }
}

wire_enum! {
    /// Kind of certificate request.
    pub enum CertificateRequestType {
        V1_0: Crmf "CRMF" = 0x01, Pkcs10 "PKCS_10" = 0x02, Pem "PEM" = 0x03, Pgp "PGP" = 0x04;
    }
}

wire_enum! {
    /// Kind of secret data.
    pub enum SecretDataType { V1_0: Password = 0x01, Seed = 0x02; }
}

wire_enum! {
    /// Kind of opaque data; every value is a vendor's.
    pub enum OpaqueDataType { V1_0: VendorDefined "0x80000000" = 0x8000_0000; }
}

wire_enum! {
    /// How a key was split.
    pub enum SplitKeyMethod {
        V1_0: Xor "XOR" = 0x01, PolynomialGf2_16 "PolynomialSharingGF2_16" = 0x02,
            PolynomialPrimeField "PolynomialSharingPrimeField" = 0x03;
        V1_2: PolynomialGf2_8 "PolynomialSharingGF2_8" = 0x04;
    }
}

wire_enum! {
    /// Which member of a group Locate wants.
    pub enum ObjectGroupMember { V1_1: GroupMemberFresh = 0x01, GroupMemberDefault = 0x02; }
}

wire_enum! {
    /// Where a key value is.
    pub enum KeyValueLocationType { V1_2: UninterpretedTextString = 0x01, Uri "URI" = 0x02; }
}

wire_enum! {
    /// Required protection of an object.
    pub enum ProtectionLevel { V2_0: High = 0x01, Low = 0x02; }
}

wire_enum! {
    /// Kind of rotation name.
    pub enum RotateNameType { V2_1: UninterpretedTextString = 0x01, Uri "URI" = 0x02; }
}

wire_enum! {
    /// References to an object other than by its text identifier (KMIP 2.0, 11.57).
    pub enum UniqueIdentifierCode {
        V2_0: IdPlaceholder "IDPlaceholder" = 0x01, Certify = 0x02, Create = 0x03,
            CreateKeyPair = 0x04, CreateKeyPairPrivateKey = 0x05, CreateKeyPairPublicKey = 0x06,
            CreateSplitKey = 0x07, DeriveKey = 0x08, Import = 0x09, JoinSplitKey = 0x0A,
            Locate = 0x0B, Register = 0x0C, ReKey = 0x0D, ReCertify = 0x0E, ReKeyKeyPair = 0x0F,
            ReKeyKeyPairPrivateKey = 0x10, ReKeyKeyPairPublicKey = 0x11;
    }
}

wire_enum! {
    /// Whether a chain or signature holds.
    pub enum ValidityIndicator { V1_0: Valid = 0x01, Invalid = 0x02, Unknown = 0x03; }
}
