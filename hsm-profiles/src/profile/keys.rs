//! What the token lets be done with keys: the tables `[[wrap]]` and `[keys]` of a profile.

use cryptoki::object::{Attribute, AttributeType};
use km_core::usage::Hash;
use serde::Deserialize;

use super::MechanismName;
use super::templates::{Template, Trusted};

/// One way to wrap a key by an AES key. A profile lists them in the order of preference.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wrap {
    /// The mechanism.
    pub mechanism: MechanismName,
    /// What it computes, which decides of what opens it later.
    pub form: WrapForm,
    /// Keys whose length in bytes is no multiple of this come back changed, or not at all.
    #[serde(default = "one")]
    pub multiple: usize,
    /// Whether the template to unwrap with must say the length.
    #[serde(default)]
    pub value_len: bool,
}

fn one() -> usize {
    1
}

/// What a mechanism that wraps computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum WrapForm {
    /// AES key wrap, RFC 3394.
    #[serde(rename = "rfc3394")]
    Kw,
    /// AES key wrap with padding, RFC 5649.
    #[serde(rename = "rfc5649")]
    Kwp,
    /// AES key wrap of the key padded as in PKCS#5.
    #[serde(rename = "rfc3394-pkcs5")]
    KwPkcs5,
}

/// What else the token asks of keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// How a key whose bytes the host has becomes an object of the token.
    #[serde(default)]
    pub import: Import,
    /// Whether every object is one of the token: there are none for the time of a session.
    #[serde(default)]
    pub token_objects_only: bool,
    /// The shortest HMAC-SHA-256 key, in bytes.
    #[serde(default)]
    pub hmac_bytes: usize,
    /// Attributes that the token does not take in templates.
    #[serde(default)]
    pub omit: Vec<Omitted>,
    /// Attributes that keys have here besides, or in place of, those of every token.
    #[serde(default)]
    pub template: Vec<Template>,
    /// Who marks the keys that wrap as trusted.
    #[serde(default)]
    pub trusted: Trusted,
    /// The hash of RSA-OAEP by which this token takes KEKs of another.
    #[serde(default)]
    pub oaep: OaepHash,
    /// The mechanism that makes RSA pairs.
    #[serde(default)]
    pub rsa_pair: Option<MechanismName>,
}

/// A hash of RSA-OAEP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OaepHash {
    /// SHA-256, also for the mask.
    #[default]
    Sha256,
    /// SHA-1, also for the mask: as safe in OAEP, and all that some tokens have.
    Sha1,
}

/// How a clear key gets in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Import {
    /// `C_CreateObject`.
    #[default]
    Create,
    /// Encrypted by AES-CBC under a key made in the token for this, then unwrapped: for tokens that
    /// refuse clear keys (FIPS 140 level 3).
    EncryptThenUnwrap,
    /// Not at all.
    Refused,
}

/// An attribute to leave out, by its PKCS#11 name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Omitted(AttributeType);

impl TryFrom<String> for Omitted {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Ok(Self(match name.as_str() {
            "CKA_DERIVE" => AttributeType::Derive,
            "CKA_PRIVATE" => AttributeType::Private,
            "CKA_SENSITIVE" => AttributeType::Sensitive,
            "CKA_SIGN" => AttributeType::Sign,
            "CKA_VERIFY" => AttributeType::Verify,
            "CKA_WRAP" => AttributeType::Wrap,
            "CKA_UNWRAP" => AttributeType::Unwrap,
            _ => return Err(format!("{name} is no attribute that can be left out")),
        }))
    }
}

impl Keys {
    pub(crate) fn oaep(&self) -> Hash {
        match self.oaep {
            OaepHash::Sha256 => Hash::Sha256,
            OaepHash::Sha1 => Hash::Sha1,
        }
    }

    /// Makes RSA pairs.
    pub(crate) fn rsa_pair(&self) -> MechanismName {
        let standard = || MechanismName::standard("RSA_PKCS_KEY_PAIR_GEN");
        self.rsa_pair.clone().unwrap_or_else(standard)
    }

    /// The template without what the token does not take.
    pub(crate) fn fit(&self, template: &mut Vec<Attribute>) {
        template.retain(|attribute| {
            !self.omit.iter().any(|omitted| omitted.0 == attribute.attribute_type())
        });
    }
}
