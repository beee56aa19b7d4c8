//! What differs from one HSM product to the next, as data. Enter through [`Profile`].
//!
//! A profile is a TOML file: where the library is, how to log in, how to seal, what the limits are,
//! and what its return codes mean where the standard leaves room. Unknown fields are refused. What
//! was tested and what was only read in documents stands in the file too.

use std::path::{Path, PathBuf};

use km_core::hsm::HsmError;
use serde::Deserialize;

use crate::kek::Usage;

mod keys;
mod login;
mod names;
mod seal;
mod templates;

pub use keys::{Import, Keys, OaepHash, Omitted, Wrap, WrapForm};
pub use login::{Login, LoginUser, PinForm};
pub(crate) use names::mechanism;
pub use names::{Code, MechanismName};
pub use seal::{IvOnOpen, IvSource, KeyUse, Protection, Seal, SealBy};
pub use templates::{Flag, Kind, Role, Template, Trusted};

macro_rules! built_in {
    ($($name:literal)*) => {
        /// The profiles of this crate by name, as text.
        pub const BUILT_IN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../profiles/", $name, ".toml")))),*];
    };
}

built_in! {
    "softhsm2" "kryoptic" "utimaco" "luna" "luna-fips" "nshield" "cloudhsm" "yubihsm2"
    "smartcard-hsm" "generic" "generic-wrap"
}

/// A profile is a page of text; more is a mistake.
const MAX_PROFILE_BYTES: u64 = 64 * 1024;

/// One HSM product as this crate sees it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Short name, as written in the configuration.
    pub name: String,
    /// The product.
    pub title: String,
    /// What was tested with this profile here, for a person to judge.
    pub tested: String,
    /// What was read and not tested.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Debian package that brings the library, for the error text. None for vendor downloads.
    #[serde(default)]
    pub package: Option<String>,
    /// Where the library may be, tried in order when the configuration names none.
    #[serde(default)]
    pub libraries: Vec<PathBuf>,
    /// Environment variables that tell the library where its own configuration is.
    #[serde(default)]
    pub environment: Vec<String>,
    /// How manufacturer or model of its tokens begin, so that it is found for an unknown token.
    #[serde(default)]
    pub tokens: Vec<String>,
    /// Mechanisms the token must offer besides the sealing one.
    #[serde(default)]
    pub requires: Vec<MechanismName>,
    /// How to log in.
    #[serde(default)]
    pub login: Login,
    /// How data is sealed.
    pub seal: Seal,
    /// How keys are wrapped, the preferred way first.
    #[serde(default)]
    pub wrap: Vec<Wrap>,
    /// What else the token asks of keys.
    #[serde(default)]
    pub keys: Keys,
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
    /// Sessions that do short work at the same time (ciphers, hashes, random numbers; not
    /// signatures), where more of them are slower; none means all.
    #[serde(default)]
    pub short_sessions: Option<usize>,
    /// Keys of applications that each session keeps at hand, at most, 1 to 65536: they take the token's
    /// memory.
    #[serde(default = "handles")]
    pub handles: usize,
    /// Longest clear message in bytes, 1 to 16 MiB.
    pub message_bytes: usize,
    /// Longest associated data in bytes.
    pub aad_bytes: usize,
}

fn handles() -> usize {
    1024
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
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(text, &format!("built-in {name}"));
        }
        if name_or_path.ends_with(".toml") {
            return Self::load_file(Path::new(name_or_path));
        }
        let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        Err(HsmError::Setup(format!(
            "there is no HSM profile named {name_or_path:?}: use the path of a .toml file, or one of \
             {}",
            names.join(", ")
        )))
    }

    /// The mechanism under the KEK that seals.
    pub(crate) fn sealing(&self) -> MechanismName {
        match (self.seal.method, self.seal.protection) {
            (SealBy::TokenGcm, _) => self.seal.mechanism.clone(),
            (SealBy::WrappedKeyGcm, Protection::KeyWrap) => self.key_wrap(),
            (SealBy::WrappedKeyGcm, Protection::KeyWrapPadded) => self.key_wrap_padded(),
            (SealBy::WrappedKeyGcm, Protection::Cbc) => MechanismName::standard("AES_CBC"),
        }
    }

    /// Whether keys of applications leave the token wrapped, so that each epoch has a key that wraps.
    pub(crate) fn wraps_keys(&self) -> bool {
        !self.wrap.is_empty() && !self.keys.token_objects_only
    }

    /// What wraps by RFC 3394 in this token.
    pub(crate) fn key_wrap(&self) -> MechanismName {
        self.wrapping_by(WrapForm::Kw, "AES_KEY_WRAP")
    }

    /// What wraps by RFC 5649 in this token.
    pub(crate) fn key_wrap_padded(&self) -> MechanismName {
        self.wrapping_by(WrapForm::Kwp, "AES_KEY_WRAP_KWP")
    }

    /// The mechanism of a form: as the profile lists it, or the standard's.
    fn wrapping_by(&self, form: WrapForm, standard: &'static str) -> MechanismName {
        let listed = self.wrap.iter().find(|wrap| wrap.form == form);
        listed.map_or_else(|| MechanismName::standard(standard), |way| way.mechanism.clone())
    }

    /// The built-in profile made for tokens of this manufacturer and model.
    pub(crate) fn made_for(manufacturer: &str, model: &str) -> Option<&'static str> {
        let fits = |text: &str, begin: &str| {
            text.get(..begin.len()).is_some_and(|start| start.eq_ignore_ascii_case(begin))
        };
        BUILT_IN.iter().map(|(name, _)| *name).find(|name| {
            Self::load(name).is_ok_and(|profile| {
                let mut tokens = profile.tokens.iter();
                tokens.any(|begin| fits(manufacturer, begin) || fits(model, begin))
            })
        })
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
        let wraps = profile.seal.usage() == Usage::Wraps;
        if wraps && profile.keys.token_objects_only {
            return Err(fail(
                "seal.protection = \"key-wrap\" makes a session object for each message, which \
                 keys.token_objects_only excludes: use \"cbc\""
                    .to_owned(),
            ));
        }
        if profile.wrap.iter().any(|wrap| wrap.multiple == 0) {
            return Err(fail("wrap.multiple is 0, not 1 or more".to_owned()));
        }
        let limits = &profile.limits;
        if !(2..=4096).contains(&limits.sessions) {
            return Err(fail(format!("limits.sessions is {}, not 2 to 4096", limits.sessions)));
        }
        if !(1..=65_536).contains(&limits.handles) {
            return Err(fail(format!("limits.handles is {}, not 1 to 65536", limits.handles)));
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

    const SOFTHSM2: &str = BUILT_IN[0].1;

    #[test]
    fn built_in_profiles_parse_and_say_what_was_tested() {
        for (name, _) in BUILT_IN {
            let profile = Profile::load(name).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(profile.name, *name);
            let tested_here = ["softhsm2", "kryoptic", "generic", "generic-wrap"].contains(name);
            let claims = !profile.tested.starts_with("Not tested");
            assert_eq!(claims, tested_here, "{name}: {}", profile.tested);
            assert!(tested_here || !profile.sources.is_empty(), "{name} names its sources");
            assert!(profile.tokens.is_empty() == name.starts_with("generic"), "{name}");
        }
        let profile = Profile::load("softhsm2").unwrap();
        assert!(profile.errors.data.contains(&Code(RvError::GeneralError)));
    }

    #[test]
    fn an_unknown_token_is_told_by_manufacturer_or_model() {
        assert_eq!(Profile::made_for("SoftHSM project", "SoftHSM v2"), Some("softhsm2"));
        assert_eq!(Profile::made_for("Kryoptic Project", "v1"), Some("kryoptic"));
        assert_eq!(Profile::made_for("Somebody", "Something"), None);
    }

    #[test]
    fn the_mechanism_that_seals_follows_the_profile() {
        let sealing = |name: &str| Profile::load(name).unwrap().sealing().name;
        assert_eq!(sealing("softhsm2"), "AES_GCM");
        assert_eq!(sealing("cloudhsm"), "AES_GCM");
        assert_eq!(sealing("generic-wrap"), "AES_KEY_WRAP");
        assert_eq!(sealing("yubihsm2"), "AES_CBC");
        assert_eq!(Profile::load("cloudhsm").unwrap().key_wrap().name, "0x80002109");
        let padded = |listed: &str| {
            let (_, text) = BUILT_IN.iter().find(|(name, _)| *name == "generic-wrap").unwrap();
            let text =
                text.replace("protection = \"key-wrap\"", "protection = \"key-wrap-padded\"");
            let text = text.replace("AES_KEY_WRAP\"\nform = \"rfc3394\"", listed);
            Profile::parse(&text, "test").unwrap().sealing().name
        };
        assert_eq!(padded("AES_KEY_WRAP_PAD\"\nform = \"rfc5649\""), "AES_KEY_WRAP_PAD");
        assert_eq!(padded("AES_KEY_WRAP\"\nform = \"rfc3394\""), "AES_KEY_WRAP_KWP");
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, told) in [
            ("iv = \"host\"", "iv = \"hots\"", "hots"),
            ("aad_bytes", "aad_bites", "aad_bites"),
            ("CKR_GENERAL_ERROR\"]", "CKR_GENERAL\"]", "CKR_GENERAL"),
            ("\"AES_KEY_GEN\"", "\"AES_KEYGEN\"", "AES_KEYGEN"),
            ("sessions = 64", "sessions = 1", "limits.sessions"),
            ("aad_bytes", "handles = 0\naad_bytes", "limits.handles"),
            ("multiple = 8", "multiple = 0", "wrap.multiple"),
            ("iv = \"host\"", "iv = \"host\"\niv_bytes = 16", "seal.iv_bytes"),
            ("iv = \"host\"", "iv_on_open = \"in-data\"", "iv_on_open"),
            ("method = \"token-gcm\"", "method = \"wrapped-key-gcm\"", "token_objects_only"),
        ] {
            let text = SOFTHSM2.replace(from, to);
            let text = match told {
                "token_objects_only" => text.replace("[keys]", "[keys]\ntoken_objects_only = true"),
                _ => text,
            };
            let error = Profile::parse(&text, "test").unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
        let error = Profile::load("lunar").unwrap_err().to_string();
        assert!(error.contains("lunar") && error.contains("smartcard-hsm"), "{error}");
    }
}
