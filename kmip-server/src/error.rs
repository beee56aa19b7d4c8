//! Every refusal of an operation, and the Result Reason and text the client gets for it.

use km_core::{
    hsm::HsmError,
    objects::{BadObjectStep, ObjectError},
    pool::{CollectError, PoolError},
    random::RandomError,
    supply::SupplyError,
};
use kmip::{
    Version,
    attribute::AttributeKind,
    enums::{OperationCode, ResultReason},
};

const KEYS_AWAY: &str =
    "keys cannot be supplied now: the link to the other cluster, the HSM or the store is away";

/// Why an operation was not done. Only [`OpError::Temporary`], [`OpError::NotLed`], [`OpError::Full`]
/// and [`OpError::OutOfTime`] may be tried again as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpError {
    #[error("there is no object {0}")]
    NotFound(String),
    #[error("the request names no object, and no earlier item of the batch made exactly one")]
    NoPlaceholder,
    #[error("object {0} was destroyed")]
    Destroyed(String),
    #[error("{0}")]
    Step(BadObjectStep),
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Missing(&'static str),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    ObjectType(String),
    #[error("{} is set by the server only", .0)]
    ReadOnly(String),
    #[error("{} may be given once only", .0.name())]
    SingleValued(AttributeKind),
    #[error("{0} has a value that no version of KMIP has a word for, and that is no vendor's")]
    NoWord(String),
    #[error(
        "this server makes no Application Data of the namespace {0:?}; send the data with the namespace"
    )]
    Namespace(String),
    #[error("this server has no attribute {0}")]
    UnknownAttribute(String),
    #[error("an object of this client has the name {0:?} already; choose another or destroy it")]
    NameTaken(String),
    #[error("{0}")]
    KeyFormat(String),
    #[error("point compression is not converted; ask without Key Compression Type")]
    Compression,
    #[error("{0}")]
    Wrapping(String),
    #[error("{0}")]
    Encoding(&'static str),
    #[error("there is no wrapping key {0}")]
    WrappingKeyNotFound(String),
    #[error("wrapping key {0} was destroyed")]
    WrappingKeyDestroyed(String),
    #[error("wrapping key {0} is archived; recover it first")]
    WrappingKeyArchived(String),
    #[error(
        "object {0} is sensitive: ask with a Key Wrapping Specification, it leaves only wrapped"
    )]
    Sensitive(String),
    #[error("object {0} is not extractable")]
    NotExtractable(String),
    #[error("object {0} may not be used so: its Cryptographic Usage Mask lacks {1}")]
    Mask(String, &'static str),
    #[error("{0}")]
    Lifecycle(String),
    #[error("{0}")]
    BadData(String),
    #[error("object {0} is archived; recover it first")]
    Archived(String),
    #[error("there is an object {0} already; import with Replace Existing to have it replaced")]
    Exists(String),
    #[error("{0}")]
    Illegal(String),
    #[error("{0} cannot be changed by clients")]
    Unchangeable(String),
    #[error("the object has a {0} already, and may have one only; modify it")]
    HasOne(String),
    #[error("{0} may be there several times; add, modify or delete single instances")]
    HasMany(String),
    #[error("the object has no {0}")]
    NoAttribute(String),
    #[error("the object has no such instance of {0}; ask for its attributes and name one of them")]
    NoInstance(String),
    #[error("{1}")]
    Check(ResultReason, String),
    #[error("{0}")]
    BadParameters(String),
    #[error("{0}")]
    CertificateRequest(String),
    #[error("{0}")]
    AsynchronousValue(&'static str),
    #[error("the ticket is not one of this client that is still good")]
    Ticket,
    #[error("there is one interface here, PKCS 11; leave PKCS#11 Interface out")]
    Pkcs11Interface,
    #[error("a tag of {0} bytes is not made; it has 12 to 16 (CCM: 8, 12 or 16)")]
    TagLength(i32),
    #[error("{0}")]
    CannotUse(String),
    #[error("the IV/Counter/Nonce is missing; send it, or ask for a Random IV")]
    MissingIv,
    #[error("{0}")]
    Feature(&'static str),
    #[error("this server does not have the operation")]
    Operation,
    #[error("a critical Message Extension is not understood; send the item without it")]
    Extension,
    #[error("{0}")]
    TooMuch(String),
    #[error(
        "the constraints of this client's tenant do not allow its {0}; Get Constraints tells them"
    )]
    Constraint(String),
    #[error("{0}")]
    Quota(String),
    #[error("this client may not {}; its operator can allow it", .0.name().unwrap_or("do that"))]
    NotAllowed(OperationCode),
    #[error("the items before it took too long and this one was not begun; send it again, apart")]
    OutOfTime,
    #[error("the HSM has no room for another object; try again")]
    Full,
    /// With what the log is told.
    #[error("{KEYS_AWAY}; try again")]
    NotLed(String),
    #[error("{0}; try again")]
    Temporary(String),
    #[error("{0}")]
    Internal(String),
    #[error("{0}")]
    Codec(#[from] kmip::ttlv::Error),
}

impl OpError {
    /// The reason, in the words of the newest version; the encoder takes the nearest one an older
    /// version has. Where that would say too little, the older word stands here.
    pub(crate) fn reason(&self, version: Version) -> ResultReason {
        let or = |new, old| if version.is_v2() { new } else { old };
        match self {
            Self::NotFound(_) => ResultReason::ObjectNotFound,
            Self::NoPlaceholder => ResultReason::ObjectNotFound,
            Self::Destroyed(_) => ResultReason::ObjectDestroyed,
            Self::Step(_) => ResultReason::WrongKeyLifecycleState,
            Self::Denied(_) => ResultReason::PermissionDenied,
            Self::Missing(_) => ResultReason::MissingData,
            Self::Invalid(_) => or(ResultReason::InvalidAttributeValue, ResultReason::InvalidField),
            Self::ObjectType(_) => or(ResultReason::InvalidObjectType, ResultReason::InvalidField),
            Self::ReadOnly(_) => or(ResultReason::ReadOnlyAttribute, ResultReason::InvalidField),
            Self::SingleValued(_) => ResultReason::AttributeSingleValued,
            Self::UnknownAttribute(_) => {
                or(ResultReason::UnsupportedAttribute, ResultReason::InvalidField)
            }
            Self::NoWord(_) => or(ResultReason::UnknownEnumeration, ResultReason::InvalidField),
            Self::Namespace(_) => ResultReason::ApplicationNamespaceNotSupported,
            Self::NameTaken(_) => ResultReason::NonUniqueNameAttribute,
            Self::KeyFormat(_) => ResultReason::KeyFormatTypeNotSupported,
            Self::Compression => ResultReason::KeyCompressionTypeNotSupported,
            Self::Wrapping(_) => ResultReason::KeyWrapTypeNotSupported,
            Self::Encoding(_) => ResultReason::EncodingOptionError,
            Self::WrappingKeyNotFound(_) => ResultReason::WrappingObjectNotFound,
            Self::WrappingKeyDestroyed(_) => ResultReason::WrappingObjectDestroyed,
            Self::WrappingKeyArchived(_) => ResultReason::WrappingObjectArchived,
            Self::Sensitive(_) => ResultReason::Sensitive,
            Self::NotExtractable(_) => ResultReason::NotExtractable,
            Self::Mask(..) => ResultReason::IncompatibleCryptographicUsageMask,
            Self::Lifecycle(_) => ResultReason::WrongKeyLifecycleState,
            Self::BadData(_) => ResultReason::CryptographicFailure,
            Self::Archived(_) => ResultReason::ObjectArchived,
            Self::Exists(_) => ResultReason::ObjectAlreadyExists,
            Self::Illegal(_) => ResultReason::IllegalOperation,
            Self::Unchangeable(_) => ResultReason::AttributeReadOnly,
            Self::HasOne(_) => {
                or(ResultReason::AttributeSingleValued, ResultReason::IllegalOperation)
            }
            Self::HasMany(_) => ResultReason::MultiValuedAttribute,
            Self::NoAttribute(_) => ResultReason::AttributeNotFound,
            Self::NoInstance(_) => ResultReason::AttributeInstanceNotFound,
            Self::Check(reason, _) => *reason,
            Self::BadParameters(_) => {
                or(ResultReason::BadCryptographicParameters, ResultReason::InvalidField)
            }
            Self::AsynchronousValue(_) => {
                or(ResultReason::InvalidAsynchronousCorrelationValue, ResultReason::InvalidField)
            }
            Self::Ticket => ResultReason::InvalidTicket,
            Self::Pkcs11Interface => ResultReason::Pkcs11InvalidInterface,
            Self::CertificateRequest(_) => or(ResultReason::InvalidCsr, ResultReason::InvalidField),
            Self::CannotUse(_) => ResultReason::UnsupportedCryptographicParameters,
            // The words of the OASIS cases in every version.
            Self::TagLength(_) => ResultReason::GeneralFailure,
            Self::MissingIv => ResultReason::InvalidMessage,
            Self::Feature(_) => ResultReason::FeatureNotSupported,
            Self::Operation => ResultReason::OperationNotSupported,
            Self::Extension => {
                or(ResultReason::UnknownMessageExtension, ResultReason::FeatureNotSupported)
            }
            Self::Quota(_) => or(ResultReason::ServerLimitExceeded, ResultReason::PermissionDenied),
            Self::Constraint(_) => {
                or(ResultReason::ConstraintViolation, ResultReason::PermissionDenied)
            }
            Self::NotAllowed(_) => ResultReason::PermissionDenied,
            Self::TooMuch(_) => or(ResultReason::ServerLimitExceeded, ResultReason::InvalidField),
            // No version has a word for it: the canceled operations are those the client canceled.
            Self::OutOfTime | Self::Full | Self::NotLed(_) | Self::Temporary(_) => {
                ResultReason::GeneralFailure
            }
            Self::Internal(_) => {
                or(ResultReason::InternalServerError, ResultReason::GeneralFailure)
            }
            Self::Codec(error) => error.reason(),
        }
    }

    /// An attribute value that does not fit.
    pub(crate) fn invalid(kind: AttributeKind, why: &str) -> Self {
        Self::Invalid(format!("{}: {why}", kind.name()))
    }
}

impl From<ObjectError> for OpError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::NotFound(uid) => Self::NotFound(uid),
            ObjectError::Destroyed(uid) => Self::Destroyed(uid),
            ObjectError::TooLarge(what) => Self::TooMuch(what),
            error @ ObjectError::Quota { .. } => Self::Quota(error.to_string()),
            ObjectError::Step(step) => Self::Step(step),
            ObjectError::Conflict(uid) => {
                Self::Temporary(format!("object {uid} changed at the same time"))
            }
            ObjectError::Unknown(uid) => {
                Self::Temporary(format!("it is not known whether object {uid} was stored"))
            }
            ObjectError::Hsm(error) => error.into(),
            ObjectError::Random(error) => error.into(),
            error @ (ObjectError::Exists(_) | ObjectError::Record(_)) => {
                tracing::error!(%error, "an object could not be read or written");
                Self::Internal("the store did not do it; see the server's log".to_owned())
            }
        }
    }
}

impl From<HsmError> for OpError {
    fn from(error: HsmError) -> Self {
        tracing::warn!(%error, "the HSM did not do it");
        match error {
            HsmError::Unavailable(_) => Self::Temporary("the HSM is not available".to_owned()),
            HsmError::Full(_) => Self::Full,
            _ => Self::Internal("the HSM refused; see the server's log".to_owned()),
        }
    }
}

impl From<RandomError> for OpError {
    fn from(error: RandomError) -> Self {
        let text = match error {
            RandomError::Token(error) => return error.into(),
            RandomError::Unhealthy { .. } | RandomError::Away { .. } => {
                "random numbers are not available"
            }
            RandomError::Setup(_) => {
                tracing::error!(%error, "no random numbers");
                return Self::Internal("there are no random numbers; see the server's log".into());
            }
        };
        tracing::warn!(%error, "no random numbers");
        Self::Temporary(text.to_owned())
    }
}

impl From<PoolError> for OpError {
    fn from(error: PoolError) -> Self {
        tracing::warn!(%error, "a pool key could not be taken over");
        Self::Temporary("the key could not be taken from its pool".to_owned())
    }
}

impl From<SupplyError> for OpError {
    fn from(error: SupplyError) -> Self {
        match error {
            SupplyError::Collect(CollectError::NotFound(ids)) => {
                Self::NotFound(ids.first().map(ToString::to_string).unwrap_or_default())
            }
            // Whose key it is, or that it was collected, is told to nobody else.
            SupplyError::Collect(CollectError::NotYours(id)) => Self::NotFound(id.to_string()),
            SupplyError::Collect(CollectError::Pool(error)) => error.into(),
            error @ (SupplyError::NotPaired { .. } | SupplyError::BadSlaves(_)) => {
                Self::Denied(error.to_string())
            }
            SupplyError::OutOfBounds(what) => {
                Self::invalid(AttributeKind::CryptographicLength, &what)
            }
            error @ (SupplyError::NoKeys(_) | SupplyError::BelowGrade { .. }) => {
                Self::Temporary(error.to_string())
            }
            // What is away, and why, is for the operator to read, not for applications.
            SupplyError::Unavailable(reason) => {
                tracing::warn!(%reason, "cannot supply keys");
                Self::Temporary(KEYS_AWAY.to_owned())
            }
            SupplyError::NotLed(reason) => {
                tracing::warn!(%reason, "cannot supply keys");
                Self::NotLed(reason)
            }
            SupplyError::Quota(text) => Self::Quota(text),
            SupplyError::Full => Self::Full,
        }
    }
}
