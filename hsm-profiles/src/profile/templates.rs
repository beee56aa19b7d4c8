//! What the templates of keys say besides what is always said: the tables `[[keys.template]]` of a
//! profile, and who marks the keys that wrap as trusted. Enter through [`Keys::shape`].

use std::collections::BTreeMap;

use cryptoki::object::{Attribute, AttributeType};
use km_core::usage::KeyKind;
use serde::Deserialize;

use super::Keys;

/// Attributes for the keys of one role.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct Template {
    /// Which keys.
    pub of: Role,
    /// Of which kind; none means all.
    pub kind: Option<Kind>,
    /// What they are, in place of what they would be.
    pub set: BTreeMap<Flag, bool>,
}

/// As it stands in the profile.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    of: Role,
    #[serde(default)]
    kind: Option<Kind>,
    set: BTreeMap<Flag, bool>,
}

impl TryFrom<Written> for Template {
    type Error = String;

    fn try_from(Written { of, kind, set }: Written) -> Result<Self, String> {
        let open = set.iter().any(|(flag, value)| flag.named() == Some(PRIVATE) && !value);
        if open && !matches!(of, Role::Wrapping | Role::Public) {
            return Err(
                "CKA_PRIVATE = false is for the roles wrapping and public alone: anybody who \
                        opens the token without a PIN could use the key"
                    .to_owned(),
            );
        }
        Ok(Self { of, kind, set })
    }
}

/// What an object is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A KEK that seals.
    Sealing,
    /// A key that wraps those of applications in one epoch.
    Wrapping,
    /// A secret key of an application.
    Secret,
    /// The private half of a pair.
    Private,
    /// Its public half.
    Public,
}

/// A kind of key as profiles name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// AES keys.
    Aes,
    /// Keys for HMAC.
    Hmac,
    /// RSA pairs.
    Rsa,
    /// Pairs for ECDSA and ECDH.
    Ec,
    /// Ed25519 pairs.
    Ed25519,
    /// X25519 pairs.
    X25519,
    /// ML-DSA pairs.
    MlDsa,
    /// ML-KEM pairs.
    MlKem,
}

impl Kind {
    pub(crate) fn of(kind: KeyKind) -> Option<Self> {
        Some(match kind {
            KeyKind::Aes => Self::Aes,
            KeyKind::Hmac => Self::Hmac,
            KeyKind::Rsa => Self::Rsa,
            KeyKind::Ec(_) => Self::Ec,
            KeyKind::Ed25519 => Self::Ed25519,
            KeyKind::MlDsa(_) => Self::MlDsa,
            KeyKind::X25519 => Self::X25519,
            KeyKind::TripleDes | KeyKind::Local(_) => return None,
        })
    }
}

/// Who sets `CKA_TRUSTED` on the keys that wrap. Where anybody does, keys of applications carry
/// `CKA_WRAP_WITH_TRUSTED`: no key that an intruder with the PIN brings along takes them out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trusted {
    /// Nobody.
    #[default]
    No,
    /// This KM, as it makes them: for tokens that allow it to the user who logs in.
    User,
    /// The security officer, by the HSM's own means, for each new one: a KM does not start before its
    /// first, and an epoch begins only after it.
    Officer,
}

/// An attribute that is true or false, by its PKCS#11 name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Flag(usize);

type Make = fn(bool) -> Attribute;

const PRIVATE: &str = "CKA_PRIVATE";

/// What a profile may set. Not what makes a key safe: those are as they are.
const FLAGS: [(&str, AttributeType, Make); 13] = [
    ("CKA_COPYABLE", AttributeType::Copyable, Attribute::Copyable),
    ("CKA_DECRYPT", AttributeType::Decrypt, Attribute::Decrypt),
    ("CKA_DERIVE", AttributeType::Derive, Attribute::Derive),
    ("CKA_DESTROYABLE", AttributeType::Destroyable, Attribute::Destroyable),
    ("CKA_ENCRYPT", AttributeType::Encrypt, Attribute::Encrypt),
    ("CKA_MODIFIABLE", AttributeType::Modifiable, Attribute::Modifiable),
    (PRIVATE, AttributeType::Private, Attribute::Private),
    ("CKA_SIGN", AttributeType::Sign, Attribute::Sign),
    ("CKA_SIGN_RECOVER", AttributeType::SignRecover, Attribute::SignRecover),
    ("CKA_UNWRAP", AttributeType::Unwrap, Attribute::Unwrap),
    ("CKA_VERIFY", AttributeType::Verify, Attribute::Verify),
    ("CKA_VERIFY_RECOVER", AttributeType::VerifyRecover, Attribute::VerifyRecover),
    ("CKA_WRAP", AttributeType::Wrap, Attribute::Wrap),
];

impl Flag {
    fn named(self) -> Option<&'static str> {
        FLAGS.get(self.0).map(|(name, ..)| *name)
    }
}

impl TryFrom<String> for Flag {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let found = FLAGS.iter().position(|(known, ..)| *known == name);
        found.map(Self).ok_or_else(|| format!("{name} is no attribute that a template may set"))
    }
}

impl Keys {
    /// The template as this token wants those of `role`: with what the profile sets and without what
    /// the token does not take.
    pub(crate) fn shape(&self, role: Role, kind: Option<Kind>, template: &mut Vec<Attribute>) {
        match (role, self.trusted) {
            (Role::Secret | Role::Private, Trusted::User | Trusted::Officer) => {
                template.push(Attribute::WrapWithTrusted(true));
            }
            (Role::Wrapping, Trusted::User) => template.push(Attribute::Trusted(true)),
            _ => {}
        }
        let fits = |t: &&Template| t.of == role && (t.kind.is_none() || t.kind == kind);
        for (flag, value) in self.template.iter().filter(fits).flat_map(|t| &t.set) {
            if let Some((_, named, make)) = FLAGS.get(flag.0) {
                template.retain(|attribute| attribute.attribute_type() != *named);
                template.push(make(*value));
            }
        }
        self.fit(template);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<Keys, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn templates_say_what_the_profile_sets_and_omit_what_the_token_does_not_take() {
        let keys = keys(
            "omit = [\"CKA_DERIVE\"]\n\
             [[template]]\nof = \"private\"\nset = { CKA_MODIFIABLE = false }\n\
             [[template]]\nof = \"private\"\nkind = \"rsa\"\nset = { CKA_DECRYPT = false }\n",
        )
        .unwrap();
        let shaped = |role, kind| {
            let mut template = vec![Attribute::Decrypt(true), Attribute::Derive(false)];
            keys.shape(role, kind, &mut template);
            template
        };
        let modifiable = Attribute::Modifiable(false);
        let rsa = shaped(Role::Private, Some(Kind::Rsa));
        assert_eq!(rsa, [modifiable.clone(), Attribute::Decrypt(false)]);
        let ec = shaped(Role::Private, Some(Kind::Ec));
        assert_eq!(ec, [Attribute::Decrypt(true), modifiable]);
        assert_eq!(shaped(Role::Public, Some(Kind::Rsa)), [Attribute::Decrypt(true)]);
    }

    #[test]
    fn only_keys_of_applications_want_a_trusted_key() {
        for (trusted, wrapping) in
            [("user", vec![Attribute::Trusted(true)]), ("officer", vec![]), ("no", vec![])]
        {
            let keys = keys(&format!("trusted = \"{trusted}\"")).unwrap();
            let shaped = |role| {
                let mut template = Vec::new();
                keys.shape(role, None, &mut template);
                template
            };
            assert_eq!(shaped(Role::Wrapping), wrapping);
            for (role, wanted) in [
                (Role::Secret, trusted != "no"),
                (Role::Private, trusted != "no"),
                (Role::Public, false),
                (Role::Sealing, false),
            ] {
                let has = shaped(role).contains(&Attribute::WrapWithTrusted(true));
                assert_eq!(has, wanted, "{trusted} {role:?}");
            }
        }
    }

    #[test]
    fn what_makes_a_key_safe_cannot_be_set() {
        let set = |role: &str, name: &str, value: bool| {
            keys(&format!("[[template]]\nof = \"{role}\"\nset = {{ {name} = {value} }}"))
        };
        for name in [
            "CKA_SENSITIVE",
            "CKA_EXTRACTABLE",
            "CKA_TOKEN",
            "CKA_TRUSTED",
            "CKA_VALUE",
            "CKA_WRAP_WITH_TRUSTED",
        ] {
            assert!(set("secret", name, true).unwrap_err().to_string().contains(name));
        }
        for (role, open) in [
            ("sealing", false),
            ("secret", false),
            ("private", false),
            ("wrapping", true),
            ("public", true),
        ] {
            assert_eq!(set(role, "CKA_PRIVATE", false).is_ok(), open, "{role}");
            assert!(set(role, "CKA_PRIVATE", true).is_ok(), "{role}");
        }
    }
}
