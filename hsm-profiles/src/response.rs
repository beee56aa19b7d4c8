//! What a session thread answers to a [`Request`](crate::request::Request).

use km_core::hsm::{HsmError, KekInfo, KekParcel, KekReceiver, MadeKey, Sealed, TokenRoom};
use km_core::material::ClearBytes;
use serde::{Deserialize, Serialize};

use crate::wire;

/// What comes back for a [`Request`](crate::request::Request) that was carried out.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Response {
    Sealed(Sealed),
    Clear(#[serde(with = "wire::clear")] ClearBytes),
    /// One result of each use, in their order.
    Used(#[serde(with = "wire::results")] Vec<ClearBytes>),
    Kek(KekInfo),
    Keks(Vec<KekInfo>),
    KekMade(KekInfo, Vec<KekParcel>),
    Receiver(KekReceiver),
    Made(MadeKey),
    Names(Vec<String>),
    Room(TokenRoom),
    Pair {
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        #[serde(with = "serde_bytes")]
        public: Vec<u8>,
    },
    Encapsulated {
        #[serde(with = "serde_bytes")]
        ciphertext: Vec<u8>,
        #[serde(with = "wire::clear")]
        secret: ClearBytes,
    },
    Done,
}

impl Response {
    pub(crate) fn sealed(self) -> Result<Sealed, HsmError> {
        match self {
            Self::Sealed(sealed) => Ok(sealed),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn clear(self) -> Result<ClearBytes, HsmError> {
        match self {
            Self::Clear(clear) => Ok(clear),
            other => Err(other.unexpected()),
        }
    }

    /// Of `count` uses.
    pub(crate) fn used(self, count: usize) -> Result<Vec<ClearBytes>, HsmError> {
        match self {
            Self::Used(results) if results.len() == count => Ok(results),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn kek(self) -> Result<KekInfo, HsmError> {
        match self {
            Self::Kek(kek) => Ok(kek),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn kek_made(self) -> Result<(KekInfo, Vec<KekParcel>), HsmError> {
        match self {
            Self::KekMade(kek, parcels) => Ok((kek, parcels)),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn receiver(self) -> Result<KekReceiver, HsmError> {
        match self {
            Self::Receiver(receiver) => Ok(receiver),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn keks(self) -> Result<Vec<KekInfo>, HsmError> {
        match self {
            Self::Keks(keks) => Ok(keks),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn names(self) -> Result<Vec<String>, HsmError> {
        match self {
            Self::Names(names) => Ok(names),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn room(self) -> Result<TokenRoom, HsmError> {
        match self {
            Self::Room(room) => Ok(room),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn done(self) -> Result<(), HsmError> {
        match self {
            Self::Done => Ok(()),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn made(self) -> Result<MadeKey, HsmError> {
        match self {
            Self::Made(made) => Ok(made),
            other => Err(other.unexpected()),
        }
    }

    /// Name and public key.
    pub(crate) fn pair(self) -> Result<(Vec<u8>, Vec<u8>), HsmError> {
        match self {
            Self::Pair { name, public } => Ok((name, public)),
            other => Err(other.unexpected()),
        }
    }

    pub(crate) fn encapsulated(self) -> Result<(Vec<u8>, ClearBytes), HsmError> {
        match self {
            Self::Encapsulated { ciphertext, secret } => Ok((ciphertext, secret)),
            other => Err(other.unexpected()),
        }
    }

    /// The answer to another question: only a worker process gone wrong sends one.
    fn unexpected(&self) -> HsmError {
        let kind = match self {
            Self::Sealed(_) => "sealed data",
            Self::Clear(_) => "clear bytes",
            Self::Used(_) => "results of uses",
            Self::Kek(_) => "a KEK",
            Self::Keks(_) => "a list of KEKs",
            Self::KekMade(..) => "a KEK for others",
            Self::Receiver(_) => "a public key",
            Self::Made(_) => "a key",
            Self::Names(_) => "names",
            Self::Room(_) => "its room",
            Self::Pair { .. } => "a key pair",
            Self::Encapsulated { .. } => "a secret",
            Self::Done => "nothing but success",
        };
        HsmError::Unavailable(format!("the HSM worker answered another question, with {kind}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_another_question_is_an_error() {
        assert!(Response::Done.done().is_ok());
        assert!(matches!(Response::Done.clear(), Err(HsmError::Unavailable(_))));
        let clear = Response::Clear(ClearBytes::copy_from(b"secret"));
        assert!(!clear.kek().unwrap_err().to_string().contains("secret"));
    }
}
