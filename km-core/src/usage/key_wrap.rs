//! AES key wrap: RFC 3394, and RFC 5649 for any length. Enter through [`wrap`] and [`unwrap`], which
//! work in this process; [`wrap_by`] and [`unwrap_by`] need somebody who encrypts single blocks.

use aes_kw::{
    AesKw, AesKwp, KeyInit,
    aes::{Aes128, Aes192, Aes256},
};
use wiped::Wiped;
use zeroize::Zeroizing;

use super::process::{cannot, misfit};
use crate::{hsm::HsmError, material::ClearBytes};

/// A block on its way: half of it may be clear.
pub type Block = Zeroizing<[u8; 16]>;

const SEMIBLOCK: usize = 8;
const ROUNDS: u64 = 6;
/// The initial value of RFC 3394.
const INITIAL: u64 = 0xA6A6_A6A6_A6A6_A6A6;
/// The first half of that of RFC 5649; the other is the length.
const PADDED: u64 = 0xA659_59A6_0000_0000;

/// Whether so many bytes can be wrapped.
///
/// # Errors
/// [`HsmError::Input`] with what fits.
pub fn check_clear(padded: bool, len: usize) -> Result<(), HsmError> {
    let whole = len >= 2 * SEMIBLOCK && len.is_multiple_of(SEMIBLOCK);
    match len != 0 && (padded || whole) {
        true => Ok(()),
        false => Err(misfit("NIST Key Wrap takes 16, 24, 32 … bytes; use AES Key Wrap Padding")),
    }
}

/// Whether so many bytes can be a wrapped key.
///
/// # Errors
/// [`HsmError::Input`].
pub fn check_wrapped(padded: bool, len: usize) -> Result<(), HsmError> {
    let least = if padded { 2 } else { 3 };
    match len >= least * SEMIBLOCK && len.is_multiple_of(SEMIBLOCK) {
        true => Ok(()),
        false => Err(changed()),
    }
}

/// What a wrapped key is that does not open.
pub fn changed() -> HsmError {
    misfit("the key does not unwrap: it was changed, or wrapped by another key or mode")
}

macro_rules! with {
    ($padded:ident, $key:ident, $done:ident($input:ident, $out:ident)) => {{
        macro_rules! by {
            ($mode:ident, $cipher:ty) => {
                $mode::<$cipher>::new_from_slice($key)
                    .ok()
                    .and_then(|kw| kw.$done($input, &mut $out).ok().map(<[u8]>::len))
            };
        }
        match ($key.len(), $padded) {
            (16, false) => by!(AesKw, Aes128),
            (24, false) => by!(AesKw, Aes192),
            (32, false) => by!(AesKw, Aes256),
            (16, true) => by!(AesKwp, Aes128),
            (24, true) => by!(AesKwp, Aes192),
            (32, true) => by!(AesKwp, Aes256),
            _ => return Err(cannot("an AES key has 128, 192 or 256 bits")),
        }
    }};
}

/// `plain` wrapped by the AES key `key`.
pub(super) fn wrap(padded: bool, key: &[u8], plain: &[u8]) -> Result<ClearBytes, HsmError> {
    check_clear(padded, plain.len())?;
    let mut out = Wiped::zeros(plain.len().next_multiple_of(SEMIBLOCK) + SEMIBLOCK);
    let len = with!(padded, key, wrap_key(plain, out));
    out.truncate(len.ok_or_else(|| misfit("the key is not wrapped"))?);
    Ok(out.into())
}

/// What [`wrap`] made of the result.
pub(super) fn unwrap(padded: bool, key: &[u8], wrapped: &[u8]) -> Result<ClearBytes, HsmError> {
    check_wrapped(padded, wrapped.len())?;
    let mut out = Wiped::zeros(wrapped.len());
    let len = with!(padded, key, unwrap_key(wrapped, out));
    out.truncate(len.ok_or_else(changed)?);
    Ok(out.into())
}

/// `plain` wrapped by whoever encrypts one block in `block`, which is asked twelve times for each block
/// of `plain`. Its length was checked ([`check_clear`]).
///
/// # Errors
/// Those of `block`.
pub fn wrap_by<E>(
    padded: bool,
    plain: &[u8],
    mut block: impl FnMut(&Block) -> Result<Block, E>,
) -> Result<Vec<u8>, E> {
    let mut bytes = Wiped::zeros(plain.len().next_multiple_of(SEMIBLOCK));
    bytes.iter_mut().zip(plain).for_each(|(to, from)| *to = *from);
    let mut first = if padded { PADDED | plain.len() as u64 } else { INITIAL };
    let (parts, _) = bytes.as_chunks_mut::<SEMIBLOCK>();
    if let [part] = parts {
        (first, *part) = apart(&block(&joined(first, part))?);
    } else {
        for step in 0..ROUNDS * parts.len() as u64 {
            let at = step % parts.len() as u64;
            let Some(part) = parts.get_mut(at as usize) else { break };
            (first, *part) = apart(&block(&joined(first, part))?);
            first ^= step + 1;
        }
    }
    Ok([&first.to_be_bytes()[..], &bytes].concat())
}

/// What [`wrap_by`] made of the result, by whoever decrypts one block in `block`; `None` when it was
/// changed.
///
/// # Errors
/// Those of `block`.
pub fn unwrap_by<E>(
    padded: bool,
    wrapped: &[u8],
    mut block: impl FnMut(&Block) -> Result<Block, E>,
) -> Result<Option<ClearBytes>, E> {
    let Some((start, rest)) = wrapped.split_first_chunk::<SEMIBLOCK>() else { return Ok(None) };
    let mut first = u64::from_be_bytes(*start);
    let mut bytes = Wiped::zeros(rest.len());
    bytes.copy_from_slice(rest);
    let (parts, _) = bytes.as_chunks_mut::<SEMIBLOCK>();
    if let [part] = parts {
        (first, *part) = apart(&block(&joined(first, part))?);
    } else {
        for step in (0..ROUNDS * parts.len() as u64).rev() {
            let at = step % parts.len() as u64;
            let Some(part) = parts.get_mut(at as usize) else { break };
            (first, *part) = apart(&block(&joined(first ^ (step + 1), part))?);
        }
    }
    let len = match padded {
        false => (first == INITIAL).then_some(bytes.len()),
        true => usize::try_from(first ^ PADDED).ok().filter(|len| {
            let zeros = bytes.get(*len..).map_or(&[][..], |zeros| zeros);
            *len > 0
                && len.next_multiple_of(SEMIBLOCK) == bytes.len()
                && zeros.iter().fold(0, |any, byte| any | byte) == 0
        }),
    };
    Ok(len.map(|len| {
        bytes.truncate(len);
        bytes.into()
    }))
}

fn joined(first: u64, part: &[u8; SEMIBLOCK]) -> Block {
    let block = u128::from(first) << 64 | u128::from(u64::from_be_bytes(*part));
    Zeroizing::new(block.to_be_bytes())
}

fn apart(block: &Block) -> (u64, [u8; SEMIBLOCK]) {
    let block = u128::from_be_bytes(**block);
    ((block >> 64) as u64, (block as u64).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::{Action, Cipher, KeyKind, process};

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        digits
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    /// Whether padded, key, plain and wrapped.
    const VECTORS: [(bool, &str, &str, &str); 5] = [
        // RFC 3394, 4.1.
        (
            false,
            "000102030405060708090A0B0C0D0E0F",
            "00112233445566778899AABBCCDDEEFF",
            "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5",
        ),
        // RFC 3394, 4.2.
        (
            false,
            "000102030405060708090A0B0C0D0E0F1011121314151617",
            "00112233445566778899AABBCCDDEEFF",
            "96778B25AE6CA435F92B5B97C050AED2468AB8A17AD84E5D",
        ),
        // RFC 3394, 4.6.
        (
            false,
            "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
            "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
            "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21",
        ),
        // RFC 5649, 6, both.
        (
            true,
            "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8",
            "c37b7e6492584340bed12207808941155068f738",
            "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
        ),
        (
            true,
            "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8",
            "466f7250617369",
            "afbeb0f07dfbf5419200f2ccb50bb24f",
        ),
    ];

    /// One block in ECB.
    fn one(key: &[u8], way: fn(Cipher) -> Action) -> impl FnMut(&Block) -> Result<Block, HsmError> {
        let key = ClearBytes::copy_from(key);
        move |block| {
            let (ecb, block) = (Cipher::Ecb { padded: false }, ClearBytes::copy_from(&block[..]));
            let done = process::act(KeyKind::Aes, &way(ecb), &key, &block)?;
            Ok(Zeroizing::new(done.expose(|done| done.try_into().unwrap())))
        }
    }

    #[test]
    fn known_answers_of_rfc_3394_and_rfc_5649() {
        for (padded, key, plain, wrapped) in VECTORS {
            let (key, plain, wrapped) = (bytes(key), bytes(plain), bytes(wrapped));
            let clear = ClearBytes::copy_from(&plain);
            assert_eq!(wrap(padded, &key, &plain), Ok(ClearBytes::copy_from(&wrapped)));
            assert_eq!(unwrap(padded, &key, &wrapped), Ok(ClearBytes::copy_from(&plain)));
            assert_eq!(wrap_by(padded, &plain, one(&key, Action::Encrypt)), Ok(wrapped.clone()));
            let back = unwrap_by(padded, &wrapped, one(&key, Action::Decrypt));
            assert_eq!(back, Ok(Some(clear)));
            for at in 0..wrapped.len() {
                let mut changed = wrapped.clone();
                changed[at] ^= 1;
                assert!(unwrap(padded, &key, &changed).is_err(), "byte {at} was changed");
                let back = unwrap_by(padded, &changed, one(&key, Action::Decrypt));
                assert_eq!(back, Ok(None), "byte {at} was changed");
            }
        }
    }

    #[test]
    fn odd_lengths_are_refused_or_padded() {
        let key = [1; 32];
        for len in [0, 1, 7, 8, 15, 17] {
            assert!(wrap(false, &key, &vec![7; len]).is_err(), "{len}");
        }
        for len in [1, 7, 8, 9, 16, 31] {
            let wrapped = wrap(true, &key, &vec![7; len]).unwrap();
            let by = wrap_by(true, &vec![7; len], one(&key, Action::Encrypt)).unwrap();
            assert_eq!(wrapped, ClearBytes::from_vec(by), "{len}");
            let back = wrapped.expose(|wrapped| unwrap(true, &key, wrapped)).unwrap();
            assert_eq!(back, ClearBytes::from_vec(vec![7; len]));
        }
        for len in [0, 8, 15] {
            assert!(unwrap(false, &key, &vec![7; len]).is_err(), "{len}");
            assert!(unwrap(true, &key, &vec![7; len]).is_err(), "{len}");
        }
    }
}
