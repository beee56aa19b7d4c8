//! One action with a key in the token: the domain's words to mechanisms. Enter through
//! [`Lane::act`].

use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::dsa::{HedgeType, SignAdditionalContext};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use km_core::hsm::HsmError;
use km_core::material::ClearBytes;
use km_core::usage::{Action, Cipher, Curve, Hash, KeyKind, Scheme, der};

use super::{Lane, OpError};
use crate::profile::{IvSource, SealBy};

const BLOCK: usize = 16;
/// Counter blocks encrypted at once.
const COUNTERS: usize = 4096;

/// The mechanism that `action` needs of the token.
pub(super) fn mechanism_of(kind: KeyKind, action: &Action) -> Result<MechanismType, OpError> {
    Ok(match (kind, action) {
        (KeyKind::Aes, Action::Encrypt(cipher) | Action::Decrypt(cipher)) => match cipher {
            // By whole blocks, padded here: every token has it, and the length is known before.
            Cipher::Ecb { .. } | Cipher::Ctr { .. } => MechanismType::AES_ECB,
            Cipher::Cbc { .. } => MechanismType::AES_CBC,
            Cipher::Gcm { .. } => MechanismType::AES_GCM,
            Cipher::RsaPkcs1 | Cipher::RsaOaep(_) | Cipher::Local(_) => return Err(no_such()),
        },
        (KeyKind::Rsa, Action::Decrypt(Cipher::RsaPkcs1)) => MechanismType::RSA_PKCS,
        (KeyKind::Rsa, Action::Decrypt(Cipher::RsaOaep(_))) => MechanismType::RSA_PKCS_OAEP,
        (KeyKind::Rsa, Action::Sign(Scheme::RsaPkcs1(_))) => MechanismType::RSA_PKCS,
        (KeyKind::Rsa, Action::Sign(Scheme::RsaPss { .. })) => MechanismType::RSA_PKCS_PSS,
        (KeyKind::Ec(_), Action::Sign(Scheme::Ecdsa(_))) => MechanismType::ECDSA,
        (KeyKind::Ed25519, Action::Sign(Scheme::Ed25519)) => MechanismType::EDDSA,
        (KeyKind::MlDsa(_), Action::Sign(Scheme::MlDsa)) => MechanismType::ML_DSA,
        (KeyKind::Hmac, Action::Mac(hash)) => hmac(*hash)?.mechanism_type(),
        (KeyKind::Ec(_) | KeyKind::X25519, Action::Agree) => MechanismType::ECDH1_DERIVE,
        _ => return Err(no_such()),
    })
}

fn no_such() -> OpError {
    OpError::Answer(HsmError::Unsupported("this kind of key is not for this action".to_owned()))
}

fn misfit(what: &str) -> OpError {
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
            (KeyKind::Aes, Action::Encrypt(cipher)) => {
                return self.encrypt(session, handle, cipher, input);
            }
            (KeyKind::Aes, Action::Decrypt(cipher)) => {
                return self.decrypt(session, handle, cipher, input);
            }
            (KeyKind::Rsa, Action::Decrypt(cipher)) => {
                session.decrypt(&rsa_cipher(cipher)?, handle, input)?
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
                as_long_as(hash.len(), session.sign(&hmac(*hash)?, handle, input)?)?
            }
            (KeyKind::Ec(_) | KeyKind::X25519, Action::Agree) => {
                return self.agreed(kind, handle, input);
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
        let blocks = |mechanism: &Mechanism, pad: bool| {
            if !pad {
                whole_blocks(input)?;
                return as_long_as(input.len(), session.encrypt(mechanism, handle, input)?);
            }
            padded(input)
                .expose(|input| as_long_as(input.len(), session.encrypt(mechanism, handle, input)?))
        };
        let done = match cipher {
            Cipher::Ecb { padded } => blocks(&Mechanism::AesEcb, *padded)?,
            Cipher::Cbc { iv, padded } => blocks(&Mechanism::AesCbc(*iv), *padded)?,
            Cipher::Ctr { iv } => return counted(session, handle, *iv, input),
            Cipher::Gcm { iv, aad, tag } => {
                self.check_own_nonces()?;
                let sealed = with_gcm(iv, aad, *tag, |gcm| session.encrypt(gcm, handle, input))?;
                as_long_as(input.len() + usize::from(*tag), sealed)?
            }
            Cipher::RsaPkcs1 | Cipher::RsaOaep(_) | Cipher::Local(_) => return Err(no_such()),
        };
        Ok(ClearBytes::from_vec(done))
    }

    fn decrypt(
        &self,
        session: &Session,
        handle: ObjectHandle,
        cipher: &Cipher,
        input: &[u8],
    ) -> Result<ClearBytes, OpError> {
        let blocks = |mechanism: &Mechanism, padded: bool| {
            whole_blocks(input)?;
            if padded && input.is_empty() {
                return Err(misfit("padded data has at least one block"));
            }
            let clear = as_long_as(input.len(), session.decrypt(mechanism, handle, input)?)?;
            let clear = ClearBytes::from_vec(clear);
            if padded { unpadded(&clear) } else { Ok(clear) }
        };
        match cipher {
            Cipher::Ecb { padded } => blocks(&Mechanism::AesEcb, *padded),
            Cipher::Cbc { iv, padded } => blocks(&Mechanism::AesCbc(*iv), *padded),
            Cipher::Ctr { iv } => counted(session, handle, *iv, input),
            Cipher::Gcm { iv, aad, tag } => {
                let Some(len) = input.len().checked_sub(usize::from(*tag)) else {
                    return Err(misfit("the data is shorter than its tag"));
                };
                let clear = with_gcm(iv, aad, *tag, |gcm| session.decrypt(gcm, handle, input))?;
                Ok(ClearBytes::from_vec(as_long_as(len, clear)?))
            }
            Cipher::RsaPkcs1 | Cipher::RsaOaep(_) | Cipher::Local(_) => Err(no_such()),
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

/// The same cipher with parameters that every token takes.
pub(super) fn plain(cipher: &Cipher) -> Cipher {
    match cipher {
        Cipher::Gcm { .. } => Cipher::Gcm { iv: vec![0; 12], aad: Vec::new(), tag: 16 },
        other => other.clone(),
    }
}

/// What the token answered, if it has the length it must have.
fn as_long_as(len: usize, answer: Vec<u8>) -> Result<Vec<u8>, OpError> {
    if answer.len() == len {
        return Ok(answer);
    }
    let answer = ClearBytes::from_vec(answer);
    let text = format!("the token answered {} bytes where {len} belong", answer.len());
    Err(OpError::Close(HsmError::Unavailable(text)))
}

fn whole_blocks(input: &[u8]) -> Result<(), OpError> {
    match input.len() % BLOCK {
        0 => Ok(()),
        _ => Err(misfit("without padding, data has whole blocks of 16 bytes")),
    }
}

/// With PKCS #5 padding.
fn padded(input: &[u8]) -> ClearBytes {
    let missing = BLOCK - input.len() % BLOCK;
    let mut bytes = Vec::with_capacity(input.len() + missing);
    bytes.extend_from_slice(input);
    bytes.resize(input.len() + missing, u8::try_from(missing).unwrap_or(0));
    ClearBytes::from_vec(bytes)
}

fn unpadded(clear: &ClearBytes) -> Result<ClearBytes, OpError> {
    let len = clear.expose(|bytes| {
        let last = *bytes.last()?;
        let count = usize::from(last);
        let start = bytes.len().checked_sub(count)?;
        let fits = (1..=BLOCK).contains(&count)
            && bytes.get(start..)?.iter().fold(0, |odd, byte| odd | (byte ^ last)) == 0;
        fits.then_some(start)
    });
    len.and_then(|len| clear.slice(0..len)).ok_or_else(|| misfit("the padding is wrong"))
}

/// Counter mode, from the token's encryption of the counter blocks.
fn counted(
    session: &Session,
    handle: ObjectHandle,
    first: [u8; BLOCK],
    input: &[u8],
) -> Result<ClearBytes, OpError> {
    let mut counter = u128::from_be_bytes(first);
    let mut output = Vec::with_capacity(input.len());
    for part in input.chunks(COUNTERS * BLOCK) {
        let mut blocks = Vec::with_capacity(part.len() + BLOCK);
        for _ in 0..part.len().div_ceil(BLOCK) {
            blocks.extend_from_slice(&counter.to_be_bytes());
            counter = counter.wrapping_add(1);
        }
        let stream = session.encrypt(&Mechanism::AesEcb, handle, &blocks)?;
        let stream = as_long_as(blocks.len(), stream)?;
        let stream = ClearBytes::from_vec(stream);
        stream.expose(|stream| output.extend(part.iter().zip(stream).map(|(a, b)| a ^ b)));
    }
    Ok(ClearBytes::from_vec(output))
}

fn with_gcm<T>(
    iv: &[u8],
    aad: &[u8],
    tag: u8,
    run: impl FnOnce(&Mechanism) -> Result<T, cryptoki::error::Error>,
) -> Result<T, cryptoki::error::Error> {
    let mut iv = iv.to_vec();
    let bits = u64::from(tag) * 8;
    run(&Mechanism::AesGcm(GcmParams::new(&mut iv, aad, bits.into())?))
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
            let (hash_alg, mgf) = hashes(hash)?;
            let parameters = PkcsPssParams { hash_alg, mgf, s_len: u64::from(salt).into() };
            session.sign(&Mechanism::RsaPkcsPss(parameters), handle, digest)?
        }
        Scheme::Ecdsa(_) | Scheme::Ed25519 | Scheme::MlDsa => return Err(no_such()),
    };
    // As long as the modulus, which has a multiple of 64 bits.
    as_long_as(signature.len().next_multiple_of(8), signature)
}

fn rsa_cipher(cipher: &Cipher) -> Result<Mechanism<'static>, OpError> {
    Ok(match cipher {
        Cipher::RsaPkcs1 => Mechanism::RsaPkcs,
        Cipher::RsaOaep(hash) => {
            let (hash, mgf) = hashes(*hash)?;
            Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty()))
        }
        _ => return Err(no_such()),
    })
}

/// A hash and mask generation by it. Tokens are not asked for SHA-3.
pub(crate) fn hashes(hash: Hash) -> Result<(MechanismType, PkcsMgfType), OpError> {
    Ok(match hash {
        Hash::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        Hash::Sha224 => (MechanismType::SHA224, PkcsMgfType::MGF1_SHA224),
        Hash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        Hash::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
        Hash::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
        Hash::Sha3_224 | Hash::Sha3_256 | Hash::Sha3_384 | Hash::Sha3_512 => {
            return Err(no_such());
        }
    })
}

fn hmac(hash: Hash) -> Result<Mechanism<'static>, OpError> {
    Ok(match hash {
        Hash::Sha1 => Mechanism::Sha1Hmac,
        Hash::Sha224 => Mechanism::Sha224Hmac,
        Hash::Sha256 => Mechanism::Sha256Hmac,
        Hash::Sha384 => Mechanism::Sha384Hmac,
        Hash::Sha512 => Mechanism::Sha512Hmac,
        Hash::Sha3_224 | Hash::Sha3_256 | Hash::Sha3_384 | Hash::Sha3_512 => {
            return Err(no_such());
        }
    })
}

/// ECDSA takes the leftmost bits of a longer hash.
fn leftmost(curve: Curve, digest: &[u8]) -> &[u8] {
    digest.get(..curve.bytes()).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_that_of_pkcs5() {
        for len in 0..33 {
            let bytes = vec![7; len];
            let full = padded(&bytes);
            assert_eq!(full.len() % BLOCK, 0);
            assert_eq!(unpadded(&full).ok().unwrap(), ClearBytes::from_vec(bytes));
        }
        for wrong in [&[0u8; 16][..], &[17; 32], &[1, 2, 3, 3], &[]] {
            assert!(unpadded(&ClearBytes::copy_from(wrong)).is_err());
        }
    }
}
