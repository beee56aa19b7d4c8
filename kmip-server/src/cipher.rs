//! Cryptographic parameters of Encrypt and Decrypt to the domain's [`Cipher`], and nonces.

use km_core::{
    usage::{
        Cipher, Hash, KeyKind,
        local::{Algorithm, Mode},
    },
    vault::Vault,
};
use kmip::{
    attribute::CryptographicParameters,
    enums::{BlockCipherMode, CryptographicAlgorithm, PaddingMethod},
};
use tokio::sync::Mutex;

use crate::{
    error::OpError,
    streams::Input,
    usage::{Subject, bad, hash_of},
};

const BLOCK: usize = 16;
/// The block of ciphers that only read what exists already, in bytes.
const SMALL_BLOCK: usize = 8;
/// Nonce of CCM and ChaCha20-Poly1305 where the server makes it, in bytes.
const AEAD_NONCE: usize = 12;
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
        Some(
            BlockCipherMode::Cbc
            | BlockCipherMode::Ctr
            | BlockCipherMode::Cfb
            | BlockCipherMode::Ofb,
        ) => block_len(kind),
        Some(BlockCipherMode::Gcm) => made_nonce(asked)?,
        Some(BlockCipherMode::Ccm | BlockCipherMode::Aead) => AEAD_NONCE,
        None if kind == KeyKind::Local(Algorithm::ChaCha20) => AEAD_NONCE,
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
        KeyKind::Local(Algorithm::ChaCha20) => chacha(subject, given),
        KeyKind::TripleDes | KeyKind::Local(_) => small_block(asked, given),
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
        BlockCipherMode::Gcm | BlockCipherMode::Ccm => {}
        _ if associated => return Err(bad("only GCM and CCM have associated data")),
        _ => {}
    }
    if padded && !matches!(mode, BlockCipherMode::Ecb | BlockCipherMode::Cbc) {
        return Err(bad("only ECB and CBC are padded"));
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
        BlockCipherMode::Gcm => {
            let iv = given.iv.ok_or(OpError::MissingIv)?;
            if !(1..=GCM_NONCE_MOST).contains(&iv.len()) {
                return Err(bad("a GCM nonce has 1 to 128 bytes, best 12"));
            }
            Cipher::Gcm { iv, aad: given.aad.unwrap_or_default(), tag: tag_len(asked)? }
        }
        BlockCipherMode::Ccm => {
            let nonce = given.iv.ok_or(OpError::MissingIv)?;
            let aad = given.aad.unwrap_or_default();
            let tag = asked.tag_length.unwrap_or(i32::from(GCM_TAG));
            if !matches!(tag, 8 | 12 | 16) {
                return Err(OpError::TagLength(tag));
            }
            Cipher::Ccm { nonce, aad, tag: u8::try_from(tag).unwrap_or(GCM_TAG) }
        }
        BlockCipherMode::Cfb => Cipher::Cfb { iv: block(given.iv)? },
        BlockCipherMode::Ofb => Cipher::Ofb { iv: block(given.iv)? },
        BlockCipherMode::Xts => Cipher::Local(Mode::Xts { tweak: block(given.iv)? }),
        mode => {
            let text = format!("this server does not have AES in {mode:?}");
            return Err(OpError::CannotUse(text));
        }
    })
}

fn block(iv: Option<Vec<u8>>) -> Result<[u8; BLOCK], OpError> {
    let iv = iv.ok_or(OpError::MissingIv)?;
    iv.try_into().map_err(|_| bad("the IV or counter has 16 bytes"))
}

/// ChaCha20, or ChaCha20-Poly1305 where the key or the mode says so.
fn chacha(subject: &Subject, given: Given) -> Result<Cipher, OpError> {
    let asked = &subject.parameters;
    let algorithm = asked.cryptographic_algorithm.or(subject.meta.algorithm());
    let sealed = algorithm == Some(CryptographicAlgorithm::ChaCha20Poly1305)
        || asked.block_cipher_mode == Some(BlockCipherMode::Aead);
    let nonce = given.iv.ok_or(OpError::MissingIv)?;
    if sealed {
        let nonce = nonce.try_into().map_err(|_| bad("the nonce has 12 bytes"))?;
        let (aad, tag) = (given.aad.unwrap_or_default(), tag_len(asked)?);
        return Ok(Cipher::Local(Mode::ChaChaPoly { nonce, aad, tag }));
    }
    if given.aad.is_some_and(|aad| !aad.is_empty()) {
        return Err(bad("ChaCha20 without Poly1305 has no associated data"));
    }
    if !matches!(nonce.len(), 8 | 12) {
        return Err(bad("the nonce has 12 or 8 bytes"));
    }
    let block = asked.initial_counter_value.unwrap_or(0);
    let block = u32::try_from(block).map_err(|_| bad("Initial Counter Value is out of range"))?;
    Ok(Cipher::Local(Mode::ChaCha20 { nonce, block }))
}

/// Ciphers with blocks of 8 bytes: CBC alone.
fn small_block(asked: &CryptographicParameters, given: Given) -> Result<Cipher, OpError> {
    let padded = match (asked.block_cipher_mode, asked.padding_method) {
        (Some(BlockCipherMode::Cbc), None | Some(PaddingMethod::None)) => false,
        (Some(BlockCipherMode::Cbc), Some(PaddingMethod::Pkcs5)) => true,
        _ => {
            let text = "this algorithm is used in CBC, padded by PKCS5 or not".to_owned();
            return Err(OpError::CannotUse(text));
        }
    };
    let iv = given.iv.ok_or(OpError::MissingIv)?;
    let iv = iv.try_into().map_err(|_| bad("the IV has 8 bytes"))?;
    Ok(Cipher::Cbc8 { iv, padded })
}

fn block_len(kind: KeyKind) -> usize {
    match kind {
        KeyKind::TripleDes | KeyKind::Local(_) => SMALL_BLOCK,
        _ => BLOCK,
    }
}

/// How far `input` is processed now, and by which cipher, always from its beginning: the whole when
/// it ends, else as much as what comes later cannot change. `None` when that is nothing.
pub(crate) fn step(cipher: Cipher, decrypts: bool, input: &Input) -> Option<(Cipher, usize)> {
    let len = input.len();
    if input.ends() {
        return Some((cipher, len));
    }
    let blocks = |size: usize| len.saturating_sub(usize::from(decrypts)) / size * size;
    match cipher {
        // What is not authenticated yet stays here.
        cipher if decrypts && tag_of(&cipher).is_some() => None,
        Cipher::Ecb { .. } => Some((Cipher::Ecb { padded: false }, blocks(BLOCK))),
        Cipher::Cbc { iv, .. } => Some((Cipher::Cbc { iv, padded: false }, blocks(BLOCK))),
        Cipher::Cbc8 { iv, .. } => Some((Cipher::Cbc8 { iv, padded: false }, blocks(SMALL_BLOCK))),
        Cipher::RsaPkcs1 | Cipher::RsaOaep { .. } | Cipher::Local(Mode::Xts { .. }) => None,
        cipher => Some((cipher, len)),
    }
    .filter(|(_, len)| *len > input.given)
}

/// Bytes of the tag that stands at the end of what `cipher` makes.
pub(crate) fn tag_of(cipher: &Cipher) -> Option<usize> {
    match cipher {
        Cipher::Gcm { tag, .. }
        | Cipher::Ccm { tag, .. }
        | Cipher::Local(Mode::ChaChaPoly { tag, .. }) => Some(usize::from(*tag)),
        _ => None,
    }
}

/// Bytes of the tag.
fn tag_len(asked: &CryptographicParameters) -> Result<u8, OpError> {
    match asked.tag_length {
        None => Ok(GCM_TAG),
        Some(len) if (GCM_TAG_LEAST..=i32::from(GCM_TAG)).contains(&len) => {
            Ok(u8::try_from(len).unwrap_or(GCM_TAG))
        }
        Some(len) => Err(OpError::TagLength(len)),
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
            let label = asked.p_source.clone().unwrap_or_default();
            Ok(Cipher::RsaOaep { hash, mask, label })
        }
        Some(PaddingMethod::Pkcs1V1_5) => Ok(Cipher::RsaPkcs1),
        _ => Err(bad("RSA needs the Padding Method OAEP or PKCS1v1.5")),
    }
}
