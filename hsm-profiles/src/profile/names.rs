//! Return codes and mechanisms as operators write them.

use cryptoki::error::RvError;
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki_sys::*;
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
            "CKR_TOKEN_NOT_PRESENT" => RvError::TokenNotPresent,
            "CKR_DEVICE_REMOVED" => RvError::DeviceRemoved,
            "CKR_SESSION_COUNT" => RvError::SessionCount,
            "CKR_WRAPPED_KEY_INVALID" => RvError::WrappedKeyInvalid,
            "CKR_TOKEN_NOT_RECOGNIZED" => RvError::TokenNotRecognized,
            "CKR_HOST_MEMORY" => RvError::HostMemory,
            "CKR_ARGUMENTS_BAD" => RvError::ArgumentsBad,
            _ => return Err(format!("unknown return code {text}; write its 0x number")),
        }))
    }
}

/// A mechanism by its PKCS#11 name without `CKM_`, or by a vendor's number (`0x80001087`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MechanismName {
    /// The name as written.
    pub name: String,
    pub(crate) kind: MechanismType,
}

const MECHANISMS: [(&str, CK_MECHANISM_TYPE); 22] = [
    ("AES_KEY_GEN", CKM_AES_KEY_GEN),
    ("AES_GCM", CKM_AES_GCM),
    ("AES_CBC", CKM_AES_CBC),
    ("AES_CBC_PAD", CKM_AES_CBC_PAD),
    ("AES_CTR", CKM_AES_CTR),
    ("AES_CMAC", CKM_AES_CMAC),
    ("AES_KEY_WRAP", CKM_AES_KEY_WRAP),
    ("AES_KEY_WRAP_PAD", CKM_AES_KEY_WRAP_PAD),
    ("AES_KEY_WRAP_KWP", CKM_AES_KEY_WRAP_KWP),
    ("GENERIC_SECRET_KEY_GEN", CKM_GENERIC_SECRET_KEY_GEN),
    ("SHA256_HMAC", CKM_SHA256_HMAC),
    ("HKDF_DERIVE", CKM_HKDF_DERIVE),
    ("SP800_108_COUNTER_KDF", CKM_SP800_108_COUNTER_KDF),
    ("RSA_PKCS_KEY_PAIR_GEN", CKM_RSA_PKCS_KEY_PAIR_GEN),
    ("RSA_PKCS_OAEP", CKM_RSA_PKCS_OAEP),
    ("EC_KEY_PAIR_GEN", CKM_EC_KEY_PAIR_GEN),
    ("ECDSA", CKM_ECDSA),
    ("ECDH1_DERIVE", CKM_ECDH1_DERIVE),
    ("ML_KEM_KEY_PAIR_GEN", CKM_ML_KEM_KEY_PAIR_GEN),
    ("ML_KEM", CKM_ML_KEM),
    ("ML_DSA_KEY_PAIR_GEN", CKM_ML_DSA_KEY_PAIR_GEN),
    ("ML_DSA", CKM_ML_DSA),
];

impl TryFrom<String> for MechanismName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if let Some(digits) = name.strip_prefix("0x") {
            let number = CK_MECHANISM_TYPE::from_str_radix(digits, 16).ok();
            let number = number.filter(|n| *n >= CKM_VENDOR_DEFINED).ok_or_else(|| {
                format!("{name} is no vendor's mechanism: their numbers start at 0x80000000")
            })?;
            return Ok(Self { kind: mechanism(number), name });
        }
        let known = MECHANISMS.iter().find(|(known, _)| *known == name);
        let number = known.ok_or_else(|| format!("unknown mechanism {name}"))?.1;
        Ok(Self { kind: mechanism(number), name })
    }
}

impl MechanismName {
    /// A mechanism of the table above.
    pub(crate) fn standard(name: &'static str) -> Self {
        let known = MECHANISMS.iter().find(|(known, _)| *known == name);
        let number = known.map_or(CKM_VENDOR_DEFINED, |(_, number)| *number);
        Self { name: name.to_owned(), kind: mechanism(number) }
    }

    /// For a call, without parameter.
    pub(crate) fn bare(&self) -> Mechanism<'static> {
        Mechanism::VendorDefined(VendorDefinedMechanism::new::<()>(self.kind, None))
    }
}

impl std::fmt::Display for MechanismName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.name.starts_with("0x") {
            f.write_str("mechanism ")?
        } else {
            f.write_str("CKM_")?
        }
        f.write_str(&self.name)
    }
}

/// Any number as a mechanism. cryptoki 0.12 makes no value for those it does not know, such as
/// `CKM_AES_KEY_WRAP_KWP`.
#[allow(unsafe_code)]
pub(crate) const fn mechanism(number: CK_MECHANISM_TYPE) -> MechanismType {
    // SAFETY: MechanismType is #[repr(transparent)] over CK_MECHANISM_TYPE, and documented so for
    // exactly this purpose; every number is a valid value of both.
    unsafe { std::mem::transmute::<CK_MECHANISM_TYPE, MechanismType>(number) }
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

    #[test]
    fn mechanisms_have_names_or_vendor_numbers() {
        let parse = |text: &str| MechanismName::try_from(text.to_owned());
        assert_eq!(parse("AES_KEY_WRAP_KWP").unwrap().kind, mechanism(0x210B));
        assert_eq!(parse("AES_GCM").unwrap().kind, MechanismType::AES_GCM);
        assert_eq!(parse("0x80001087").unwrap().to_string(), "mechanism 0x80001087");
        for wrong in ["0x1087", "0xzz", "AES", "CKM_AES_GCM"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for (name, _) in MECHANISMS {
            assert_eq!(parse(name).unwrap(), MechanismName::standard(name));
        }
    }
}
