//! What a PKCS#11 error asks for. Enter through [`classify`].
//!
//! Whatever the class, the session that met an error is closed: some libraries leave an
//! operation active, and the next caller must not find it.

use cryptoki::error::{Error, RvError};

use crate::profile::{Code, ErrorClasses};

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Open a new session and try again.
    Session,
    /// Log in again, look for the keys again, and try again.
    Login,
    /// The device is away or sick: connect again, with growing pauses.
    Device,
    /// The sealed data may be bad; ask a probe before saying so.
    Data,
    /// The PIN is wrong: never try again by itself, the token would lock.
    Pin,
    /// This request cannot work on this token.
    Request,
}

/// The class of `error`; the profile has the first word.
pub(crate) fn classify(error: &Error, classes: &ErrorClasses) -> Fault {
    match error {
        Error::Pkcs11(code, _) => by_profile(*code, classes).unwrap_or_else(|| standard(*code)),
        Error::NotSupported | Error::NullFunctionPointer | Error::TryFromInt(_) => Fault::Request,
        _ => Fault::Device,
    }
}

fn by_profile(code: RvError, classes: &ErrorClasses) -> Option<Fault> {
    let code = Code(code);
    [
        (&classes.data, Fault::Data),
        (&classes.session, Fault::Session),
        (&classes.login, Fault::Login),
        (&classes.device, Fault::Device),
    ]
    .into_iter()
    .find(|(codes, _)| codes.contains(&code))
    .map(|(_, fault)| fault)
}

fn standard(code: RvError) -> Fault {
    match code {
        RvError::SessionClosed
        | RvError::SessionHandleInvalid
        | RvError::SessionCount
        | RvError::OperationActive
        | RvError::OperationNotInitialized
        | RvError::FunctionCanceled
        | RvError::Cancel
        // What fills a token is mostly keys at hand, which go with their session; a token that is full all
        // the same answers this again.
        | RvError::DeviceMemory
        | RvError::HostMemory => Fault::Session,
        // After a logout the handles of private objects are gone too.
        RvError::UserNotLoggedIn
        | RvError::KeyHandleInvalid
        | RvError::WrappingKeyHandleInvalid
        | RvError::UnwrappingKeyHandleInvalid
        | RvError::ObjectHandleInvalid
        | RvError::KeyChanged => Fault::Login,
        RvError::PinIncorrect
        | RvError::PinInvalid
        | RvError::PinLenRange
        | RvError::PinExpired
        | RvError::PinLocked
        | RvError::UserPinNotInitialized => Fault::Pin,
        RvError::EncryptedDataInvalid
        | RvError::EncryptedDataLenRange
        | RvError::WrappedKeyInvalid
        | RvError::WrappedKeyLenRange => Fault::Data,
        RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::KeyFunctionNotPermitted
        | RvError::KeyTypeInconsistent
        | RvError::KeySizeRange
        | RvError::KeyNotWrappable
        | RvError::KeyUnextractable
        | RvError::WrappingKeyTypeInconsistent
        | RvError::WrappingKeySizeRange
        | RvError::UnwrappingKeyTypeInconsistent
        | RvError::UnwrappingKeySizeRange
        | RvError::CurveNotSupported
        | RvError::DomainParamsInvalid
        | RvError::DataInvalid
        | RvError::DataLenRange
        | RvError::FunctionNotSupported
        | RvError::TokenWriteProtected
        | RvError::TemplateInconsistent
        | RvError::TemplateIncomplete
        | RvError::AttributeValueInvalid
        | RvError::AttributeTypeInvalid
        | RvError::AttributeReadOnly
        | RvError::ArgumentsBad
        | RvError::RandomNoRng => Fault::Request,
        // DEVICE_*, TOKEN_*, CRYPTOKI_NOT_INITIALIZED, GENERAL_ERROR, and what nobody knows.
        _ => Fault::Device,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;

    #[test]
    fn the_profile_has_the_first_word() {
        let bad_tag = Error::Pkcs11(RvError::GeneralError, Function::Decrypt);
        assert_eq!(classify(&bad_tag, &ErrorClasses::default()), Fault::Device);
        let classes =
            ErrorClasses { data: vec![Code(RvError::GeneralError)], ..ErrorClasses::default() };
        assert_eq!(classify(&bad_tag, &classes), Fault::Data);
    }

    #[test]
    fn pin_errors_are_final_and_lost_devices_are_not() {
        for (code, fault) in [
            (RvError::PinIncorrect, Fault::Pin),
            (RvError::PinLocked, Fault::Pin),
            (RvError::DeviceRemoved, Fault::Device),
            (RvError::TokenNotPresent, Fault::Device),
            (RvError::CryptokiNotInitialized, Fault::Device),
            (RvError::SessionHandleInvalid, Fault::Session),
            (RvError::DeviceMemory, Fault::Session),
            (RvError::UserNotLoggedIn, Fault::Login),
        ] {
            let error = Error::Pkcs11(code, Function::Login);
            assert_eq!(classify(&error, &ErrorClasses::default()), fault);
        }
    }
}
