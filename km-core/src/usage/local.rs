//! Ciphers beyond those that aws-lc-rs does in one call, and those no token is asked for. Done in this
//! process by aws-lc-rs where it has them, by RustCrypto's crates else. Enter through [`encrypt`] and
//! [`decrypt`].
//!
//! PKCS #11 has numbers for XTS, ChaCha20 and Blowfish too, but no token that the tests run has them
//! (Kryoptic has ChaCha20 if it is built so), and what was never tried is not relied on.

use aws_lc_rs::{
    aead::{self, Aad, LessSafeKey, Nonce, UnboundKey},
    cipher::{DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext},
    constant_time::verify_slices_are_equal,
    error::Unspecified,
    iv::FixedLength,
};
use cbc::cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, KeyInit, KeyIvInit,
    StreamCipher, StreamCipherSeek,
    block_padding::{NoPadding, Pkcs7},
};
use ccm::{
    Ccm,
    aead::{Aead, Payload},
    consts::{U7, U8, U12, U13, U16},
};
use chacha20::{ChaCha20, ChaCha20Legacy};
use serde::{Deserialize, Serialize};
use xts_mode::Xts128;

use super::{
    Cipher, KeyKind,
    process::{aes_key, cannot, misfit, roomy},
};
use crate::{hsm::HsmError, material::ClearBytes};

/// Symmetric algorithms no token is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// ChaCha20, with or without Poly1305, of 256 bits.
    ChaCha20,
    /// Blowfish, for what exists already.
    Blowfish,
}

/// A cipher no token is asked for, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// AES in XTS, one data unit of 16 bytes or more; the key is two AES keys.
    Xts {
        /// The number of the data unit, little-endian.
        tweak: [u8; 16],
    },
    /// The ChaCha20 stream.
    ChaCha20 {
        /// Nonce of 12 bytes (RFC 8439) or 8 (the original).
        nonce: Vec<u8>,
        /// Number of the first block.
        block: u32,
    },
    /// ChaCha20-Poly1305; the tag stands at the end of the ciphertext.
    ChaChaPoly {
        /// Nonce.
        nonce: [u8; 12],
        /// Associated data.
        aad: Vec<u8>,
        /// Bytes of the tag: 12 to 16.
        tag: u8,
    },
}

/// `input` under `key`.
pub(super) fn encrypt(
    kind: KeyKind,
    cipher: &Cipher,
    key: &[u8],
    input: &[u8],
) -> Result<ClearBytes, HsmError> {
    let failed = |_: Unspecified| misfit("the data was not encrypted");
    let with = |iv: &[u8; 16]| EncryptionContext::Iv128(FixedLength::from(iv));
    let mut bytes = roomy(input);
    match (kind, cipher) {
        (KeyKind::Aes, Cipher::Cfb { iv }) => {
            let key = EncryptingKey::cfb128(aes_key(key)?).map_err(failed)?;
            key.less_safe_encrypt(&mut bytes, with(iv)).map_err(failed)?;
        }
        (KeyKind::Aes, Cipher::Ofb { iv }) => {
            let key = EncryptingKey::ofb(aes_key(key)?).map_err(failed)?;
            key.less_safe_encrypt(&mut bytes, with(iv)).map_err(failed)?;
        }
        (KeyKind::Aes, Cipher::Ccm { nonce, aad, tag }) => {
            return ccm(key, nonce, aad, *tag, input, true);
        }
        (KeyKind::Aes, Cipher::Local(Mode::Xts { tweak })) => xts(key, *tweak, &mut bytes, true)?,
        (KeyKind::Local(Algorithm::ChaCha20), Cipher::Local(Mode::ChaCha20 { nonce, block })) => {
            chacha(key, nonce, *block, &mut bytes)?;
        }
        (
            KeyKind::Local(Algorithm::ChaCha20),
            Cipher::Local(Mode::ChaChaPoly { nonce, aad, tag }),
        ) => {
            chacha_seal(key, nonce, aad, bytes.as_vec_mut())?;
            let whole = bytes.len();
            bytes.truncate(whole - usize::from(FULL_TAG.saturating_sub(*tag)));
        }
        (_, Cipher::Cbc8 { iv, padded }) => {
            return cbc8_encrypt(kind, key, iv, *padded, input);
        }
        _ => return Err(cannot("this kind of key is not for this cipher")),
    }
    Ok(bytes.into())
}

/// What [`encrypt`] made of the result.
pub(super) fn decrypt(
    kind: KeyKind,
    cipher: &Cipher,
    key: &[u8],
    input: &[u8],
) -> Result<ClearBytes, HsmError> {
    let failed = |_: Unspecified| undone();
    let with = |iv: &[u8; 16]| DecryptionContext::Iv128(FixedLength::from(iv));
    let mut bytes = roomy(input);
    match (kind, cipher) {
        (KeyKind::Aes, Cipher::Cfb { iv }) => {
            let key = DecryptingKey::cfb128(aes_key(key)?).map_err(failed)?;
            key.decrypt(&mut bytes, with(iv)).map_err(failed)?;
        }
        (KeyKind::Aes, Cipher::Ofb { iv }) => {
            let key = DecryptingKey::ofb(aes_key(key)?).map_err(failed)?;
            key.decrypt(&mut bytes, with(iv)).map_err(failed)?;
        }
        (KeyKind::Aes, Cipher::Ccm { nonce, aad, tag }) => {
            return ccm(key, nonce, aad, *tag, input, false);
        }
        (KeyKind::Aes, Cipher::Local(Mode::Xts { tweak })) => xts(key, *tweak, &mut bytes, false)?,
        (KeyKind::Local(Algorithm::ChaCha20), Cipher::Local(Mode::ChaCha20 { nonce, block })) => {
            chacha(key, nonce, *block, &mut bytes)?;
        }
        (
            KeyKind::Local(Algorithm::ChaCha20),
            Cipher::Local(Mode::ChaChaPoly { nonce, aad, tag }),
        ) => {
            let stream = |clear: &mut [u8]| chacha(key, nonce, 1, clear);
            let seal = |bytes: &mut Vec<u8>| chacha_seal(key, nonce, aad, bytes);
            return open_by_sealing(input, *tag, stream, seal);
        }
        (_, Cipher::Cbc8 { iv, padded }) => {
            return cbc8_decrypt(kind, key, iv, *padded, input);
        }
        _ => return Err(cannot("this kind of key is not for this cipher")),
    }
    Ok(bytes.into())
}

const FULL_TAG: u8 = 16;

fn undone() -> HsmError {
    misfit("the data does not decrypt under this key")
}

/// Opens what has a tag of `tag` bytes, where the library takes whole tags only: deciphered by
/// `stream`, sealed anew by `seal`, and given out only when the tags agree, in constant time.
pub(super) fn open_by_sealing(
    input: &[u8],
    tag: u8,
    stream: impl FnOnce(&mut [u8]) -> Result<(), HsmError>,
    seal: impl FnOnce(&mut Vec<u8>) -> Result<(), HsmError>,
) -> Result<ClearBytes, HsmError> {
    let tag = usize::from(tag);
    let len = input.len().checked_sub(tag).ok_or_else(|| misfit("shorter than its tag"))?;
    let (sealed, given) = input.split_at(len);
    let mut clear = roomy(sealed);
    stream(&mut clear)?;
    let mut again = roomy(&clear);
    seal(again.as_vec_mut())?;
    let found = again.get(len..len + tag).ok_or_else(undone)?;
    verify_slices_are_equal(found, given).map_err(|_| undone())?;
    Ok(clear.into())
}

fn chacha(key: &[u8], nonce: &[u8], block: u32, bytes: &mut [u8]) -> Result<(), HsmError> {
    fn run<C: KeyIvInit + StreamCipher + StreamCipherSeek>(
        key: &[u8],
        nonce: &[u8],
        block: u32,
        bytes: &mut [u8],
    ) -> Result<(), HsmError> {
        let mut cipher = C::new_from_slices(key, nonce)
            .map_err(|_| cannot("a ChaCha20 key has 256 bits, its nonce 96 or 64"))?;
        let too_far = |_| misfit("the block number is too high for so much data");
        cipher.try_seek(u64::from(block) * 64).map_err(too_far)?;
        cipher.try_apply_keystream(bytes).map_err(|_| misfit("too much data for one nonce"))
    }
    match nonce.len() {
        8 => run::<ChaCha20Legacy>(key, nonce, block, bytes),
        _ => run::<ChaCha20>(key, nonce, block, bytes),
    }
}

fn chacha_seal(
    key: &[u8],
    nonce: &[u8; 12],
    aad: &[u8],
    bytes: &mut Vec<u8>,
) -> Result<(), HsmError> {
    let key = UnboundKey::new(&aead::CHACHA20_POLY1305, key)
        .map_err(|_| cannot("a ChaCha20-Poly1305 key has 256 bits"))?;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    LessSafeKey::new(key)
        .seal_in_place_append_tag(nonce, Aad::from(aad), bytes)
        .map_err(|_| misfit("the data was not encrypted"))
}

fn ccm(
    key: &[u8],
    nonce: &[u8],
    aad: &[u8],
    tag: u8,
    msg: &[u8],
    seal: bool,
) -> Result<ClearBytes, HsmError> {
    fn run<C: KeyInit + Aead>(
        key: &[u8],
        nonce: &[u8],
        payload: Payload<'_, '_>,
        seal: bool,
    ) -> Result<ClearBytes, HsmError> {
        let cipher = C::new_from_slice(key).map_err(|_| cannot("the bytes are no AES key"))?;
        let nonce = nonce.try_into().map_err(|_| cannot("the nonce has another length"))?;
        let done =
            if seal { cipher.encrypt(nonce, payload) } else { cipher.decrypt(nonce, payload) };
        done.map(ClearBytes::from_vec).map_err(|_| undone())
    }
    macro_rules! by_lengths {
        ($($cipher:ident $key:literal: $(($tag:ident $t:literal $nonce:ident $n:literal))*;)*) => {
            match (key.len(), tag, nonce.len()) {
                $($( ($key, $t, $n) => {
                    run::<Ccm<aes::$cipher, $tag, $nonce>>(key, nonce, Payload { msg, aad }, seal)
                } )*)*
                _ => Err(cannot("CCM has tags of 8, 12 or 16 bytes and nonces of 7, 12 or 13")),
            }
        };
    }
    by_lengths! {
        Aes128 16: (U8 8 U7 7) (U8 8 U12 12) (U8 8 U13 13) (U12 12 U7 7) (U12 12 U12 12)
            (U12 12 U13 13) (U16 16 U7 7) (U16 16 U12 12) (U16 16 U13 13);
        Aes192 24: (U8 8 U7 7) (U8 8 U12 12) (U8 8 U13 13) (U12 12 U7 7) (U12 12 U12 12)
            (U12 12 U13 13) (U16 16 U7 7) (U16 16 U12 12) (U16 16 U13 13);
        Aes256 32: (U8 8 U7 7) (U8 8 U12 12) (U8 8 U13 13) (U12 12 U7 7) (U12 12 U12 12)
            (U12 12 U13 13) (U16 16 U7 7) (U16 16 U12 12) (U16 16 U13 13);
    }
}

fn xts(key: &[u8], tweak: [u8; 16], bytes: &mut [u8], seal: bool) -> Result<(), HsmError> {
    if bytes.len() < 16 {
        return Err(misfit("XTS takes 16 bytes or more"));
    }
    let (one, other) = key.split_at(key.len() / 2);
    if one == other {
        return Err(cannot("the two halves of an XTS key differ"));
    }
    let bad = |_| cannot("an XTS key has 256 or 512 bits");
    macro_rules! run {
        ($cipher:ident) => {{
            let new = |half| aes::$cipher::new_from_slice(half).map_err(bad);
            let xts = Xts128::new(new(one)?, new(other)?);
            match seal {
                true => xts.encrypt_sector(bytes, tweak.into()),
                false => xts.decrypt_sector(bytes, tweak.into()),
            }
            Ok(())
        }};
    }
    match one.len() {
        16 => run!(Aes128),
        _ => run!(Aes256),
    }
}

fn cbc8_encrypt(
    kind: KeyKind,
    key: &[u8],
    iv: &[u8; 8],
    padded: bool,
    input: &[u8],
) -> Result<ClearBytes, HsmError> {
    fn run<C: BlockCipherEncrypt + KeyInit>(
        key: &[u8],
        iv: &[u8; 8],
        padded: bool,
        input: &[u8],
    ) -> Result<ClearBytes, HsmError> {
        let cipher = cbc::Encryptor::<C>::new_from_slices(key, iv).map_err(|_| no_key())?;
        Ok(ClearBytes::from_vec(match padded {
            true => cipher.encrypt_padded_vec::<Pkcs7>(input),
            false => cipher.encrypt_padded_vec::<NoPadding>(input),
        }))
    }
    if !padded && !input.len().is_multiple_of(8) {
        return Err(misfit("without padding, data has whole blocks of 8 bytes"));
    }
    match (kind, key.len()) {
        (KeyKind::TripleDes, 16) => run::<des::TdesEde2>(key, iv, padded, input),
        (KeyKind::TripleDes, _) => run::<des::TdesEde3>(key, iv, padded, input),
        (KeyKind::Local(Algorithm::Blowfish), _) => {
            run::<blowfish::Blowfish>(key, iv, padded, input)
        }
        _ => Err(cannot("this kind of key has no blocks of 8 bytes")),
    }
}

fn cbc8_decrypt(
    kind: KeyKind,
    key: &[u8],
    iv: &[u8; 8],
    padded: bool,
    input: &[u8],
) -> Result<ClearBytes, HsmError> {
    fn run<C: BlockCipherDecrypt + KeyInit>(
        key: &[u8],
        iv: &[u8; 8],
        padded: bool,
        input: &[u8],
    ) -> Result<ClearBytes, HsmError> {
        let cipher = cbc::Decryptor::<C>::new_from_slices(key, iv).map_err(|_| no_key())?;
        let clear = match padded {
            true => cipher.decrypt_padded_vec::<Pkcs7>(input),
            false => cipher.decrypt_padded_vec::<NoPadding>(input),
        };
        clear.map(ClearBytes::from_vec).map_err(|_| undone())
    }
    match (kind, key.len()) {
        (KeyKind::TripleDes, 16) => run::<des::TdesEde2>(key, iv, padded, input),
        (KeyKind::TripleDes, _) => run::<des::TdesEde3>(key, iv, padded, input),
        (KeyKind::Local(Algorithm::Blowfish), _) => {
            run::<blowfish::Blowfish>(key, iv, padded, input)
        }
        _ => Err(cannot("this kind of key has no blocks of 8 bytes")),
    }
}

fn no_key() -> HsmError {
    cannot("the bytes are no key of this algorithm")
}
