//! Sealing as the profile says, opening as the sealed message says. Enter through [`Lane::seal`]
//! and [`Lane::open_sealed`].

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use km_core::hsm::{HsmError, KekId, KeyProtection, SEALED_FORMAT, SealMethod, Sealed};
use km_core::material::ClearBytes;
use wiped::Wiped;

use super::gcm::{self, IV_BYTES, MAX_IV_BYTES, TAG_BYTES};
use super::{Lane, OpError, no_kek};
use crate::kek::{Kek, Usage};
use crate::profile::{MechanismName, Protection, SealBy};

const DATA_KEY_BYTES: usize = 32;
/// AES key wrap adds its check value of 64 bits, with padding or not: a data key needs none.
const WRAPPED_BYTES: usize = DATA_KEY_BYTES + 8;
const CBC_IV_BYTES: usize = 16;
/// Tells an encrypted data key from a message of that length.
const DATA_KEY_AAD: &[u8] = b"qkm data key 1\0";

impl Lane {
    /// Seals under the current KEK.
    pub(crate) fn seal(&self, aad: &[u8], clear: &ClearBytes) -> Result<Sealed, OpError> {
        let kek = self.connection.keks.current().cloned().ok_or_else(no_kek)?;
        self.seal_under(&kek, kek.used, aad, clear)
    }

    /// Seals with the object `handle` of `kek`, in the way that this KEK allows.
    pub(super) fn seal_under(
        &self,
        kek: &Kek,
        handle: ObjectHandle,
        aad: &[u8],
        clear: &ClearBytes,
    ) -> Result<Sealed, OpError> {
        kek.count_seal().map_err(OpError::Answer)?;
        let iv = self.next_iv()?;
        let seal = &self.profile.seal;
        let by_cbc = (seal.method, seal.protection) == (SealBy::WrappedKeyGcm, Protection::Cbc);
        let too_long = seal.in_token_bytes.is_some_and(|most| clear.len() > most);
        let (protection, data_key, key) = match kek.usage {
            Usage::Wraps => self.wrapped_data_key(handle)?,
            Usage::Encrypts if by_cbc => self.data_key_by_cbc(handle)?,
            Usage::Encrypts if too_long => self.data_key_by_gcm(handle)?,
            Usage::Encrypts => return self.seal_in_token(kek, handle, iv, aad, clear),
        };
        let method = SealMethod::WrappedKeyGcm { protection, data_key };
        let mut text = Wiped::with_capacity(clear.len() + TAG_BYTES);
        clear.expose(|bytes| text.append(bytes));
        let nonce = Nonce::assume_unique_for_key(iv);
        let aad = Aad::from(method.associated_data(aad));
        let done = in_process(&key)?.seal_in_place_append_tag(nonce, aad, text.as_vec_mut());
        done.map_err(|_| OpError::Answer(HsmError::Unsupported("AES-GCM failed".to_owned())))?;
        Ok(Sealed::new(kek.id.clone(), method, iv.to_vec(), text.into_vec()))
    }

    fn seal_in_token(
        &self,
        kek: &Kek,
        handle: ObjectHandle,
        iv: [u8; IV_BYTES],
        aad: &[u8],
        clear: &ClearBytes,
    ) -> Result<Sealed, OpError> {
        let method = SealMethod::TokenGcm;
        let aad = method.associated_data(aad);
        let (session, seal) = (self.session()?, &self.profile.seal);
        let (iv, ciphertext) =
            clear.expose(|bytes| gcm::encrypt(session, handle, seal, iv, &aad, bytes))?;
        Ok(Sealed::new(kek.id.clone(), method, iv, ciphertext))
    }

    /// Opens what any profile sealed under a KEK that the token holds.
    pub(crate) fn open_sealed(&self, aad: &[u8], sealed: &Sealed) -> Result<ClearBytes, OpError> {
        if sealed.format != SEALED_FORMAT {
            return Err(OpError::Answer(HsmError::Unsupported(format!(
                "the data is sealed in format {}, this version reads {SEALED_FORMAT}: use the \
                 version that wrote it, or a newer one",
                sealed.format
            ))));
        }
        let kek = self.kek(&sealed.kek)?;
        let bound = sealed.method.associated_data(aad);
        match &sealed.method {
            SealMethod::TokenGcm => {
                let handle = usable(kek, Usage::Encrypts)?;
                let (session, seal) = (self.session()?, &self.profile.seal);
                // cryptoki's output vector becomes the clear bytes as it is, spare room included.
                let clear =
                    gcm::decrypt(session, handle, seal, &sealed.iv, &bound, &sealed.ciphertext)?;
                let clear = ClearBytes::from_vec(clear);
                if clear.len() + TAG_BYTES != sealed.ciphertext.len() {
                    return Err(Error::InvalidValue.into());
                }
                Ok(clear)
            }
            SealMethod::WrappedKeyGcm { protection, data_key } => {
                let key = self.data_key(kek, protection, data_key)?;
                opened(&key, &sealed.iv, bound, &sealed.ciphertext)
            }
        }
    }

    /// Whether this KEK was there when KEKs were looked for last.
    pub(crate) fn holds(&self, id: &KekId) -> bool {
        self.connection.keks.get(id).is_some()
    }

    fn kek(&self, id: &KekId) -> Result<&Kek, OpError> {
        self.connection.keks.get(id).ok_or_else(|| {
            OpError::Answer(HsmError::Unsupported(format!(
                "the token does not hold KEK {}: restore that key, or connect the token that \
                 sealed this data",
                id.0
            )))
        })
    }

    /// A data key made in the token, wrapped by the KEK.
    fn wrapped_data_key(
        &self,
        kek: ObjectHandle,
    ) -> Result<(KeyProtection, Vec<u8>, ClearBytes), OpError> {
        let session = self.session()?;
        let mut template = data_key_template();
        template.push(Attribute::ValueLen((DATA_KEY_BYTES as u64).into()));
        let object = session.generate_key(&Mechanism::AesKeyGen, &template)?;
        let (protection, mechanism) = match self.profile.seal.protection {
            Protection::KeyWrapPadded => {
                (KeyProtection::KeyWrapPadded, self.profile.key_wrap_padded())
            }
            _ => (KeyProtection::KeyWrap, self.profile.key_wrap()),
        };
        let made = session
            .wrap_key(&mechanism.bare(), kek, object)
            .map_err(OpError::from)
            .and_then(|wrapped| Ok((wrapped, self.tested(self.value(object)?)?)));
        session.destroy_object(object)?;
        let (wrapped, key) = made?;
        if wrapped.len() != WRAPPED_BYTES {
            return Err(Error::InvalidValue.into());
        }
        Ok((protection, wrapped, key))
    }

    /// A data key from the token's generator, encrypted by the KEK.
    fn data_key_by_cbc(
        &self,
        kek: ObjectHandle,
    ) -> Result<(KeyProtection, Vec<u8>, ClearBytes), OpError> {
        let session = self.session()?;
        let key = self.tested(self.random(DATA_KEY_BYTES as u32)?)?;
        let mut iv = [0; CBC_IV_BYTES];
        session.generate_random_slice(&mut iv)?;
        let encrypted = key.expose(|bytes| session.encrypt(&Mechanism::AesCbc(iv), kek, bytes))?;
        if encrypted.len() != DATA_KEY_BYTES {
            return Err(Error::InvalidValue.into());
        }
        Ok((KeyProtection::Cbc { iv }, encrypted, key))
    }

    /// As [`Lane::data_key_by_cbc`], by AES-GCM.
    fn data_key_by_gcm(
        &self,
        kek: ObjectHandle,
    ) -> Result<(KeyProtection, Vec<u8>, ClearBytes), OpError> {
        let key = self.tested(self.random(DATA_KEY_BYTES as u32)?)?;
        let iv = self.next_iv()?;
        let (session, seal) = (self.session()?, &self.profile.seal);
        let encrypted =
            key.expose(|bytes| gcm::encrypt(session, kek, seal, iv, DATA_KEY_AAD, bytes))?;
        let (iv, encrypted) = encrypted;
        Ok((KeyProtection::Gcm { iv }, encrypted, key))
    }

    /// The clear data key of a message.
    fn data_key(
        &self,
        kek: &Kek,
        protection: &KeyProtection,
        data_key: &[u8],
    ) -> Result<ClearBytes, OpError> {
        let session = self.session()?;
        let (expected, usage) = match protection {
            KeyProtection::KeyWrap | KeyProtection::KeyWrapPadded => (WRAPPED_BYTES, Usage::Wraps),
            KeyProtection::Cbc { .. } => (DATA_KEY_BYTES, Usage::Encrypts),
            KeyProtection::Gcm { .. } => (DATA_KEY_BYTES + TAG_BYTES, Usage::Encrypts),
        };
        let handle = usable(kek, usage)?;
        if data_key.len() != expected {
            return Err(refused("its data key has the wrong length"));
        }
        match protection {
            KeyProtection::KeyWrap => {
                self.unwrapped_data_key(&self.profile.key_wrap(), handle, data_key)
            }
            KeyProtection::KeyWrapPadded => {
                self.unwrapped_data_key(&self.profile.key_wrap_padded(), handle, data_key)
            }
            KeyProtection::Cbc { iv } => {
                let key = session.decrypt(&Mechanism::AesCbc(*iv), handle, data_key)?;
                Ok(ClearBytes::from_vec(key))
            }
            KeyProtection::Gcm { iv } if !(IV_BYTES..=MAX_IV_BYTES).contains(&iv.len()) => {
                Err(refused("its data key has a nonce of the wrong length"))
            }
            KeyProtection::Gcm { iv } => {
                let seal = &self.profile.seal;
                let key = gcm::decrypt(session, handle, seal, iv, DATA_KEY_AAD, data_key)?;
                Ok(ClearBytes::from_vec(key))
            }
        }
    }

    /// The clear bytes of a data key that the KEK wrapped.
    fn unwrapped_data_key(
        &self,
        by: &MechanismName,
        kek: ObjectHandle,
        data_key: &[u8],
    ) -> Result<ClearBytes, OpError> {
        let session = self.session()?;
        let object = session.unwrap_key(&by.bare(), kek, data_key, &data_key_template())?;
        let key = self.value(object);
        session.destroy_object(object)?;
        key
    }

    /// The clear bytes of a session object that allows it.
    fn value(&self, object: ObjectHandle) -> Result<ClearBytes, OpError> {
        let found = self.session()?.get_attributes(object, &[AttributeType::Value])?;
        match found.into_iter().next() {
            Some(Attribute::Value(bytes)) if bytes.len() == DATA_KEY_BYTES => {
                Ok(ClearBytes::from_vec(bytes))
            }
            _ => Err(OpError::Answer(HsmError::Unsupported(
                "the token shows no data key to the host: use a profile with seal.protection = \
                 \"cbc\", or one that seals in the token"
                    .to_owned(),
            ))),
        }
    }
}

/// A session object that wraps and that the host may read, for the time of one message.
fn data_key_template() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
    ]
}

/// The working object of a KEK that has the use that the message says it was sealed with.
fn usable(kek: &Kek, usage: Usage) -> Result<ObjectHandle, OpError> {
    if kek.usage == usage {
        return Ok(kek.used);
    }
    Err(refused(&format!("KEK {} may not {usage}, so it cannot have sealed this", kek.id.0)))
}

fn in_process(key: &ClearBytes) -> Result<LessSafeKey, OpError> {
    let key = key.expose(|bytes| UnboundKey::new(&AES_256_GCM, bytes));
    key.map(LessSafeKey::new).map_err(|_| refused("its data key has the wrong length"))
}

/// Opens in this process. A tag that does not fit says nothing about the token, which gave a key.
fn opened(
    key: &ClearBytes,
    iv: &[u8],
    aad: Vec<u8>,
    ciphertext: &[u8],
) -> Result<ClearBytes, OpError> {
    let tag = |_| refused("it was changed, or belongs to another record, or was sealed elsewhere");
    let nonce = Nonce::try_assume_unique_for_key(iv).map_err(tag)?;
    let mut text = Wiped::copy_of(ciphertext);
    let clear = in_process(key)?.open_in_place(nonce, Aad::from(aad), &mut text).map_err(tag)?;
    let len = clear.len();
    text.truncate(len);
    Ok(text.into())
}

fn refused(why: &str) -> OpError {
    OpError::Answer(HsmError::Refused(why.to_owned()))
}
