//! Return codes and mechanisms as operators write them.

use cryptoki::error::RvError;
use cryptoki::mechanism::MechanismType;
use serde::Deserialize;

/// A PKCS#11 return code, written by its standard name or as a vendor's number (`0x80000001`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Code(pub(crate) RvError);

impl TryFrom<String> for Code {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(digits) = text.strip_prefix("0x") {
            let number = u64::from_str_radix(digits, 16).ok().filter(|n| *n >= 0x8000_0000);
            return number
                .map(|n| Self(RvError::VendorDefined(n)))
                .ok_or_else(|| format!("{text} is no vendor code: they start at 0x80000000"));
        }
        Ok(Self(match text.as_str() {
            "CKR_GENERAL_ERROR" => RvError::GeneralError,
            "CKR_FUNCTION_FAILED" => RvError::FunctionFailed,
            "CKR_FUNCTION_CANCELED" => RvError::FunctionCanceled,
            "CKR_DATA_INVALID" => RvError::DataInvalid,
            "CKR_ENCRYPTED_DATA_INVALID" => RvError::EncryptedDataInvalid,
            "CKR_ENCRYPTED_DATA_LEN_RANGE" => RvError::EncryptedDataLenRange,
            "CKR_SIGNATURE_INVALID" => RvError::SignatureInvalid,
            "CKR_DEVICE_ERROR" => RvError::DeviceError,
            "CKR_DEVICE_MEMORY" => RvError::DeviceMemory,
            "CKR_OPERATION_ACTIVE" => RvError::OperationActive,
            "CKR_KEY_FUNCTION_NOT_PERMITTED" => RvError::KeyFunctionNotPermitted,
            "CKR_KEY_HANDLE_INVALID" => RvError::KeyHandleInvalid,
            "CKR_OBJECT_HANDLE_INVALID" => RvError::ObjectHandleInvalid,
            "CKR_SESSION_CLOSED" => RvError::SessionClosed,
            "CKR_SESSION_HANDLE_INVALID" => RvError::SessionHandleInvalid,
            "CKR_USER_NOT_LOGGED_IN" => RvError::UserNotLoggedIn,
            "CKR_ARGUMENTS_BAD" => RvError::ArgumentsBad,
            _ => return Err(format!("unknown return code {text}; write its 0x number")),
        }))
    }
}

/// A mechanism by its PKCS#11 name without `CKM_`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MechanismName {
    /// The name as written.
    pub name: String,
    pub(crate) kind: MechanismType,
}

impl TryFrom<String> for MechanismName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let kind = match name.as_str() {
            "AES_KEY_GEN" => MechanismType::AES_KEY_GEN,
            "AES_GCM" => MechanismType::AES_GCM,
            "AES_CBC" => MechanismType::AES_CBC,
            "AES_CTR" => MechanismType::AES_CTR,
            "AES_CMAC" => MechanismType::AES_CMAC,
            "AES_KEY_WRAP" => MechanismType::AES_KEY_WRAP,
            "AES_KEY_WRAP_PAD" => MechanismType::AES_KEY_WRAP_PAD,
            "SHA256_HMAC" => MechanismType::SHA256_HMAC,
            "GENERIC_SECRET_KEY_GEN" => MechanismType::GENERIC_SECRET_KEY_GEN,
            "HKDF_DERIVE" => MechanismType::HKDF_DERIVE,
            "RSA_PKCS_OAEP" => MechanismType::RSA_PKCS_OAEP,
            "ML_KEM" => MechanismType::ML_KEM,
            _ => return Err(format!("unknown mechanism {name}")),
        };
        Ok(Self { name, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendor_codes_are_numbers_from_the_vendor_range() {
        assert_eq!(
            Code::try_from("0x80000003".to_owned()).unwrap(),
            Code(RvError::VendorDefined(0x8000_0003))
        );
        assert!(Code::try_from("0x31".to_owned()).is_err());
    }
}
