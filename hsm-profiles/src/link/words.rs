//! PKCS#11 errors in the words operators search for. Enter through [`code`].

use cryptoki::error::{Error, RvError};
use km_core::hsm::HsmError;

/// The error by its PKCS#11 name and the function that met it.
pub(crate) fn code(error: &Error) -> String {
    match error {
        Error::Pkcs11(RvError::VendorDefined(number), function) => {
            format!("C_{function:?} answered vendor code {number:#x}")
        }
        Error::Pkcs11(RvError::UnknownErrorCode(number), function) => {
            format!("C_{function:?} answered unknown code {number:#x}")
        }
        Error::Pkcs11(code, function) => {
            format!("C_{function:?} answered {}", standard_name(&format!("{code:?}")))
        }
        other => other.to_string(),
    }
}

/// `PinIncorrect` as operators search for it: `CKR_PIN_INCORRECT`.
fn standard_name(variant: &str) -> String {
    let mut name = "CKR".to_owned();
    for letter in variant.chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// The sentence of an error, without the words that tell its kind.
pub(super) fn sentence(error: &HsmError) -> &str {
    match error {
        HsmError::Unavailable(what)
        | HsmError::Refused(what)
        | HsmError::Input(what)
        | HsmError::Unsupported(what)
        | HsmError::Full(what)
        | HsmError::Setup(what) => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;

    #[test]
    fn codes_are_told_by_their_standard_names() {
        let error = Error::Pkcs11(RvError::UserPinNotInitialized, Function::Login);
        assert_eq!(code(&error), "C_Login answered CKR_USER_PIN_NOT_INITIALIZED");
    }
}
