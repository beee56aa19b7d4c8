//! What differs from one HSM product to the next, as data. Enter through [`Profile`].
//!
//! A profile is a TOML file: where the library is, how to seal, what the limits are, and what
//! its return codes mean where the standard leaves room. Unknown fields are refused.

use std::path::{Path, PathBuf};

use km_core::hsm::HsmError;
use serde::Deserialize;

mod names;
mod seal;

pub use names::{Code, MechanismName};
pub use seal::{IvOnOpen, IvSource, KeyUse, Protection, Seal, SealBy};

const SOFTHSM2: &str = include_str!("../../profiles/softhsm2.toml");
const KRYOPTIC: &str = include_str!("../../profiles/kryoptic.toml");
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

impl Profile {
    /// The profile named `name_or_path`: one built in (`softhsm2`), or a `.toml` file by path.
    pub fn load(name_or_path: &str) -> Result<Self, HsmError> {
        match name_or_path {
            "softhsm2" => Self::parse(SOFTHSM2, "built-in softhsm2"),
            "kryoptic" => Self::parse(KRYOPTIC, "built-in kryoptic"),
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
        profile.seal.check().map_err(&fail)?;
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
    use cryptoki::error::RvError;

    #[test]
    fn built_in_profiles_parse() {
        let profile = Profile::load("softhsm2").unwrap();
        assert_eq!(profile.seal.method, SealBy::TokenGcm);
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
}
