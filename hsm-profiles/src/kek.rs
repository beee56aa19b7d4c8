//! The key-encryption keys in the token. Enter through [`KekSet::find`].
//!
//! A KEK is an AES-256 key made in the token: sensitive, never extractable, and with one use
//! ([`Usage`]) of which the profile's way to seal decides. Its label is the configured prefix and
//! a number; the highest number with the use that the profile needs seals, all of them open.
//!
//! **How much one KEK may seal.** Nonces are 96 random bits. Among n of them the chance that two
//! are equal is about n²/2⁹⁷; NIST SP 800-38D (8.3) draws the line at 2³² seals per key, where
//! it is 2⁻³³. Each process counts its own seals and stops at that line. This is a backstop, not
//! the bound itself: other processes and earlier runs sealed under the same KEK. The bound over
//! the life of a KEK is kept by rotation (a new KEK per epoch).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use km_core::hsm::{HsmError, KekId, KekInfo};

use crate::lane::OpError;
use crate::profile::{KeyUse, Kind, Profile, Role, Seal, Trusted};

/// Seals under one KEK in one process, at most (SP 800-38D, 8.3).
pub(crate) const MAX_SEALS: u64 = 1 << 32;
const KEK_BYTES: u64 = 32;
pub(crate) const KEK_ID_BYTES: u32 = 16;

/// Seal counts by KEK; they outlive a lost connection.
pub(crate) type SealCounts = HashMap<KekId, SealCount>;

/// How often this process has sealed under one KEK.
#[derive(Clone, Default)]
pub(crate) struct SealCount(Arc<AtomicU64>);

impl SealCount {
    /// Counts one more seal; false at the bound.
    fn one_more(&self) -> bool {
        let within = self.0.fetch_add(1, Ordering::Relaxed) < MAX_SEALS;
        if !within {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
        within
    }
}

/// What a KEK may do. Never both: who may unwrap a key and decrypt with it learns that key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    /// `CKA_ENCRYPT` and `CKA_DECRYPT`.
    Encrypts,
    /// `CKA_WRAP` and `CKA_UNWRAP`.
    Wraps,
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Encrypts => "encrypt and decrypt",
            Self::Wraps => "wrap and unwrap",
        })
    }
}

/// One KEK, by the handle that is valid for one login.
#[derive(Clone)]
pub(crate) struct Kek {
    pub(crate) id: KekId,
    pub(crate) number: u64,
    pub(crate) usage: Usage,
    /// The object in the token.
    pub(crate) kept: ObjectHandle,
    /// What seals and opens: the same object, or its copy for this login.
    pub(crate) used: ObjectHandle,
    seals: SealCount,
}

impl Kek {
    pub(crate) fn info(&self) -> KekInfo {
        KekInfo { id: self.id.clone(), number: self.number }
    }

    /// Counts one more seal, or refuses it at the bound.
    pub(crate) fn count_seal(&self) -> Result<(), HsmError> {
        if self.seals.one_more() {
            return Ok(());
        }
        Err(HsmError::Unsupported(format!(
            "KEK {} has sealed 2^32 messages, the most that is safe with random nonces: create a \
             new KEK",
            self.id.0
        )))
    }
}

/// All KEKs under the prefix, oldest first; once connected, one of them can seal.
#[derive(Clone)]
pub(crate) struct KekSet {
    keks: Vec<Kek>,
    /// What the one that seals must be able to do.
    sealing: Usage,
}

impl KekSet {
    /// Looks the KEKs up. Slow on tokens with many objects: done once per login. Copies last as
    /// long as `session`.
    pub(crate) fn find(
        session: &Session,
        prefix: &str,
        seal: &Seal,
        counts: &mut SealCounts,
    ) -> Result<Self, OpError> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
        ];
        let mut keks = Vec::new();
        for handle in session.find_objects(&template)? {
            if let Some((label, number)) = numbered(session, handle, prefix)? {
                let (id, usage) = checked(session, handle, &label)?;
                let seals = counts.entry(id.clone()).or_default().clone();
                let used = match seal.key {
                    KeyUse::Token => handle,
                    KeyUse::SessionCopy => copy(session, handle, &label)?,
                };
                keks.push(Kek { id, number, usage, kept: handle, used, seals });
            }
        }
        // The identifier breaks a tie, so that two KMs that both made a KEK 1 agree on it.
        keks.sort_by(|a, b| (a.number, &a.id.0).cmp(&(b.number, &b.id.0)));
        Ok(Self { keks, sealing: seal.usage() })
    }

    pub(crate) fn current(&self) -> Option<&Kek> {
        self.keks.iter().rev().find(|kek| kek.usage == self.sealing)
    }

    pub(crate) fn get(&self, id: &KekId) -> Option<&Kek> {
        self.keks.iter().rev().find(|kek| kek.id == *id)
    }

    pub(crate) fn list(&self) -> Vec<KekInfo> {
        self.keks.iter().map(Kek::info).collect()
    }

    /// The number the next KEK gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.keks.last().map_or(1, |kek| kek.number.saturating_add(1))
    }
}

/// A copy for the time of the session, which must be as safe as what it was made from.
fn copy(session: &Session, kek: ObjectHandle, label: &str) -> Result<ObjectHandle, OpError> {
    let copy = session.copy_object(kek, &[Attribute::Token(false)])?;
    checked(session, copy, label)?;
    Ok(copy)
}

/// Label and number of the object when its label is `prefix` and a number.
fn numbered(
    session: &Session,
    handle: ObjectHandle,
    prefix: &str,
) -> Result<Option<(String, u64)>, Error> {
    let found = session.get_attributes(handle, &[AttributeType::Label])?;
    let Some(Attribute::Label(label)) = found.into_iter().next() else { return Ok(None) };
    let Ok(label) = String::from_utf8(label) else { return Ok(None) };
    let number = label.strip_prefix(prefix).and_then(|digits| digits.parse().ok());
    Ok(number.map(|number| (label, number)))
}

/// Identifier and use of a KEK that has every property a KEK must have.
fn checked(
    session: &Session,
    handle: ObjectHandle,
    label: &str,
) -> Result<(KekId, Usage), OpError> {
    let told = told(session.get_attributes(handle, &WANTED)?);
    told.map_err(|wrong| {
        OpError::Answer(HsmError::Setup(format!(
            "the key {label:?} in the token {wrong}: it was not made by this KM; delete or rename it, \
             or set another hsm.kek_label"
        )))
    })
}

/// What the attributes of a KEK tell, or what is wrong with them.
fn told(attributes: Vec<Attribute>) -> Result<(KekId, Usage), String> {
    let mut id = None;
    let mut wrong = Vec::new();
    let (mut encrypts, mut wraps) = (0, 0);
    // SoftHSM says 0 of keys that came by RSA-OAEP: it does not tell. Of what it made it does.
    let came = attributes.contains(&Attribute::Local(false));
    for attribute in attributes {
        match attribute {
            Attribute::Id(bytes) if !bytes.is_empty() => id = Some(KekId(hex::encode(bytes))),
            Attribute::Sensitive(false) => wrong.push("is not sensitive"),
            Attribute::Extractable(true) => wrong.push("can be extracted"),
            Attribute::Encrypt(true) | Attribute::Decrypt(true) => encrypts += 1,
            Attribute::Wrap(true) | Attribute::Unwrap(true) => wraps += 1,
            Attribute::ValueLen(len) => match u64::from(len) {
                KEK_BYTES => {}
                0 if came => {}
                _ => wrong.push("is not 256 bits long"),
            },
            _ => {}
        }
    }
    let usage = match (encrypts, wraps) {
        (2, 0) => Some(Usage::Encrypts),
        (0, 2) => Some(Usage::Wraps),
        _ => None,
    };
    match (id, usage) {
        (Some(id), Some(usage)) if wrong.is_empty() => Ok((id, usage)),
        (id, usage) => {
            if id.is_none() {
                wrong.push("has no CKA_ID");
            }
            if usage.is_none() {
                wrong.push("may neither just encrypt and decrypt nor just wrap and unwrap");
            }
            Err(wrong.join(" and "))
        }
    }
}

const WANTED: [AttributeType; 9] = [
    AttributeType::Id,
    AttributeType::Sensitive,
    AttributeType::Extractable,
    AttributeType::Encrypt,
    AttributeType::Decrypt,
    AttributeType::Wrap,
    AttributeType::Unwrap,
    AttributeType::ValueLen,
    AttributeType::Local,
];

/// Makes the KEK `prefix``number` in the token, with the `CKA_ID` that was drawn for it: by that it is
/// found when the answer is lost.
pub(crate) fn generate(
    session: &Session,
    prefix: &str,
    (number, id): (u64, &[u8]),
    profile: &Profile,
) -> Result<(), Error> {
    let label = format!("{prefix}{number}").into_bytes();
    let template = template(label, id.to_vec(), Role::Sealing, profile.seal.usage(), profile);
    session.generate_key(&Mechanism::AesKeyGen, &template).map(drop)
}

/// The keys of the token with this `CKA_ID`: one, or none.
pub(crate) fn kept(session: &Session, id: &[u8]) -> Result<Vec<ObjectHandle>, Error> {
    session.find_objects(&[
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Id(id.to_vec()),
        Attribute::Token(true),
    ])
}

/// What a KEK of this role is.
pub(crate) fn template(
    label: Vec<u8>,
    id: Vec<u8>,
    role: Role,
    usage: Usage,
    profile: &Profile,
) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(KEK_BYTES.into()),
        Attribute::Label(label),
        Attribute::Id(id),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(usage == Usage::Encrypts),
        Attribute::Decrypt(usage == Usage::Encrypts),
        Attribute::Wrap(usage == Usage::Wraps),
        Attribute::Unwrap(usage == Usage::Wraps),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Derive(false),
    ];
    profile.keys.shape(role, Some(Kind::Aes), &mut template);
    template
}

/// A key `prefix``w-``number` that wraps keys of applications in the epoch of that number, and does
/// nothing else: the one of this `CKA_ID`, else any. With its `CKA_ID`.
pub(crate) fn wrapping(
    session: &Session,
    prefix: &str,
    number: u64,
    id: Option<&[u8]>,
    profile: &Profile,
) -> Result<Option<(Vec<u8>, ObjectHandle)>, OpError> {
    let label = format!("{prefix}w-{number}");
    let Some(kept) = find_wrapping(session, &label, id)? else { return Ok(None) };
    let id = checked_wrapping(session, kept, &label, profile)?;
    let used = match profile.seal.key {
        KeyUse::Token => kept,
        KeyUse::SessionCopy => copy(session, kept, &label)?,
    };
    Ok(Some((id, used)))
}

fn find_wrapping(
    session: &Session,
    label: &str,
    id: Option<&[u8]>,
) -> Result<Option<ObjectHandle>, Error> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Token(true),
    ];
    template.extend(id.map(|id| Attribute::Id(id.to_vec())));
    Ok(session.find_objects(&template)?.into_iter().next())
}

/// Sees to it that the epoch of that number has a key that wraps, where this token wraps at all. It
/// comes before the epoch's KEK: an epoch begins with all its keys, or not.
pub(crate) fn ensure_wrapping(
    session: &Session,
    prefix: &str,
    number: u64,
    profile: &Profile,
) -> Result<(), OpError> {
    if !profile.wraps_keys() {
        return Ok(());
    }
    let label = format!("{prefix}w-{number}");
    let kept = match find_wrapping(session, &label, None)? {
        Some(kept) => kept,
        None => {
            let id = session.generate_random_vec(KEK_ID_BYTES)?;
            let (name, usage) = (label.clone().into_bytes(), Usage::Wraps);
            let template = template(name, id, Role::Wrapping, usage, profile);
            session.generate_key(&Mechanism::AesKeyGen, &template)?
        }
    };
    checked_wrapping(session, kept, &label, profile).map(drop)
}

/// The first number from `number` on of which the token holds no KEK.
pub(crate) fn free_number(session: &Session, prefix: &str, mut number: u64) -> Result<u64, Error> {
    while !labelled(session, format!("{prefix}{number}"))?.is_empty() {
        number = number.saturating_add(1);
    }
    Ok(number)
}

/// Destroys keys that wrap in an epoch that has no KEK: they are left of one that never began, and
/// which of two is meant nobody could tell.
pub(crate) fn clear_wrapping(session: &Session, prefix: &str, number: u64) -> Result<(), Error> {
    let left = labelled(session, format!("{prefix}w-{number}"))?;
    left.into_iter().try_for_each(|key| session.destroy_object(key))
}

pub(crate) fn labelled(session: &Session, label: String) -> Result<Vec<ObjectHandle>, Error> {
    session.find_objects(&[
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Label(label.into_bytes()),
        Attribute::Token(true),
    ])
}

/// `CKA_ID` of a key that wraps, and has every property such a key must have.
fn checked_wrapping(
    session: &Session,
    kept: ObjectHandle,
    label: &str,
    profile: &Profile,
) -> Result<Vec<u8>, OpError> {
    let setup = |text: String| OpError::Answer(HsmError::Setup(text));
    let (id, usage) = checked(session, kept, label)?;
    if usage != Usage::Wraps {
        return Err(setup(format!(
            "the key {label:?} in the token may do more than wrap and unwrap: delete or rename it"
        )));
    }
    let trusted = profile.keys.trusted == Trusted::No
        || session.get_attributes(kept, &[AttributeType::Trusted])? == [Attribute::Trusted(true)];
    if !trusted {
        return Err(setup(format!(
            "the key {label:?} in the token, made to wrap the keys of applications, is not marked as \
             trusted: let the security officer set CKA_TRUSTED on it, or where the token does not \
             allow that, put a like one in its place that is trusted; then try again"
        )));
    }
    Ok(hex::decode(&id.0).unwrap_or_default())
}

/// A key as `template` says, but for the session and so that it can be wrapped.
pub(crate) fn draft(session: &Session, template: &[Attribute]) -> Result<ObjectHandle, Error> {
    let mut template = template.to_vec();
    for attribute in &mut template {
        match attribute {
            Attribute::Token(token) => *token = false,
            Attribute::Extractable(extractable) => *extractable = true,
            _ => {}
        }
    }
    session.generate_key(&Mechanism::AesKeyGen, &template)
}

/// Destroys a KEK and its copies, and the key `prefix``w-``number` that wraps in the same epoch.
/// What is not there is no error.
pub(crate) fn destroy(session: &Session, prefix: &str, kek: &KekInfo) -> Result<(), OpError> {
    let unnamed = |_| HsmError::Unsupported(format!("{:?} is no KEK", kek.id.0));
    let id = hex::decode(&kek.id.0).map_err(unnamed).map_err(OpError::Answer)?;
    let class = || Attribute::Class(ObjectClass::SECRET_KEY);
    let wraps = format!("{prefix}w-{}", kek.number).into_bytes();
    for template in [[class(), Attribute::Id(id)], [class(), Attribute::Label(wraps)]] {
        for handle in session.find_objects(&template)? {
            session.destroy_object(handle)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kek_that_came_may_keep_its_length_to_itself() {
        let of = |length: u64, local: bool| {
            told(vec![
                Attribute::Id(vec![1]),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::ValueLen(length.into()),
                Attribute::Local(local),
            ])
        };
        for (length, local) in [(32, true), (32, false), (0, false)] {
            assert_eq!(of(length, local), Ok((KekId("01".to_owned()), Usage::Encrypts)));
        }
        for (length, local) in [(0, true), (16, true), (16, false)] {
            assert_eq!(of(length, local), Err("is not 256 bits long".to_owned()));
        }
    }

    #[test]
    fn a_kek_stops_sealing_at_the_bound() {
        let seals = SealCount(Arc::new(AtomicU64::new(MAX_SEALS - 1)));
        assert!(seals.one_more());
        assert!(!seals.one_more());
        assert!(!seals.one_more());
        assert_eq!(seals.0.load(Ordering::Relaxed), MAX_SEALS);
    }
}
