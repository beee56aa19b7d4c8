//! What a token can be asked, and what it answers. Enter through [`Request`].
//!
//! To add an ability: a variant here, a function on the lane, an arm in `worker::serve`, and a
//! method in `token`. Requests also travel to a process of their own as they are (see `wire`), so
//! every part must be serde; clear bytes stay [`ClearBytes`], marked `with = "wire::clear"`.

use std::sync::Arc;

use km_core::hsm::{HsmError, KekId, KekInfo, KekParcel, KekReceiver, Sealed, TokenKey};
use km_core::material::ClearBytes;
use km_core::usage::kem::KemSet;
use km_core::usage::{Action, Cipher, KeyKind, KeyUse};
use serde::{Deserialize, Serialize};

use crate::lane::{IV_BYTES, MAX_IV_BYTES, TAG_BYTES};
use crate::profile::Profile;
use crate::queue::Work;
use crate::wire;

/// What a request occupies while it waits, besides its message.
const REQUEST_BYTES: usize = 256;
/// Bytes that take a cipher as long as a signature takes.
const MUCH: usize = 16 << 10;

/// What a session thread can be asked to do.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Answered by [`Response::Sealed`].
    Seal {
        #[serde(with = "serde_bytes")]
        aad: Vec<u8>,
        #[serde(with = "wire::clear")]
        clear: ClearBytes,
    },
    /// Answered by [`Response::Clear`].
    Open {
        #[serde(with = "serde_bytes")]
        aad: Vec<u8>,
        sealed: Sealed,
    },
    /// Answered by [`Response::Clear`].
    Random { len: u32 },
    /// Answered by [`Response::Done`].
    Probe,
    /// Looks for KEKs, those too that others made in the token. Answered by [`Response::Keks`].
    Keks,
    /// Answered by [`Response::Kek`].
    CreateKek,
    /// Answered by [`Response::KekMade`].
    CreateKekFor {
        from: u64,
        receivers: Vec<KekReceiver>,
        #[serde(with = "crate::wire::clear")]
        seed: ClearBytes,
    },
    /// Answered by [`Response::Receiver`].
    KekReceiver,
    /// Answered by [`Response::Kek`].
    TakeKek { parcel: KekParcel },
    /// Answered by [`Response::Done`].
    DestroyKek { kek: KekInfo },
    /// Answered by [`Response::Done`].
    StoreObject {
        name: String,
        #[serde(with = "wire::clear")]
        clear: ClearBytes,
    },
    /// Answered by [`Response::Clear`].
    ReadObject { name: String },
    /// Answered by [`Response::Done`].
    DeleteObject { name: String },
    /// Answered by [`Response::Names`].
    ObjectNames { prefix: String },
    /// Answered by [`Response::Room`].
    Room,
    /// Answered by [`Response::Made`].
    MakeKey {
        #[serde(with = "serde_bytes")]
        aad: Vec<u8>,
        kind: KeyKind,
        bits: u32,
    },
    /// Answered by [`Response::Made`].
    AgreeKey {
        base: Box<TokenKey>,
        #[serde(with = "serde_bytes")]
        public: Vec<u8>,
        #[serde(with = "serde_bytes")]
        aad: Vec<u8>,
        kind: KeyKind,
        bits: u32,
    },
    /// Answered by [`Response::Used`].
    UseKey {
        key: Box<TokenKey>,
        #[serde(with = "wire::uses")]
        uses: Arc<[KeyUse]>,
    },
    /// Answered by [`Response::Sealed`].
    RewrapKey {
        #[serde(with = "serde_bytes")]
        aad: Vec<u8>,
        sealed: Sealed,
    },
    /// Answered by [`Response::Done`].
    ForgetKey {
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
    },
    /// Answered by [`Response::Pair`].
    KemKeyPair { set: KemSet },
    /// Answered by [`Response::Encapsulated`].
    KemEncapsulate {
        set: KemSet,
        #[serde(with = "serde_bytes")]
        public: Vec<u8>,
    },
    /// Answered by [`Response::Clear`].
    KemDecapsulate {
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        #[serde(with = "serde_bytes")]
        ciphertext: Vec<u8>,
    },
    /// Answered by [`Response::Done`].
    KemForget {
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
    },
}

impl Request {
    /// The memory it takes while it waits, about.
    pub(crate) fn bytes(&self) -> usize {
        let message = match self {
            Self::Seal { aad, clear } => aad.len() + clear.len(),
            Self::Open { aad, sealed } => aad.len() + sealed.ciphertext.len(),
            Self::Random { len } => *len as usize,
            Self::StoreObject { name, clear } => name.len() + clear.len(),
            Self::ReadObject { name } | Self::DeleteObject { name } => name.len(),
            Self::ObjectNames { prefix } => prefix.len(),
            Self::Probe | Self::Keks | Self::Room => 0,
            Self::CreateKek | Self::DestroyKek { .. } | Self::KekReceiver => 0,
            Self::TakeKek { parcel } => parcel.keys.iter().map(|key| key.key.len()).sum(),
            Self::CreateKekFor { receivers, .. } => receivers.iter().map(|r| r.modulus.len()).sum(),
            Self::MakeKey { aad, .. } => aad.len(),
            Self::AgreeKey { base, public, aad, .. } => {
                base.sealed.ciphertext.len() + public.len() + aad.len()
            }
            Self::UseKey { key, uses } => key.sealed.ciphertext.len() + inputs(uses),
            Self::RewrapKey { aad, sealed } => aad.len() + sealed.ciphertext.len(),
            Self::ForgetKey { name } | Self::KemForget { name } => name.len(),
            Self::KemKeyPair { .. } => 0,
            Self::KemEncapsulate { public, .. } => public.len(),
            Self::KemDecapsulate { name, ciphertext } => name.len() + ciphertext.len(),
        };
        message + REQUEST_BYTES
    }

    /// How long it keeps its session.
    pub(crate) fn work(&self) -> Work {
        let ciphers = matches!(self, Self::Seal { .. } | Self::Open { .. } | Self::UseKey { .. });
        let much = ciphers && self.bytes() / self.operations().max(1) >= MUCH;
        if much || self.takes_long() { Work::Long } else { Work::Short }
    }

    /// Whether it takes the token long, however little it is about.
    pub(crate) fn takes_long(&self) -> bool {
        match self {
            Self::UseKey { key, uses } => key.kind.is_pair() || uses.iter().any(takes_long),
            Self::MakeKey { kind, .. } => kind.is_pair(),
            // A pair that takes KEKs is made at the first of them, and meanwhile nobody finds KEKs.
            Self::KekReceiver | Self::CreateKekFor { .. } | Self::TakeKek { .. } | Self::Keks => {
                true
            }
            Self::AgreeKey { .. } => true,
            Self::KemKeyPair { .. } | Self::KemEncapsulate { .. } | Self::KemDecapsulate { .. } => {
                true
            }
            _ => false,
        }
    }

    /// Whether a token may be at it for as long as it takes to find large primes.
    pub(crate) fn finds_primes(&self) -> bool {
        match self {
            Self::MakeKey { kind, .. } => *kind == KeyKind::Rsa,
            // It makes such a pair; the others wait for that.
            Self::KekReceiver | Self::CreateKekFor { .. } | Self::TakeKek { .. } | Self::Keks => {
                true
            }
            _ => false,
        }
    }

    /// Operations of the token that it stands for, about.
    pub(crate) fn operations(&self) -> usize {
        match self {
            Self::UseKey { uses, .. } => uses.len(),
            _ => 1,
        }
    }

    /// Whether it may be carried out once more when its answer was lost: then only work was lost.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self {
            Self::Seal { .. } | Self::Open { .. } | Self::Random { .. } => true,
            Self::Probe | Self::Keks | Self::Room => true,
            Self::ReadObject { .. } | Self::ObjectNames { .. } => true,
            // An equal object of that name is left as it is, and names are used once.
            Self::StoreObject { .. } | Self::DeleteObject { .. } => true,
            // What is destroyed already is no error.
            Self::DestroyKek { .. } => true,
            // A key that was made and not answered is nobody's, and gone with its session.
            Self::MakeKey { .. } | Self::AgreeKey { .. } | Self::UseKey { .. } => true,
            Self::RewrapKey { .. } | Self::ForgetKey { .. } => true,
            // A pair that was made and not answered is dropped for later ones.
            Self::KemKeyPair { .. } | Self::KemEncapsulate { .. } => true,
            Self::KemDecapsulate { .. } | Self::KemForget { .. } => true,
            // What is here already is left.
            Self::TakeKek { .. } => true,
            Self::CreateKek | Self::CreateKekFor { .. } | Self::KekReceiver => false,
        }
    }

    /// Whether each of several tokens must do it.
    pub(crate) fn is_for_all(&self) -> bool {
        match self {
            Self::DestroyKek { .. } | Self::ForgetKey { .. } => true,
            // Whichever token is asked later has to have it.
            Self::StoreObject { .. } | Self::DeleteObject { .. } => true,
            _ => false,
        }
    }

    /// Whether another token may do what one answered with `error`.
    pub(crate) fn another_may(&self, error: &HsmError) -> bool {
        match error {
            HsmError::Unavailable(_) => true,
            // A token that was away when an object was made lacks it.
            HsmError::Refused(_) => matches!(self, Self::ReadObject { .. }),
            _ => false,
        }
    }

    /// The KEK it needs, where that is not the one that seals.
    pub(crate) fn kek(&self) -> Option<&KekId> {
        match self {
            Self::Open { sealed, .. } | Self::RewrapKey { sealed, .. } => Some(&sealed.kek),
            Self::UseKey { key, .. } => Some(&key.sealed.kek),
            Self::AgreeKey { base, .. } => Some(&base.sealed.kek),
            _ => None,
        }
    }

    /// Refuses what a token of this profile can never do, before anybody waits for it.
    pub(crate) fn check(&self, profile: &Profile) -> Result<(), HsmError> {
        match self {
            Self::Seal { aad, clear } => check_sizes(profile, aad, clear.len()),
            Self::Open { aad, sealed } => {
                let message = sealed.ciphertext.len().saturating_sub(TAG_BYTES);
                if !(IV_BYTES..=MAX_IV_BYTES).contains(&sealed.iv.len()) || message == 0 {
                    return Err(HsmError::Refused(format!(
                        "{} bytes with a nonce of {} bytes is no sealed message",
                        sealed.ciphertext.len(),
                        sealed.iv.len()
                    )));
                }
                check_sizes(profile, aad, message)
            }
            Self::Random { len } => check_sizes(profile, &[], *len as usize),
            Self::StoreObject { clear, .. } => check_sizes(profile, &[], clear.len()),
            Self::ReadObject { .. } | Self::DeleteObject { .. } => Ok(()),
            Self::ObjectNames { .. } | Self::Room => Ok(()),
            Self::Probe | Self::Keks => Ok(()),
            Self::CreateKek | Self::DestroyKek { .. } => Ok(()),
            Self::CreateKekFor { .. } | Self::KekReceiver | Self::TakeKek { .. } => Ok(()),
            Self::MakeKey { .. } | Self::RewrapKey { .. } | Self::ForgetKey { .. } => Ok(()),
            Self::UseKey { uses, .. } => check_input(profile, inputs(uses)),
            Self::AgreeKey { public, .. } => check_input(profile, public.len()),
            Self::KemKeyPair { .. } | Self::KemForget { .. } => Ok(()),
            Self::KemEncapsulate { public, .. } => check_input(profile, public.len()),
            Self::KemDecapsulate { ciphertext, .. } => check_input(profile, ciphertext.len()),
        }
    }
}

/// Key wrap may be many calls of the token, and PBKDF2 many rounds of one.
fn takes_long(one: &KeyUse) -> bool {
    match &one.action {
        Action::Encrypt(cipher) | Action::Decrypt(cipher) => {
            matches!(cipher, Cipher::KeyWrap { .. })
        }
        action => matches!(action, Action::Derive { .. }),
    }
}

fn inputs(uses: &[KeyUse]) -> usize {
    uses.iter().map(|one| one.input.len()).sum()
}

fn check_input(profile: &Profile, input: usize) -> Result<(), HsmError> {
    let most = profile.limits.message_bytes;
    if input <= most {
        return Ok(());
    }
    Err(HsmError::Unsupported(format!(
        "{input} bytes are over the limit of the profile {} ({most} bytes)",
        profile.name
    )))
}

fn check_sizes(profile: &Profile, aad: &[u8], message: usize) -> Result<(), HsmError> {
    let limits = &profile.limits;
    if message == 0 {
        return Err(HsmError::Unsupported("an empty message cannot be sealed".to_owned()));
    }
    if message > limits.message_bytes || aad.len() > limits.aad_bytes {
        return Err(HsmError::Unsupported(format!(
            "a message of {message} bytes with {} bytes of header is over the limits of the \
             profile {} ({} and {} bytes)",
            aad.len(),
            profile.name,
            limits.message_bytes,
            limits.aad_bytes
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_judged_before_anybody_waits() {
        let profile = Profile::load("softhsm2").unwrap();
        let seal = |len| Request::Seal { aad: vec![], clear: ClearBytes::from_vec(vec![0; len]) };
        seal(1).check(&profile).unwrap();
        seal(profile.limits.message_bytes).check(&profile).unwrap();
        for len in [0, profile.limits.message_bytes + 1] {
            assert!(matches!(seal(len).check(&profile), Err(HsmError::Unsupported(_))));
        }
        let none = Request::Random { len: 0 };
        assert!(matches!(none.check(&profile), Err(HsmError::Unsupported(_))));
    }

    #[test]
    fn blocks_are_sealed_by_all_sessions_and_hang_no_later_for_it() {
        let seal = |len| Request::Seal { aad: vec![], clear: ClearBytes::from_vec(vec![0; len]) };
        assert_eq!([32, 4096, 65_536].map(|len| seal(len).work()), {
            [Work::Short, Work::Short, Work::Long]
        });
        assert!(!seal(65_536).takes_long());
        assert_eq!(Request::Random { len: 65_536 }.work(), Work::Short);
    }
}
