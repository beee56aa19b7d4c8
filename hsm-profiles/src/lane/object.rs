//! Data kept inside the token, as private data objects (`CKO_DATA`) found by their label. Not for
//! hot paths: SoftHSM makes some ten a second, and looks through all objects to find one. A session that
//! was logged out sees none of them: that there are no more is said only by one that works.

use cryptoki::error::{Error, RvError};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use km_core::hsm::HsmError;
use km_core::material::ClearBytes;
use zeroize::Zeroize;

use super::{Lane, OpError};

/// Marks what is ours in a token that others use too.
const APPLICATION: &[u8] = b"qkm";

impl Lane {
    /// Keeps `clear` as `name`. An equal object of that name is left as it is.
    pub(crate) fn store_object(&self, name: &str, clear: &ClearBytes) -> Result<(), OpError> {
        if let Some(handle) = self.named(name)?.first() {
            // Made by a try whose answer was lost.
            return match self.kept(*handle)? == *clear {
                true => Ok(()),
                false => Err(OpError::Answer(HsmError::Unsupported(format!(
                    "the token has another object {name:?}"
                )))),
            };
        }
        let mut template = ours();
        template.push(Attribute::Label(name.as_bytes().to_vec()));
        template.push(Attribute::Value(clear.expose(<[u8]>::to_vec)));
        let created = self.session()?.create_object(&template);
        if let Some(Attribute::Value(bytes)) = template.last_mut() {
            bytes.zeroize();
        }
        match created {
            Err(Error::Pkcs11(RvError::DeviceMemory, _)) => {
                Err(OpError::Answer(HsmError::Full("it has no room for another object".to_owned())))
            }
            created => Ok(created.map(drop)?),
        }
    }

    /// The bytes kept as `name`.
    pub(crate) fn read_object(&mut self, name: &str) -> Result<ClearBytes, OpError> {
        match self.named(name)?.first() {
            Some(handle) => self.kept(*handle),
            None => {
                self.round_trip(None)?;
                Err(OpError::Answer(HsmError::Refused(format!("the token has no object {name:?}"))))
            }
        }
    }

    /// Destroys what is kept as `name`; what is not there is no error.
    pub(crate) fn delete_object(&mut self, name: &str) -> Result<(), OpError> {
        for handle in self.named(name)? {
            self.session()?.destroy_object(handle)?;
        }
        self.round_trip(None)
    }

    /// The names of all objects of ours that begin with `prefix`.
    pub(crate) fn object_names(&mut self, prefix: &str) -> Result<Vec<String>, OpError> {
        let session = self.session()?;
        let mut names = Vec::new();
        for handle in session.find_objects(&ours())? {
            for attribute in session.get_attributes(handle, &[AttributeType::Label])? {
                if let Attribute::Label(label) = attribute
                    && let Ok(name) = String::from_utf8(label)
                    && name.starts_with(prefix)
                {
                    names.push(name);
                }
            }
        }
        self.round_trip(None)?;
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn named(&self, name: &str) -> Result<Vec<ObjectHandle>, OpError> {
        let mut template = ours();
        template.push(Attribute::Label(name.as_bytes().to_vec()));
        Ok(self.session()?.find_objects(&template)?)
    }

    /// cryptoki's output vector becomes the [`ClearBytes`] as it is.
    fn kept(&self, handle: ObjectHandle) -> Result<ClearBytes, OpError> {
        let found = self.session()?.get_attributes(handle, &[AttributeType::Value])?;
        match found.into_iter().next() {
            Some(Attribute::Value(bytes)) => Ok(ClearBytes::from_vec(bytes)),
            _ => Err(Error::InvalidValue.into()),
        }
    }
}

fn ours() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Application(APPLICATION.to_vec()),
    ]
}
