//! Enumerations about messages, operations and servers.

use super::wire_enum;
use crate::version::Version;

wire_enum! {
    /// Operation of a batch item.
    pub enum OperationCode {
        V1_0: Create = 0x01, CreateKeyPair = 0x02, Register = 0x03, ReKey = 0x04, DeriveKey = 0x05,
            Certify = 0x06, ReCertify = 0x07, Locate = 0x08, Check = 0x09, Get = 0x0A,
            GetAttributes = 0x0B, GetAttributeList = 0x0C, AddAttribute = 0x0D,
            ModifyAttribute = 0x0E, DeleteAttribute = 0x0F, ObtainLease = 0x10,
            GetUsageAllocation = 0x11, Activate = 0x12, Revoke = 0x13, Destroy = 0x14,
            Archive = 0x15, Recover = 0x16, Validate = 0x17, Query = 0x18, Cancel = 0x19,
            Poll = 0x1A, Notify = 0x1B, Put = 0x1C;
        V1_1: ReKeyKeyPair = 0x1D, DiscoverVersions = 0x1E;
        V1_2: Encrypt = 0x1F, Decrypt = 0x20, Sign = 0x21, SignatureVerify = 0x22, Mac "MAC" = 0x23,
            MacVerify "MACVerify" = 0x24, RngRetrieve "RNGRetrieve" = 0x25,
            RngSeed "RNGSeed" = 0x26, Hash = 0x27, CreateSplitKey = 0x28, JoinSplitKey = 0x29;
        V1_4: Import = 0x2A, Export = 0x2B;
        V2_0: Log = 0x2C, Login = 0x2D, Logout = 0x2E, DelegatedLogin = 0x2F,
            AdjustAttribute = 0x30, SetAttribute = 0x31, SetEndpointRole = 0x32,
            Pkcs11 "PKCS_11" = 0x33, Interop = 0x34, ReProvision = 0x35;
        V2_1: SetDefaults = 0x36, SetConstraints = 0x37, GetConstraints = 0x38,
            QueryAsynchronousRequests = 0x39, Process = 0x3A, Ping = 0x3B;
    }
}

wire_enum! {
    /// Outcome of a batch item.
    pub enum ResultStatus {
        V1_0: Success = 0x00, OperationFailed = 0x01, OperationPending = 0x02,
            OperationUndone = 0x03;
    }
}

wire_enum! {
    /// Why a batch item failed.
    pub enum ResultReason {
        V1_0: ItemNotFound = 0x01, ResponseTooLarge = 0x02, AuthenticationNotSuccessful = 0x03,
            InvalidMessage = 0x04, OperationNotSupported = 0x05, MissingData = 0x06,
            InvalidField = 0x07, FeatureNotSupported = 0x08, OperationCanceledByRequester = 0x09,
            CryptographicFailure = 0x0A, IllegalOperation = 0x0B, PermissionDenied = 0x0C,
            ObjectArchived = 0x0D, IndexOutOfBounds = 0x0E, ApplicationNamespaceNotSupported = 0x0F,
            KeyFormatTypeNotSupported = 0x10, KeyCompressionTypeNotSupported = 0x11,
            GeneralFailure = 0x100;
        V1_1: EncodingOptionError = 0x12;
        V1_2: KeyValueNotPresent = 0x13, AttestationRequired = 0x14, AttestationFailed = 0x15;
        V1_4: Sensitive = 0x16, NotExtractable = 0x17, ObjectAlreadyExists = 0x18;
        V2_0: InvalidTicket = 0x19, UsageLimitExceeded = 0x1A, NumericRange = 0x1B,
            InvalidDataType = 0x1C, ReadOnlyAttribute = 0x1D, MultiValuedAttribute = 0x1E,
            UnsupportedAttribute = 0x1F, AttributeInstanceNotFound = 0x20,
            AttributeNotFound = 0x21, AttributeReadOnly = 0x22, AttributeSingleValued = 0x23,
            BadCryptographicParameters = 0x24, BadPassword = 0x25, CodecError = 0x26,
            IllegalObjectType = 0x28, IncompatibleCryptographicUsageMask = 0x29,
            InternalServerError = 0x2A, InvalidAsynchronousCorrelationValue = 0x2B,
            InvalidAttribute = 0x2C, InvalidAttributeValue = 0x2D, InvalidCorrelationValue = 0x2E,
            InvalidCsr "InvalidCSR" = 0x2F, InvalidObjectType = 0x30,
            KeyWrapTypeNotSupported = 0x32, MissingInitializationVector = 0x34,
            NonUniqueNameAttribute = 0x35, ObjectDestroyed = 0x36, ObjectNotFound = 0x37,
            NotAuthorised = 0x39, ServerLimitExceeded = 0x3A, UnknownEnumeration = 0x3B,
            UnknownMessageExtension = 0x3C, UnknownTag = 0x3D,
            UnsupportedCryptographicParameters = 0x3E, UnsupportedProtocolVersion = 0x3F,
            WrappingObjectArchived = 0x40, WrappingObjectDestroyed = 0x41,
            WrappingObjectNotFound = 0x42, WrongKeyLifecycleState = 0x43,
            ProtectionStorageUnavailable = 0x44, Pkcs11CodecError "PKCS_11CodecError" = 0x45,
            Pkcs11InvalidFunction "PKCS_11InvalidFunction" = 0x46,
            Pkcs11InvalidInterface "PKCS_11InvalidInterface" = 0x47,
            PrivateProtectionStorageUnavailable = 0x48, PublicProtectionStorageUnavailable = 0x49;
        V2_1: UnknownObjectGroup = 0x4A, ConstraintViolation = 0x4B, DuplicateProcessRequest = 0x4C;
    }
}

impl ResultReason {
    /// The nearest reason that `version` has: an older client gets a word it knows.
    pub fn in_version(self, version: Version) -> Self {
        if crate::wire::Field::known(&self, version) {
            return self;
        }
        match self {
            Self::ObjectNotFound
            | Self::AttributeNotFound
            | Self::WrappingObjectNotFound
            | Self::WrappingObjectDestroyed
            | Self::ObjectDestroyed
            | Self::AttributeInstanceNotFound => Self::ItemNotFound,
            Self::Sensitive
            | Self::NotExtractable
            | Self::WrongKeyLifecycleState
            | Self::NotAuthorised
            | Self::UsageLimitExceeded
            | Self::AttributeReadOnly
            | Self::ReadOnlyAttribute
            | Self::IncompatibleCryptographicUsageMask
            | Self::ConstraintViolation => Self::PermissionDenied,
            Self::UnsupportedProtocolVersion | Self::CodecError | Self::UnknownTag => {
                Self::InvalidMessage
            }
            Self::InvalidAttribute
            | Self::InvalidAttributeValue
            | Self::InvalidDataType
            | Self::NumericRange
            | Self::InvalidObjectType
            | Self::IllegalObjectType
            | Self::UnknownEnumeration
            | Self::NonUniqueNameAttribute
            | Self::AttributeSingleValued
            | Self::MultiValuedAttribute
            | Self::UnknownObjectGroup
            | Self::EncodingOptionError
            | Self::ObjectAlreadyExists => Self::InvalidField,
            Self::UnsupportedAttribute
            | Self::KeyWrapTypeNotSupported
            | Self::UnsupportedCryptographicParameters => Self::FeatureNotSupported,
            Self::WrappingObjectArchived => Self::ObjectArchived,
            Self::BadPassword | Self::InvalidTicket => Self::AuthenticationNotSuccessful,
            _ => Self::GeneralFailure,
        }
    }
}

wire_enum! {
    /// What Query asks for.
    pub enum QueryFunction {
        V1_0: QueryOperations = 0x01, QueryObjects = 0x02, QueryServerInformation = 0x03,
            QueryApplicationNamespaces = 0x04;
        V1_1: QueryExtensionList = 0x05, QueryExtensionMap = 0x06;
        V1_2: QueryAttestationTypes = 0x07;
        V1_3: QueryRngs "QueryRNGs" = 0x08, QueryValidations = 0x09, QueryProfiles = 0x0A,
            QueryCapabilities = 0x0B, QueryClientRegistrationMethods = 0x0C;
        V2_0: QueryDefaultsInformation = 0x0D, QueryStorageProtectionMasks = 0x0E;
    }
}

wire_enum! {
    /// What to do with a batch after a failed item.
    pub enum BatchErrorContinuationOption {
        V1_0: Continue = 0x01, Stop = 0x02, Undo = 0x03;
    }
}

wire_enum! {
    /// Whether an answer may come later (2.x; a Boolean before).
    pub enum AsynchronousIndicator { V2_0: Mandatory = 0x01, Optional = 0x02, Prohibited = 0x03; }
}

wire_enum! {
    /// Kind of credential.
    pub enum CredentialType {
        V1_0: UsernameAndPassword = 0x01;
        V1_1: Device = 0x02;
        V1_2: Attestation = 0x03;
        V2_0: OneTimePassword = 0x04, HashedPassword = 0x05, Ticket = 0x06;
    }
}

wire_enum! {
    /// Kind of attestation.
    pub enum AttestationType {
        V1_2: TpmQuote "TPMQuote" = 0x01, TcgIntegrityReport "TCGIntegrityReport" = 0x02,
            SamlAssertion "SAMLAssertion" = 0x03;
    }
}

wire_enum! {
    /// How clients are registered.
    pub enum ClientRegistrationMethod {
        V1_3: Unspecified = 0x01, ServerPreGenerated = 0x02, ServerOnDemand = 0x03,
            ClientGenerated = 0x04, ClientRegistered = 0x05;
    }
}

wire_enum! {
    /// Outcome of Cancel.
    pub enum CancellationResult {
        V1_0: Canceled = 0x01, UnableToCancel = 0x02, Completed = 0x03, Failed = 0x04,
            Unavailable = 0x05;
    }
}

wire_enum! {
    /// Whether Put is new or replaces.
    pub enum PutFunction { V1_0: New = 0x01, Replace = 0x02; }
}

wire_enum! {
    /// How wrapped keys are taken in.
    pub enum UnwrapMode { V1_3: Unspecified = 0x01, Processed = 0x02, NotProcessed = 0x03; }
}

wire_enum! {
    /// What Destroy does.
    pub enum DestroyAction {
        V1_3: Unspecified = 0x01, KeyMaterialDeleted = 0x02, KeyMaterialShredded = 0x03,
            MetaDataDeleted = 0x04, MetaDataShredded = 0x05, Deleted = 0x06, Shredded = 0x07;
    }
}

wire_enum! {
    /// How destroyed data is made unreadable.
    pub enum ShreddingAlgorithm { V1_3: Unspecified = 0x01, Cryptographic = 0x02, Unsupported = 0x03; }
}

wire_enum! {
    /// Whether clients share a generator.
    pub enum RngMode {
        V1_3: Unspecified = 0x01, SharedInstantiation = 0x02, NonSharedInstantiation = 0x03;
    }
}

wire_enum! {
    /// Who validated a module.
    pub enum ValidationAuthorityType {
        V1_3: Unspecified = 0x01, NistCmvp "NISTCMVP" = 0x02, CommonCriteria = 0x03;
    }
}

wire_enum! {
    /// What was validated.
    pub enum ValidationType {
        V1_3: Unspecified = 0x01, Hardware = 0x02, Software = 0x03, Firmware = 0x04, Hybrid = 0x05;
    }
}

wire_enum! {
    /// How Adjust Attribute changes a value.
    pub enum AdjustmentType { V2_0: Increment = 0x01, Decrement = 0x02, Negate = 0x03; }
}

wire_enum! {
    /// Which end answers requests.
    pub enum EndpointRole { V2_0: Client = 0x01, Server = 0x02; }
}

wire_enum! {
    /// Step of an interoperability test.
    pub enum InteropFunction { V2_0: Begin = 0x01, End = 0x02, Reset = 0x03; }
}

wire_enum! {
    /// Kind of login ticket.
    pub enum TicketType { V2_0: Login = 0x01; }
}

wire_enum! {
    /// How far an asynchronous request is.
    pub enum ProcessingStage { V2_1: Submitted = 0x01, InProcess = 0x02, Completed = 0x03; }
}

wire_enum! {
    /// The PKCS#11 functions that profiles test; the numbering is that of the PKCS#11 header.
    pub enum Pkcs11Function {
        V2_0: Initialize "C_Initialize" = 0x01, Finalize "C_Finalize" = 0x02,
            GetInfo "C_GetInfo" = 0x03;
    }
}

wire_enum! {
    /// Return codes of PKCS #11: CKR_OK and those a server answers with here.
    pub enum Pkcs11ReturnCode {
        V2_0: Ok "OK" = 0x00, FunctionNotSupported "FUNCTION_NOT_SUPPORTED" = 0x54,
            CryptokiNotInitialized "CRYPTOKI_NOT_INITIALIZED" = 0x190;
    }
}
