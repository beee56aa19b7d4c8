//! Keys of applications inside the token: made there, wrapped, and used as session objects. Enter
//! through [`Lane::use_key`] and [`Lane::make_key`]. New keys come from `lane/made.rs`, keys that
//! applications brought from `lane/brought.rs`.
//!
//! A key is at hand as a session object, sensitive and not extractable, as long as the session
//! lives or until as many others were used since as the profile says (`limits.handles`).

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use km_core::hsm::{HsmError, MadeKey, Sealed, TokenKey};
use km_core::material::ClearBytes;
use km_core::usage::derive::Derivation;
use km_core::usage::{Action, Cipher, Hash, KeyKind, Scheme, der, public};
use lru::LruCache;
use serde::{Deserialize, Serialize};

use super::judge::unsupported;
use super::table::needs;
use super::{Lane, OpError};
use crate::kek;
use crate::profile::{Kind, Role, Wrap, WrapForm};

/// What a key that was just made is tried with.
pub(super) const TRIAL: [u8; 32] = [0x5A; 32];
/// The point of X25519 that all public keys come from.
const BASE_POINT: [u8; 32] = {
    let mut point = [0; 32];
    point[0] = 9;
    point
};

/// The keys a session has at hand, by the name of their sealing.
pub(super) struct AtHand(LruCache<Vec<u8>, (KeyKind, ObjectHandle)>);

impl AtHand {
    pub(super) fn new(most: usize) -> Self {
        Self(LruCache::new(NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN)))
    }

    fn is_full(&self) -> bool {
        self.0.len() >= self.0.cap().get()
    }
}

/// Names of keys that no session is to have at hand any more.
#[derive(Default)]
pub(crate) struct Forgotten {
    count: AtomicU64,
    /// The last of them.
    names: Mutex<VecDeque<Vec<u8>>>,
}

/// Names kept, at most; a session that is further behind drops all it has at hand.
const FORGOTTEN: usize = 1024;

impl Forgotten {
    pub(crate) fn add(&self, name: Vec<u8>) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() == FORGOTTEN {
            names.pop_front();
        }
        names.push_back(name);
        self.count.fetch_add(1, Ordering::Release);
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Those after the first `seen`, and how many there are now; `None` when some are gone.
    fn since(&self, seen: u64) -> (Option<Vec<Vec<u8>>>, u64) {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.count();
        let new = usize::try_from(count - seen).ok().filter(|new| *new <= names.len());
        (new.map(|new| names.iter().skip(names.len() - new).cloned().collect()), count)
    }
}

/// A key wrapped by a key of the token that does nothing else.
#[derive(Serialize, Deserialize)]
struct Wrapped {
    /// Number of the epoch whose wrapping key it is under.
    number: u64,
    /// `CKA_ID` of that key: two KMs that share a token may each have made one.
    by: Vec<u8>,
    mechanism: u64,
    /// What the key may be used as, which nobody can change.
    kind: KeyKind,
    key: Vec<u8>,
}

impl Lane {
    /// Does `action` with `key`.
    pub(crate) fn use_key(
        &mut self,
        key: &TokenKey,
        action: &Action,
        input: &ClearBytes,
    ) -> Result<ClearBytes, OpError> {
        self.forget()?;
        for mechanism in needs(key.kind, action)? {
            self.check_mechanism(&mechanism)?;
        }
        if let Action::Derive { how: Derivation::Pbkdf2 { hash, salt, iterations }, len } = action {
            return self.by_password(key, (*hash, salt, *iterations), *len as usize);
        }
        let handle = self.at_hand(key)?;
        let done = input.expose(|input| self.act(key.kind, handle, action, input));
        match done {
            Err(OpError::Token(error)) => Err(self.judge_use(error, key.kind, handle, action)),
            done => done,
        }
    }

    /// Drops what is to be forgotten since it was last asked.
    pub(crate) fn forget(&mut self) -> Result<(), OpError> {
        if self.forgotten.count() == self.forgot {
            return Ok(());
        }
        let (names, count) = self.forgotten.since(self.forgot);
        self.forgot = count;
        match names {
            Some(names) => names.iter().try_for_each(|name| self.drop_key(name)),
            None => {
                while let Some((_, (_, handle))) = self.at_hand.0.pop_lru() {
                    self.destroy(handle)?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn destroy(&mut self, handle: ObjectHandle) -> Result<(), OpError> {
        let destroyed = self.session()?.destroy_object(handle);
        destroyed.map_err(|error| self.judge(error))
    }

    fn drop_key(&mut self, name: &[u8]) -> Result<(), OpError> {
        if let Some((_, handle)) = self.at_hand.0.pop(name) {
            self.destroy(handle)?;
        }
        Ok(())
    }

    pub(super) fn check_mechanism(&self, mechanism: &MechanismType) -> Result<(), OpError> {
        match self.connection.mechanisms.contains(mechanism) {
            true => Ok(()),
            false => Err(unsupported(format!("the token has no {mechanism}"))),
        }
    }

    pub(super) fn at_hand(&mut self, key: &TokenKey) -> Result<ObjectHandle, OpError> {
        match self.at_hand.0.get(&key.name) {
            Some((kind, handle)) if *kind == key.kind => return Ok(*handle),
            Some(_) => self.drop_key(&key.name)?,
            None => {}
        }
        if self.at_hand.is_full()
            && let Some((_, (_, old))) = self.at_hand.0.pop_lru()
        {
            self.destroy(old)?;
        }
        let handle = match key.wrapped {
            true => {
                let wrapped = self.open_wrapped(&key.aad, &key.sealed)?;
                if wrapped.kind != key.kind {
                    let text = "the key was made in the token for another use".to_owned();
                    return Err(unsupported(text));
                }
                self.unwrapped(&wrapped, Extractable::No)?
            }
            false => self.imported(key)?,
        };
        self.at_hand.0.put(key.name.clone(), (key.kind, handle));
        Ok(handle)
    }

    /// A wrapped key as session object of the kind it was made as.
    fn unwrapped(
        &mut self,
        wrapped: &Wrapped,
        extractable: Extractable,
    ) -> Result<ObjectHandle, OpError> {
        let way = self.way_of(wrapped.mechanism)?;
        let kek = self.wrapping_kek(wrapped.number, &wrapped.by)?;
        let mut template = self.template(wrapped.kind, extractable);
        if way.value_len && wrapped.kind == KeyKind::Aes {
            let len = wrapped.key.len().saturating_sub(8);
            template.push(Attribute::ValueLen((len as u64).into()));
        }
        let mechanism = way.mechanism.bare();
        let unwrapped = self.session()?.unwrap_key(&mechanism, kek, &wrapped.key, &template);
        // The sealing around it was opened, so nobody changed it.
        unwrapped.map_err(|error| self.judge(error))
    }

    fn open_wrapped(&self, aad: &[u8], sealed: &Sealed) -> Result<Wrapped, OpError> {
        let blob = self.open_sealed(aad, sealed)?;
        blob.expose(|bytes| postcard::from_bytes(bytes))
            .map_err(|_| OpError::Answer(HsmError::Refused("it holds no wrapped key".into())))
    }

    fn way_of(&self, mechanism: u64) -> Result<Wrap, OpError> {
        let mut ways = self.profile.wrap.iter();
        let found = ways.find(|way| *way.mechanism.kind == mechanism);
        found.cloned().ok_or_else(|| {
            unsupported(format!(
                "the profile {} no longer wraps by mechanism {mechanism:#x}, by which this key \
                 was wrapped: list it in the profile again",
                self.profile.name
            ))
        })
    }

    /// The way to wrap a key of `kind`. Private keys in PKCS #8 have odd lengths; what RFC 3394
    /// adds to them is not part of their DER, so it does as well.
    pub(super) fn way_for(&self, kind: KeyKind) -> Result<Wrap, OpError> {
        let ways = || self.profile.wrap.iter();
        let odd = ways().find(|way| way.form == WrapForm::Kwp && way.multiple == 1);
        let way = odd.filter(|_| kind.is_pair()).or(ways().next()).cloned();
        way.ok_or_else(|| unsupported("the token wraps no keys".to_owned()))
    }

    /// A key that wraps in epoch `number`, by its `CKA_ID`.
    fn wrapping_kek(&mut self, number: u64, id: &[u8]) -> Result<ObjectHandle, OpError> {
        let entry = (number, id.to_vec());
        if let Some(handle) = self.wrapping.get(&entry) {
            return Ok(*handle);
        }
        let found = kek::wrapping(self.session()?, &self.prefix, number, Some(id), &self.profile);
        let found = found.map_err(|error| self.judged(error))?;
        let (_, handle) = found.ok_or_else(|| self.no_wrapping(number))?;
        self.wrapping.insert(entry, handle);
        Ok(handle)
    }

    fn no_wrapping(&mut self, number: u64) -> OpError {
        match self.round_trip(None) {
            Ok(()) => unsupported(format!(
                "the token does not hold the key {}w-{number} that wraps the keys of its epoch: \
                 restore it from the HSM's backup",
                self.prefix
            )),
            // Logged out, a session sees no keys.
            Err(gone) => gone,
        }
    }

    /// The `CKA_ID` of a key that wraps in epoch `number`.
    fn wrapping_id(&mut self, number: u64) -> Result<Vec<u8>, OpError> {
        let of_epoch = (number, Vec::new())..=(number, vec![u8::MAX; kek::KEK_ID_BYTES as usize]);
        if let Some(((_, id), _)) = self.wrapping.range(of_epoch).next() {
            return Ok(id.clone());
        }
        let (session, prefix, profile) = (self.session()?, &self.prefix, &self.profile);
        let found = kek::wrapping(session, prefix, number, None, profile);
        let found = found.map_err(|error| self.judged(error))?;
        let (id, handle) = found.ok_or_else(|| self.no_wrapping(number))?;
        self.wrapping.insert((number, id.clone()), handle);
        Ok(id)
    }

    /// Makes a key that leaves the token only wrapped, proves that it comes back, and seals it.
    pub(crate) fn make_key(
        &mut self,
        aad: &[u8],
        kind: KeyKind,
        bits: u32,
    ) -> Result<MadeKey, OpError> {
        if self.profile.keys.token_objects_only {
            return Err(unsupported("the token has no objects for a session".to_owned()));
        }
        let (handle, public, mut made) = self.generate(kind, bits)?;
        let way = self.way_for(kind);
        let done = way.and_then(|way| self.wrap_and_prove(aad, kind, handle, &public, &way));
        for handle in made.drain(..) {
            self.destroy(handle)?;
        }
        Ok(MadeKey { sealed: done?, public })
    }

    /// Wraps and seals a key anew for the current KEK.
    pub(crate) fn rewrap_key(&mut self, aad: &[u8], sealed: &Sealed) -> Result<Sealed, OpError> {
        let wrapped = self.open_wrapped(aad, sealed)?;
        let handle = self.unwrapped(&wrapped, Extractable::Yes)?;
        let way = self.way_for(wrapped.kind);
        let done = way.and_then(|way| self.wrap_and_prove(aad, wrapped.kind, handle, &None, &way));
        self.destroy(handle)?;
        done
    }

    pub(super) fn wrap_and_prove(
        &mut self,
        aad: &[u8],
        kind: KeyKind,
        handle: ObjectHandle,
        public: &Option<Vec<u8>>,
        way: &Wrap,
    ) -> Result<Sealed, OpError> {
        let number = self.connection.keks.current().ok_or_else(super::no_kek)?.number;
        let by = self.wrapping_id(number)?;
        let kek = self.wrapping_kek(number, &by)?;
        let key = self.session()?.wrap_key(&way.mechanism.bare(), kek, handle);
        let key = key.map_err(|error| self.judge(error))?;
        let wrapped = Wrapped { number, by, mechanism: *way.mechanism.kind, kind, key };
        let back = self.unwrapped(&wrapped, Extractable::No)?;
        let same = self.is_same(kind, handle, back, public);
        self.destroy(back)?;
        if !same? {
            return Err(unsupported("keys come back from the token's wrapping changed".into()));
        }
        let blob = postcard::to_allocvec(&wrapped).unwrap_or_default();
        self.seal(aad, &ClearBytes::from_vec(blob))
    }

    /// Whether both handles are of one key, as far as using them shows.
    pub(super) fn is_same(
        &mut self,
        kind: KeyKind,
        one: ObjectHandle,
        other: ObjectHandle,
        public: &Option<Vec<u8>>,
    ) -> Result<bool, OpError> {
        let hash = Hash::Sha256;
        let action = match kind {
            KeyKind::Aes => Action::Encrypt(Cipher::Ecb { padded: false }),
            KeyKind::Hmac => Action::Mac(hash),
            KeyKind::Rsa => Action::Sign(Scheme::RsaPkcs1(hash)),
            KeyKind::Ec(_) => Action::Sign(Scheme::Ecdsa(hash)),
            KeyKind::Ed25519 => Action::Sign(Scheme::Ed25519),
            KeyKind::X25519 => Action::Agree,
            KeyKind::TripleDes => Action::Encrypt(Cipher::Cbc8 { iv: [0; 8], padded: false }),
            KeyKind::Local(_) => {
                return Err(unsupported("no token is asked for it".to_owned()));
            }
            KeyKind::MlDsa(_) => Action::Sign(Scheme::MlDsa),
        };
        let input = match action {
            Action::Agree => &der::x25519_public(&BASE_POINT)[..],
            _ => &TRIAL,
        };
        let answer = match self.act(kind, other, &action, input) {
            Err(OpError::Token(error)) => return Err(self.judge(error)),
            answer => answer?,
        };
        match (&action, public) {
            (Action::Sign(scheme), Some(key)) => Ok(answer
                .expose(|signature| public::verify(kind, *scheme, key, &TRIAL, signature))
                .unwrap_or(false)),
            // Its signatures differ from each other; that it signs has to do.
            (Action::Sign(Scheme::Ecdsa(_) | Scheme::MlDsa), None) => Ok(true),
            // With the base point it gives the public key.
            (Action::Agree, Some(key)) => Ok(answer.expose(|point| key.ends_with(point))),
            _ => Ok(self.act(kind, one, &action, input)? == answer),
        }
    }

    /// A session object of `kind` with the uses of its kind and no other.
    pub(super) fn template(&self, kind: KeyKind, extractable: Extractable) -> Vec<Attribute> {
        let (class, key_type) = match kind {
            KeyKind::Aes => (ObjectClass::SECRET_KEY, KeyType::AES),
            KeyKind::Hmac | KeyKind::Local(_) => (ObjectClass::SECRET_KEY, KeyType::GENERIC_SECRET),
            KeyKind::TripleDes => (ObjectClass::SECRET_KEY, KeyType::DES3),
            KeyKind::Rsa => (ObjectClass::PRIVATE_KEY, KeyType::RSA),
            KeyKind::Ec(_) => (ObjectClass::PRIVATE_KEY, KeyType::EC),
            KeyKind::Ed25519 => (ObjectClass::PRIVATE_KEY, KeyType::EC_EDWARDS),
            KeyKind::X25519 => (ObjectClass::PRIVATE_KEY, KeyType::EC_MONTGOMERY),
            KeyKind::MlDsa(_) => (ObjectClass::PRIVATE_KEY, KeyType::ML_DSA),
        };
        let mut template = vec![
            Attribute::Class(class),
            Attribute::KeyType(key_type),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(extractable == Extractable::Yes),
        ];
        let has = |mechanism| self.connection.mechanisms.contains(&mechanism);
        match kind {
            KeyKind::Aes | KeyKind::TripleDes => {
                template.extend([Attribute::Encrypt(true), Attribute::Decrypt(true)]);
            }
            KeyKind::Hmac => {
                template.push(Attribute::Sign(true));
                template.extend(has(MechanismType::HKDF_DERIVE).then_some(Attribute::Derive(true)));
            }
            KeyKind::Rsa => template.extend([Attribute::Sign(true), Attribute::Decrypt(true)]),
            KeyKind::Ec(_) => {
                template.push(Attribute::Sign(true));
                template
                    .extend(has(MechanismType::ECDH1_DERIVE).then_some(Attribute::Derive(true)));
            }
            KeyKind::Ed25519 | KeyKind::MlDsa(_) => template.push(Attribute::Sign(true)),
            KeyKind::X25519 => template.push(Attribute::Derive(true)),
            KeyKind::Local(_) => {}
        }
        let role = if kind.is_pair() { Role::Private } else { Role::Secret };
        self.profile.keys.shape(role, Kind::of(kind), &mut template);
        template
    }
}

/// Whether a session object may be wrapped; it never is readable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extractable {
    Yes,
    No,
}
