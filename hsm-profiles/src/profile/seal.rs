//! How a token seals: the `[seal]` table of a profile. Enter through [`Seal`].

use serde::Deserialize;

use super::MechanismName;
use crate::kek::Usage;
use crate::lane::{IV_BYTES, MAX_IV_BYTES};

/// How new data is sealed in this token. What was sealed before opens as it was sealed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// Where the message is encrypted.
    pub method: SealBy,
    /// The GCM mechanism of `token-gcm`; vendors that make the nonce may have one of their own.
    #[serde(default = "aes_gcm")]
    pub mechanism: MechanismName,
    /// Who makes the nonce of `token-gcm`.
    #[serde(default)]
    pub iv: IvSource,
    /// Its length, 12 to 16 bytes; 12 where the host makes it.
    #[serde(default = "iv_bytes")]
    pub iv_bytes: usize,
    /// How the token wants the nonce back.
    #[serde(default)]
    pub iv_on_open: IvOnOpen,
    /// The longest message in bytes that `token-gcm` encrypts in the token. Longer ones are encrypted
    /// in this process, under a data key of the one message that is encrypted in the token.
    #[serde(default)]
    pub in_token_bytes: Option<usize>,
    /// What the KEK does with the data key of `wrapped-key-gcm`.
    #[serde(default)]
    pub protection: Protection,
    /// Which object works.
    #[serde(default)]
    pub key: KeyUse,
}

fn aes_gcm() -> MechanismName {
    MechanismName::standard("AES_GCM")
}

fn iv_bytes() -> usize {
    IV_BYTES
}

/// Where the message is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SealBy {
    /// In the token: AES-GCM under the KEK, 128-bit tag.
    TokenGcm,
    /// In this process: AES-256-GCM under a data key of the one message, which the KEK protects.
    /// For tokens without AES-GCM, or whose messages are too short.
    WrappedKeyGcm,
}

/// Who makes the GCM nonce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IvSource {
    /// The caller passes it; ours comes from the token's `C_GenerateRandom`.
    #[default]
    Host,
    /// The token writes it into the buffer of zeros that the caller passes.
    Writeback,
    /// The token is passed none, and puts its own after the tag.
    Append,
    /// The token is passed none, and puts its own before the ciphertext.
    Prepend,
}

/// How `C_Decrypt` wants the nonce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IvOnOpen {
    /// As the parameter of the mechanism.
    #[default]
    Parameter,
    /// Where the token put it when it sealed.
    InData,
}

/// What the KEK does with the data key of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// Wraps it by AES key wrap (RFC 3394). The data key is made in the token.
    #[default]
    KeyWrap,
    /// Wraps it by AES key wrap with padding (RFC 5649), which adds none to a data key. For tokens that have
    /// only this one.
    KeyWrapPadded,
    /// Encrypts it by AES-CBC. For tokens that cannot wrap, or give no wrapped key to the host.
    Cbc,
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

impl Seal {
    /// What the KEK must be able to do.
    pub(crate) fn usage(&self) -> Usage {
        match (self.method, self.protection) {
            (SealBy::WrappedKeyGcm, Protection::KeyWrap | Protection::KeyWrapPadded) => {
                Usage::Wraps
            }
            (SealBy::TokenGcm, _) | (SealBy::WrappedKeyGcm, Protection::Cbc) => Usage::Encrypts,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let (least, most) = match self.iv {
            IvSource::Host => (IV_BYTES, IV_BYTES),
            IvSource::Writeback | IvSource::Append | IvSource::Prepend => (IV_BYTES, MAX_IV_BYTES),
        };
        if !(least..=most).contains(&self.iv_bytes) {
            return Err(format!("seal.iv_bytes is {}, not {least} to {most}", self.iv_bytes));
        }
        if self.in_token_bytes.is_some_and(|most| most < 32) {
            return Err("seal.in_token_bytes is less than the 32 of a data key".to_owned());
        }
        let in_data = matches!(self.iv, IvSource::Append | IvSource::Prepend);
        if self.iv_on_open == IvOnOpen::InData && !in_data {
            return Err("seal.iv_on_open = \"in-data\" needs iv = \"append\" or \"prepend\"".into());
        }
        Ok(())
    }
}
