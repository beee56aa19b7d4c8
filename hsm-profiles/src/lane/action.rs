//! One action with a key in the token. Enter through [`Lane::act`]; which mechanisms it is, is in
//! `lane/table.rs`.

use cryptoki::mechanism::dsa::{HedgeType, SignAdditionalContext};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use km_core::hsm::HsmError;
use km_core::material::ClearBytes;
use km_core::usage::{Action, Cipher, Curve, KeyKind, Scheme, der};

use super::blocks::{counted, padded, unpadded, whole_blocks};
use super::table::{bare, block_of, hmac, no_such, pss, tag_of, with, with_cipher, with_oaep};
use super::{Lane, OpError};
use crate::profile::{IvSource, SealBy};

pub(super) fn misfit(what: &str) -> OpError {
    OpError::Answer(HsmError::Input(what.to_owned()))
}

impl Lane {
    /// Does `action` with the object `handle`, a key of `kind`.
    pub(super) fn act(
        &self,
        kind: KeyKind,
        handle: ObjectHandle,
        action: &Action,
        input: &[u8],
    ) -> Result<ClearBytes, OpError> {
        let session = self.session()?;
        let output = match (kind, action) {
            (KeyKind::Aes | KeyKind::TripleDes, Action::Encrypt(cipher)) => {
                return self.encrypt(session, handle, cipher, input);
            }
            (KeyKind::Aes | KeyKind::TripleDes, Action::Decrypt(cipher)) => {
                return self.decrypt(session, handle, cipher, input);
            }
            (KeyKind::Rsa, Action::Decrypt(Cipher::RsaPkcs1)) => {
                session.decrypt(&Mechanism::RsaPkcs, handle, input)?
            }
            (KeyKind::Rsa, Action::Decrypt(Cipher::RsaOaep { hash, mask, label })) => {
                with_oaep((*hash, *mask, label), |oaep| session.decrypt(oaep, handle, input))?
            }
            (KeyKind::Rsa, Action::Sign(scheme)) => rsa_sign(session, handle, *scheme, input)?,
            (KeyKind::Ec(curve), Action::Sign(Scheme::Ecdsa(_))) => {
                let halves = session.sign(&Mechanism::Ecdsa, handle, leftmost(curve, input))?;
                der::ec_signature(&as_long_as(2 * curve.bytes(), halves)?)
            }
            (KeyKind::Ed25519, Action::Sign(Scheme::Ed25519)) => {
                let parameters = EddsaParams::new(EddsaSignatureScheme::Ed25519);
                as_long_as(64, session.sign(&Mechanism::Eddsa(parameters), handle, input)?)?
            }
            (KeyKind::MlDsa(set), Action::Sign(Scheme::MlDsa)) => {
                let context = SignAdditionalContext::new(HedgeType::Preferred, None);
                let signature = session.sign(&Mechanism::MlDsa(context), handle, input)?;
                as_long_as(set.signature_bytes(), signature)?
            }
            (KeyKind::Hmac, Action::Mac(hash)) => {
                as_long_as(hash.len(), session.sign(&bare(hmac(*hash)), handle, input)?)?
            }
            (KeyKind::Ec(_) | KeyKind::X25519, Action::Agree) => {
                return self.agreed(kind, handle, input);
            }
            (_, Action::Derive { how, len }) => {
                return self.derived_bytes(handle, how, *len as usize);
            }
            _ => return Err(no_such()),
        };
        Ok(ClearBytes::from_vec(output))
    }

    fn encrypt(
        &self,
        session: &Session,
        handle: ObjectHandle,
        cipher: &Cipher,
        input: &[u8],
    ) -> Result<ClearBytes, OpError> {
        match cipher {
            Cipher::Ctr { iv } => return counted(session, handle, *iv, input),
            Cipher::KeyWrap { padded } => return self.wrapped_bytes(handle, *padded, input),
            Cipher::Gcm { .. } => self.check_own_nonces()?,
            _ => {}
        }
        let run = |input: &[u8]| {
            let made = with_cipher(cipher, input.len(), |m| session.encrypt(m, handle, input))?;
            as_long_as(input.len() + tag_of(cipher), made)
        };
        let made = match block_of(cipher) {
            Some((block, true)) => padded(block, input).expose(run)?,
            Some((block, false)) => {
                whole_blocks(block, input)?;
                run(input)?
            }
            None => run(input)?,
        };
        Ok(ClearBytes::from_vec(made))
    }

    fn decrypt(
        &self,
        session: &Session,
        handle: ObjectHandle,
        cipher: &Cipher,
        input: &[u8],
    ) -> Result<ClearBytes, OpError> {
        match cipher {
            Cipher::Ctr { iv } => return counted(session, handle, *iv, input),
            Cipher::KeyWrap { padded } => return self.unwrapped_bytes(handle, *padded, input),
            _ => {}
        }
        let Some(len) = input.len().checked_sub(tag_of(cipher)) else {
            return Err(misfit("the data is shorter than its tag"));
        };
        let blocks = block_of(cipher);
        if let Some((block, padded)) = blocks {
            whole_blocks(block, input)?;
            if padded && input.is_empty() {
                return Err(misfit("padded data has at least one block"));
            }
        }
        let clear = with_cipher(cipher, len, |m| session.decrypt(m, handle, input))?;
        let clear = ClearBytes::from_vec(as_long_as(len, clear)?);
        match blocks {
            Some((block, true)) => unpadded(block, &clear),
            _ => Ok(clear),
        }
    }

    /// A token that insists on nonces of its own does not take one from outside.
    fn check_own_nonces(&self) -> Result<(), OpError> {
        let seal = &self.profile.seal;
        if seal.method == SealBy::TokenGcm && seal.iv != IvSource::Host {
            let text = "the token makes GCM nonces of its own".to_owned();
            return Err(OpError::Answer(HsmError::Unsupported(text)));
        }
        Ok(())
    }
}

/// What the token answered, if it has the length it must have.
pub(super) fn as_long_as(len: usize, answer: Vec<u8>) -> Result<Vec<u8>, OpError> {
    if answer.len() == len {
        return Ok(answer);
    }
    let answer = ClearBytes::from_vec(answer);
    let text = format!("the token answered {} bytes where {len} belong", answer.len());
    Err(OpError::Close(HsmError::Unavailable(text)))
}

fn rsa_sign(
    session: &Session,
    handle: ObjectHandle,
    scheme: Scheme,
    digest: &[u8],
) -> Result<Vec<u8>, OpError> {
    let signature = match scheme {
        Scheme::RsaPkcs1(hash) => {
            let info = [&der::digest_info(hash)[..], digest].concat();
            session.sign(&Mechanism::RsaPkcs, handle, &info)?
        }
        Scheme::RsaPss { hash, salt } => {
            let parameters = pss(hash, salt);
            session.sign(&with(MechanismType::RSA_PKCS_PSS, &parameters), handle, digest)?
        }
        Scheme::Ecdsa(_) | Scheme::Ed25519 | Scheme::MlDsa => return Err(no_such()),
    };
    // As long as the modulus, which has a multiple of 64 bits.
    as_long_as(signature.len().next_multiple_of(8), signature)
}

/// ECDSA takes the leftmost bits of a longer hash.
fn leftmost(curve: Curve, digest: &[u8]) -> &[u8] {
    digest.get(..curve.bytes()).unwrap_or(digest)
}
