//! What differs from one HSM product to the next, as data. Enter through [`Profile`].
//!
//! A profile is a TOML file: where the library is, how to seal, what the limits are, and what
//! its return codes mean where the standard leaves room. Unknown fields are refused.

use std::path::{Path, PathBuf};

use cryptoki::error::RvError;
use cryptoki::mechanism::MechanismType;
use km_core::hsm::HsmError;
use serde::Deserialize;

const SOFTHSM2: &str = include_str!("../profiles/softhsm2.toml");
/// A profile is a page of text; more is a mistake.
const MAX_PROFILE_BYTES: u64 = 64 * 1024;

/// One HSM product as this crate sees it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Short name, as written in the configuration.
    pub name: String,
    /// Debian package that brings the library, for the error text. None for vendor downloads.
    #[serde(default)]
    pub package: Option<String>,
    /// Where the library may be, tried in order when the configuration names none.
    pub libraries: Vec<PathBuf>,
    /// Mechanisms the token must offer besides the sealing one.
    #[serde(default)]
    pub requires: Vec<MechanismName>,
    /// How data is sealed.
    pub seal: Seal,
    /// What the token takes.
    pub limits: Limits,
    /// Return codes whose meaning the product decides.
    #[serde(default)]
    pub errors: ErrorClasses,
}

/// How data is sealed in this token.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// The mechanism.
    pub mechanism: SealMechanism,
    /// Who makes the nonce.
    pub iv: IvSource,
    /// Which object works.
    #[serde(default)]
    pub key: KeyUse,
}

/// Which object in the token seals and opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyUse {
    /// The KEK itself.
    #[default]
    Token,
    /// A copy of the KEK for the time of one login, made by `C_CopyObject`: as sensitive and
    /// unextractable, and never outside the token. For libraries that read a token object's file
    /// at every use. Probes use both, so a KEK that was deleted is noticed by the next probe.
    SessionCopy,
}

/// Mechanisms this crate can seal with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum SealMechanism {
    /// AES-GCM with a 96-bit nonce and a 128-bit tag at the end of the ciphertext.
    #[serde(rename = "AES_GCM")]
    AesGcm,
}

/// Who makes the GCM nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IvSource {
    /// The caller passes it; ours comes from the token's `C_GenerateRandom`.
    Host,
}

/// What the token takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Most sessions this process may hold, 2 to 4096, the anchor session included.
    pub sessions: usize,
    /// Working sessions when the configuration names no number; none means one per processor.
    #[serde(default)]
    pub default_sessions: Option<usize>,
    /// Longest clear message in bytes, 1 to 16 MiB.
    pub message_bytes: usize,
    /// Longest associated data in bytes.
    pub aad_bytes: usize,
}

/// Return codes by what they ask for; each list adds to, and overrides, the standard's meaning.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorClasses {
    /// Answers to sealed data that does not open.
    #[serde(default)]
    pub data: Vec<Code>,
    /// The session is of no more use; a new one may do.
    #[serde(default)]
    pub session: Vec<Code>,
    /// The login is gone.
    #[serde(default)]
    pub login: Vec<Code>,
    /// The device is gone or sick; wait and connect again.
    #[serde(default)]
    pub device: Vec<Code>,
}

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

impl SealMechanism {
    pub(crate) fn required(self) -> MechanismName {
        match self {
            Self::AesGcm => {
                MechanismName { name: "AES_GCM".to_owned(), kind: MechanismType::AES_GCM }
            }
        }
    }
}

impl Profile {
    /// The profile named `name_or_path`: one built in (`softhsm2`), or a `.toml` file by path.
    pub fn load(name_or_path: &str) -> Result<Self, HsmError> {
        match name_or_path {
            "softhsm2" => Self::parse(SOFTHSM2, "built-in softhsm2"),
            path if path.ends_with(".toml") => Self::load_file(Path::new(path)),
            other => Err(HsmError::Setup(format!(
                "there is no HSM profile named {other:?}: use \"softhsm2\" or the path of a .toml \
                 file"
            ))),
        }
    }

    fn load_file(path: &Path) -> Result<Self, HsmError> {
        let fail = |what: String| {
            HsmError::Setup(format!("cannot read the HSM profile {}: {what}", path.display()))
        };
        let size = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
        if size > MAX_PROFILE_BYTES {
            return Err(fail(format!("{size} bytes is too long for a profile")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses a profile; `origin` is what the error calls it.
    pub fn parse(text: &str, origin: &str) -> Result<Self, HsmError> {
        let fail = |what: String| HsmError::Setup(format!("HSM profile {origin}: {what}"));
        let profile: Self = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
        let limits = &profile.limits;
        if !(2..=4096).contains(&limits.sessions) {
            return Err(fail(format!("limits.sessions is {}, not 2 to 4096", limits.sessions)));
        }
        if !(1..=16 << 20).contains(&limits.message_bytes) || limits.aad_bytes > 1 << 20 {
            return Err(fail(
                "limits.message_bytes must be 1 to 16777216 and limits.aad_bytes at most 1048576"
                    .to_owned(),
            ));
        }
        Ok(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_parse() {
        let profile = Profile::load("softhsm2").unwrap();
        assert_eq!(profile.seal.mechanism, SealMechanism::AesGcm);
        assert!(profile.errors.data.contains(&Code(RvError::GeneralError)));
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, told) in [
            ("iv = \"host\"", "iv = \"hots\"", "hots"),
            ("aad_bytes", "aad_bites", "aad_bites"),
            ("CKR_GENERAL_ERROR\"]", "CKR_GENERAL\"]", "CKR_GENERAL"),
            ("\"AES_KEY_GEN\"", "\"AES_KEYGEN\"", "AES_KEYGEN"),
            ("sessions = 64", "sessions = 1", "limits.sessions"),
        ] {
            let error = Profile::parse(&SOFTHSM2.replace(from, to), "test").unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
        assert!(Profile::load("luna").unwrap_err().to_string().contains("luna"));
    }

    #[test]
    fn vendor_codes_are_numbers_from_the_vendor_range() {
        assert_eq!(
            Code::try_from("0x80000003".to_owned()).unwrap(),
            Code(RvError::VendorDefined(0x8000_0003))
        );
        assert!(Code::try_from("0x31".to_owned()).is_err());
    }
}
