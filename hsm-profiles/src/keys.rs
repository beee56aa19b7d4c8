//! Keys into the token and out of it, as the profile says. Enter through [`wrap`], [`unwrap`] and
//! [`import`].

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use km_core::material::ClearBytes;
use zeroize::Zeroize;

use crate::profile::{Import, Profile, Wrap};

const CBC_IV_BYTES: usize = 16;

/// Wraps the object `key` under `kek`.
pub(crate) fn wrap(
    session: &Session,
    way: &Wrap,
    kek: ObjectHandle,
    key: ObjectHandle,
) -> Result<Vec<u8>, Error> {
    session.wrap_key(&way.mechanism.bare(), kek, key)
}

/// Unwraps into a new object as `template` says; `len` is the length of the key in bytes.
pub(crate) fn unwrap(
    session: &Session,
    way: &Wrap,
    kek: ObjectHandle,
    wrapped: &[u8],
    len: usize,
    template: &[Attribute],
) -> Result<ObjectHandle, Error> {
    let mut template = template.to_vec();
    if way.value_len {
        template.push(Attribute::ValueLen((len as u64).into()));
    }
    session.unwrap_key(&way.mechanism.bare(), kek, wrapped, &template)
}

/// Makes an object of key bytes that this process has. `template` says what it may do, without
/// class and value.
pub(crate) fn import(
    session: &Session,
    profile: &Profile,
    template: &[Attribute],
    clear: &ClearBytes,
) -> Result<ObjectHandle, Error> {
    let mut template = template.to_vec();
    template.push(Attribute::Class(ObjectClass::SECRET_KEY));
    profile.keys.fit(&mut template);
    match profile.keys.import {
        Import::Create => {
            template.push(Attribute::Value(clear.expose(<[u8]>::to_vec)));
            let made = session.create_object(&template);
            if let Some(Attribute::Value(bytes)) = template.last_mut() {
                bytes.zeroize();
            }
            made
        }
        Import::EncryptThenUnwrap => by_unwrapping(session, profile, &template, clear),
        Import::Refused => Err(Error::NotSupported),
    }
}

/// Makes an object as `template` says, class included, of clear bytes that go in encrypted under a
/// key that the token makes for this and forgets. Private keys are PKCS #8.
pub(crate) fn by_unwrapping(
    session: &Session,
    profile: &Profile,
    template: &[Attribute],
    clear: &ClearBytes,
) -> Result<ObjectHandle, Error> {
    let mut carrier = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(32.into()),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Unwrap(true),
    ];
    profile.keys.fit(&mut carrier);
    let carrier = session.generate_key(&Mechanism::AesKeyGen, &carrier)?;
    let mut iv = [0; CBC_IV_BYTES];
    let made = session.generate_random_slice(&mut iv).and_then(|()| {
        let cbc = Mechanism::AesCbcPad(iv);
        let encrypted = clear.expose(|bytes| session.encrypt(&cbc, carrier, bytes))?;
        session.unwrap_key(&cbc, carrier, &encrypted, template)
    });
    match session.destroy_object(carrier) {
        Ok(()) | Err(Error::Pkcs11(RvError::ObjectHandleInvalid, _)) => made,
        Err(error) => Err(error),
    }
}
