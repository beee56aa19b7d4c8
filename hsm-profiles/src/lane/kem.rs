//! Key encapsulation in the token (PKCS#11 3.2, ML-KEM). Pairs are objects of the session that holds
//! the login, so they outlive errors of other sessions and go with the login.
//!
//! The secret that comes of it leaves the token: it is combined outside it.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{
    Attribute, AttributeType, KeyType, MlKemParameterSetType, ObjectClass, ObjectHandle,
};
use cryptoki::session::Session;
use km_core::hsm::HsmError;
use km_core::material::ClearBytes;
use km_core::usage::kem::{KemSet, SECRET_BYTES};
use lru::LruCache;

use super::{Lane, OpError};
use crate::fault::{Fault, classify};
use crate::link::code;
use crate::profile::{Kind, Role};

/// Pairs of one login, at most; the one used longest ago makes room.
const PAIRS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);
const NAME_BYTES: u32 = 16;

/// The private keys of one login, by name.
pub(crate) struct Pairs(Mutex<LruCache<Vec<u8>, ObjectHandle>>);

impl Default for Pairs {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(PAIRS)))
    }
}

impl Pairs {
    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<Vec<u8>, ObjectHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// Makes a pair: its name, and its public key.
    pub(crate) fn kem_key_pair(&mut self, set: KemSet) -> Result<(Vec<u8>, Vec<u8>), OpError> {
        self.check_mechanism(&MechanismType::ML_KEM_KEY_PAIR_GEN)?;
        self.check_mechanism(&MechanismType::ML_KEM)?;
        let mut open = vec![
            Attribute::Token(false),
            Attribute::Private(false),
            Attribute::ParameterSet(parameters(set).into()),
            Attribute::Encapsulate(true),
        ];
        let mut secret = vec![
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Decapsulate(true),
        ];
        let (keys, kind) = (&self.profile.keys, Some(Kind::MlKem));
        keys.shape(Role::Public, kind, &mut open);
        keys.shape(Role::Private, kind, &mut secret);
        let name = self.session()?.generate_random_vec(NAME_BYTES)?;
        let pairs = &self.connection.pairs;
        let made = self.connection.anchored(|session| {
            let pair = session.generate_key_pair(&Mechanism::MlKemKeyPairGen, &open, &secret);
            let (open, secret) = pair?;
            // From here on the private key makes room as every other, also after an error.
            let old = pairs.lock().push(name.clone(), secret);
            let public = value(session, open);
            session.destroy_object(open)?;
            if let Some((_, old)) = old {
                session.destroy_object(old)?;
            }
            public
        });
        made.map(|public| (name, public)).map_err(|error| self.judged(error))
    }

    /// A fresh secret, and its ciphertext for the holder of the private key to `public`, which was
    /// checked before.
    pub(crate) fn kem_encapsulate(
        &mut self,
        set: KemSet,
        public: &[u8],
    ) -> Result<(Vec<u8>, ClearBytes), OpError> {
        self.check_mechanism(&MechanismType::ML_KEM)?;
        let mut template = vec![
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::ML_KEM),
            Attribute::Token(false),
            Attribute::Private(false),
            Attribute::ParameterSet(parameters(set).into()),
            Attribute::Value(public.to_vec()),
            Attribute::Encapsulate(true),
        ];
        self.profile.keys.shape(Role::Public, Some(Kind::MlKem), &mut template);
        let done = self.encapsulated(&template);
        done.map_err(|error| self.judge_kem(error))
    }

    fn encapsulated(&self, template: &[Attribute]) -> Result<(Vec<u8>, ClearBytes), OpError> {
        let session = self.session()?;
        let public = session.create_object(template)?;
        let done = session.encapsulate_key(&Mechanism::MlKem, public, &secret_template());
        session.destroy_object(public)?;
        let (ciphertext, secret) = done?;
        Ok((ciphertext, taken(session, secret, SECRET_BYTES)?))
    }

    /// The secret in `ciphertext`, by the private key `name`.
    pub(crate) fn kem_decapsulate(
        &mut self,
        name: &[u8],
        ciphertext: &[u8],
    ) -> Result<ClearBytes, OpError> {
        let pairs = &self.connection.pairs;
        let done = self.connection.anchored(|session| {
            let key = pairs.lock().get(name).copied().ok_or_else(|| {
                let text = "the token does not hold this ML-KEM pair any more: make another";
                OpError::Answer(HsmError::Unsupported(text.to_owned()))
            })?;
            let mechanism = Mechanism::MlKem;
            let secret =
                session.decapsulate_key(&mechanism, key, &secret_template(), ciphertext)?;
            taken(session, secret, SECRET_BYTES)
        });
        done.map_err(|error| self.judge_kem(error))
    }

    /// Key and ciphertext come from another key manager: what the token says of them costs no session,
    /// nor the keys at hand in it, while the token works otherwise.
    fn judge_kem(&mut self, error: OpError) -> OpError {
        let error = match error {
            OpError::Token(error) if classify(&error, &self.profile.errors) == Fault::Data => error,
            other => return self.judged(other),
        };
        match self.round_trip(None) {
            Ok(()) => OpError::Answer(HsmError::Input(format!(
                "the token does not take an ML-KEM key or ciphertext: {}",
                code(&error)
            ))),
            Err(sick) => sick,
        }
    }

    /// Destroys the private key `name`; what is not there is no error.
    pub(crate) fn kem_forget(&mut self, name: &[u8]) -> Result<(), OpError> {
        let pairs = &self.connection.pairs;
        self.connection.anchored(|session| match pairs.lock().pop(name) {
            Some(handle) => Ok(session.destroy_object(handle)?),
            None => Ok(()),
        })
    }
}

fn parameters(set: KemSet) -> MlKemParameterSetType {
    match set {
        KemSet::MlKem768 => MlKemParameterSetType::ML_KEM_768,
        KemSet::MlKem1024 => MlKemParameterSetType::ML_KEM_1024,
    }
}

/// A secret that may be read once, and is destroyed then.
pub(crate) fn secret_template() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ]
}

/// The value of a secret of `expected` bytes, which is destroyed.
pub(crate) fn taken(
    session: &Session,
    secret: ObjectHandle,
    expected: usize,
) -> Result<ClearBytes, OpError> {
    let bytes = value(session, secret).map(ClearBytes::from_vec);
    session.destroy_object(secret)?;
    let bytes = bytes?;
    match bytes.len() {
        len if len == expected => Ok(bytes),
        len => Err(OpError::Answer(HsmError::Unsupported(format!(
            "the token's secret has {len} bytes, not {expected}"
        )))),
    }
}

pub(crate) fn value(session: &Session, handle: ObjectHandle) -> Result<Vec<u8>, OpError> {
    match session.get_attributes(handle, &[AttributeType::Value])?.into_iter().next() {
        Some(Attribute::Value(bytes)) => Ok(bytes),
        _ => Err(OpError::Answer(HsmError::Unsupported(
            "the token does not show the value of a public key or of a secret made to be read"
                .to_owned(),
        ))),
    }
}
