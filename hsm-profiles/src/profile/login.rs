//! How a token wants its user: the `[login]` table of a profile. Enter through [`Login`].

use cryptoki::session::UserType;
use serde::Deserialize;

/// How to log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// As whom.
    #[serde(default)]
    pub user: LoginUser,
    /// What the PIN looks like. One that does not is not sent to the token, where it would cost one
    /// of the tries before it locks.
    #[serde(default)]
    pub pin: PinForm,
}

/// As whom to log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LoginUser {
    /// `CKU_USER`, written `user`.
    #[default]
    User,
    /// Nobody, written `none`: the token asks for no login, or another way let this process in.
    Nobody,
    /// A user type of the vendor, written as its number (`0x80000001`).
    Vendor(u32),
}

/// What a PIN looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinForm {
    /// Anything.
    #[default]
    Plain,
    /// A user's name, a colon, and the password.
    UserAndPassword,
    /// Four hexadecimal digits that name the key to authenticate with, then the password.
    KeyIdAndPassword,
}

impl TryFrom<String> for LoginUser {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let vendor = |text: &str| {
            let number = u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()?;
            (number >= 0x8000_0000).then_some(Self::Vendor(number))
        };
        match text.as_str() {
            "user" => Ok(Self::User),
            "none" => Ok(Self::Nobody),
            other => vendor(other).ok_or_else(|| {
                format!("login.user is {other:?}, not user, none or a number from 0x80000000 on")
            }),
        }
    }
}

impl LoginUser {
    /// For `C_Login`; none when nobody logs in.
    pub(crate) fn kind(self) -> Option<UserType> {
        match self {
            Self::User => Some(UserType::User),
            Self::Nobody => None,
            Self::Vendor(number) => Some(UserType::VendorExtension(number)),
        }
    }
}

impl PinForm {
    /// Says what the PIN should look like when it does not.
    pub(crate) fn check(self, pin: &[u8]) -> Result<(), &'static str> {
        let parts = match self {
            Self::Plain => Some(((), 1)),
            Self::UserAndPassword => {
                let colon = pin.iter().position(|b| *b == b':').filter(|at| *at > 0);
                colon.map(|at| ((), pin.len() - at - 1))
            }
            Self::KeyIdAndPassword => {
                let id = pin.get(..4).filter(|id| id.iter().all(u8::is_ascii_hexdigit));
                id.map(|_| ((), pin.len() - 4))
            }
        };
        match (parts, self) {
            (Some((_, 1..)), _) => Ok(()),
            (_, Self::KeyIdAndPassword) => {
                Err("is not four hexadecimal digits (the authentication key) and a password")
            }
            _ => Err("is not of the form user:password"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_of_another_form_is_noticed_before_it_costs_a_try() {
        for (form, good, bad) in [
            (PinForm::Plain, vec!["x", ":"], vec![]),
            (PinForm::UserAndPassword, vec!["qkm:secret", "qkm:a:b"], vec!["qkm", ":x", "qkm:"]),
            (PinForm::KeyIdAndPassword, vec!["0001password"], vec!["password", "0001", "01"]),
        ] {
            assert!(good.iter().all(|pin| form.check(pin.as_bytes()).is_ok()), "{form:?}");
            assert!(bad.iter().all(|pin| form.check(pin.as_bytes()).is_err()), "{form:?}");
        }
    }

    #[test]
    fn vendors_have_users_of_their_own() {
        let user = |text: &str| LoginUser::try_from(text.to_owned());
        assert_eq!(user("0x80000001"), Ok(LoginUser::Vendor(0x8000_0001)));
        assert!(user("0x1").is_err() && user("so").is_err());
    }
}
