//! Cryptographic parameters of Encrypt and Decrypt to the domain's [`Cipher`], and nonces.

use km_core::{
    usage::{Cipher, Hash, KeyKind},
    vault::Vault,
};
use kmip::{
    attribute::CryptographicParameters,
    enums::{BlockCipherMode, PaddingMethod},
};
use tokio::sync::Mutex;

use crate::{
    error::OpError,
    usage::{Subject, bad, hash_of},
};

const BLOCK: usize = 16;
/// The nonce GCM is made for, in bytes.
const GCM_NONCE: usize = 12;
/// Longest GCM nonce taken, in bytes.
const GCM_NONCE_MOST: usize = 128;
const GCM_TAG: u8 = 16;
/// Shortest GCM tag taken, in bytes.
const GCM_TAG_LEAST: i32 = 12;

/// Initialization vectors from the HSM's generator, fetched for many requests at once. Each byte
/// is given out once.
#[derive(Default)]
pub(crate) struct Nonces(Mutex<Vec<u8>>);

/// Bytes fetched at once.
const FETCHED: usize = 4096;

impl Nonces {
    async fn take(&self, vault: &Vault, len: usize) -> Result<Vec<u8>, OpError> {
        let mut kept = self.0.lock().await;
        if kept.len() < len {
            *kept = vault.random().bytes(FETCHED).await?.expose(<[u8]>::to_vec);
        }
        let rest = kept.len().saturating_sub(len);
        Ok(kept.split_off(rest))
    }
}

/// A cipher, ready, and the initialization vector if the server made it.
pub(crate) struct Chosen {
    pub(crate) cipher: Cipher,
    pub(crate) made: Option<Vec<u8>>,
}

/// What a request says besides its data.
pub(crate) struct Given {
    pub(crate) iv: Option<Vec<u8>>,
    pub(crate) aad: Option<Vec<u8>>,
}

/// The cipher for new data; makes the initialization vector where the server is to.
pub(crate) async fn to_encrypt(
    subject: &Subject,
    kind: KeyKind,
    given: Given,
    nonces: (&Nonces, &Vault),
) -> Result<Chosen, OpError> {
    let asked = &subject.parameters;
    let len = match asked.block_cipher_mode {
        Some(BlockCipherMode::Cbc | BlockCipherMode::Ctr) => BLOCK,
        Some(BlockCipherMode::Gcm) => made_nonce(asked)?,
        _ => return Ok(Chosen { cipher: cipher(subject, kind, given)?, made: None }),
    };
    if given.iv.is_some() || asked.random_iv != Some(true) {
        return Ok(Chosen { cipher: cipher(subject, kind, given)?, made: None });
    }
    let iv = nonces.0.take(nonces.1, len).await?;
    let given = Given { iv: Some(iv.clone()), ..given };
    Ok(Chosen { cipher: cipher(subject, kind, given)?, made: Some(iv) })
}

/// The cipher of a request, its initialization vector given.
pub(crate) fn cipher(subject: &Subject, kind: KeyKind, given: Given) -> Result<Cipher, OpError> {
    let asked = &subject.parameters;
    match kind {
        KeyKind::Aes => aes(asked, given),
        KeyKind::Rsa => rsa(asked),
        _ => Err(subject.unusable("keys of this algorithm neither encrypt nor decrypt")),
    }
}

fn aes(asked: &CryptographicParameters, given: Given) -> Result<Cipher, OpError> {
    let mode = asked.block_cipher_mode;
    let mode =
        mode.ok_or(OpError::Missing("Cryptographic Parameters name no Block Cipher Mode"))?;
    let padded = match asked.padding_method {
        None | Some(PaddingMethod::None) => false,
        Some(PaddingMethod::Pkcs5) => true,
        Some(_) => return Err(OpError::CannotUse("AES is padded by PKCS5 or not".to_owned())),
    };
    let associated = given.aad.as_ref().is_some_and(|aad| !aad.is_empty());
    match mode {
        BlockCipherMode::Gcm => {}
        _ if associated => return Err(bad("only GCM has associated data")),
        BlockCipherMode::Ctr if padded => return Err(bad("counter mode is not padded")),
        _ => {}
    }
    Ok(match mode {
        BlockCipherMode::Ecb => Cipher::Ecb { padded },
        BlockCipherMode::Cbc => Cipher::Cbc { iv: block(given.iv)?, padded },
        BlockCipherMode::Ctr => {
            if asked.counter_length.is_some_and(|bits| bits != 128) {
                let text = "counter mode counts over the whole block; leave Counter Length out";
                return Err(OpError::CannotUse(text.to_owned()));
            }
            Cipher::Ctr { iv: block(given.iv)? }
        }
        BlockCipherMode::Gcm if padded => return Err(bad("GCM is not padded")),
        BlockCipherMode::Gcm => {
            let iv = given.iv.ok_or(OpError::MissingIv)?;
            if !(1..=GCM_NONCE_MOST).contains(&iv.len()) {
                return Err(bad("a GCM nonce has 1 to 128 bytes, best 12"));
            }
            Cipher::Gcm { iv, aad: given.aad.unwrap_or_default(), tag: tag_len(asked)? }
        }
        mode => {
            let text = format!("this server has AES in ECB, CBC, CTR and GCM, not {mode:?}");
            return Err(OpError::CannotUse(text));
        }
    })
}

fn block(iv: Option<Vec<u8>>) -> Result<[u8; BLOCK], OpError> {
    let iv = iv.ok_or(OpError::MissingIv)?;
    iv.try_into().map_err(|_| bad("the IV or counter has 16 bytes"))
}

/// Bytes of the tag.
pub(crate) fn tag_len(asked: &CryptographicParameters) -> Result<u8, OpError> {
    match asked.tag_length {
        None => Ok(GCM_TAG),
        Some(len) if (GCM_TAG_LEAST..=i32::from(GCM_TAG)).contains(&len) => {
            Ok(u8::try_from(len).unwrap_or(GCM_TAG))
        }
        Some(_) => Err(bad("a GCM tag has 12 to 16 bytes")),
    }
}

/// Bytes of a nonce that the server makes; shorter ones would repeat.
fn made_nonce(asked: &CryptographicParameters) -> Result<usize, OpError> {
    match asked.iv_length {
        None | Some(96) => Ok(GCM_NONCE),
        Some(128) => Ok(BLOCK),
        Some(_) => Err(bad("this server makes GCM nonces of 96 or 128 bits")),
    }
}

fn rsa(asked: &CryptographicParameters) -> Result<Cipher, OpError> {
    match asked.padding_method {
        Some(PaddingMethod::Oaep) => {
            let hash = asked.hashing_algorithm.map_or(Ok(Hash::Sha1), hash_of)?;
            let mask = asked.mask_generator_hashing_algorithm.map_or(Ok(hash), hash_of)?;
            if mask != hash || asked.p_source.as_ref().is_some_and(|label| !label.is_empty()) {
                let text = "OAEP has one hash for both its uses, and no P Source";
                return Err(OpError::CannotUse(text.to_owned()));
            }
            Ok(Cipher::RsaOaep(hash))
        }
        Some(PaddingMethod::Pkcs1V1_5) => Ok(Cipher::RsaPkcs1),
        _ => Err(bad("RSA needs the Padding Method OAEP or PKCS1v1.5")),
    }
}
