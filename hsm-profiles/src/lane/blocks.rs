//! What is made here of whole blocks that the token encrypts: padding, counter mode, and key wrap in
//! tokens that wrap objects only.

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use km_core::hsm::HsmError;
use km_core::material::ClearBytes;
use km_core::usage::key_wrap::{self, Block};

use super::action::{as_long_as, misfit};
use super::judge::unsupported;
use super::table::{KEY_WRAP, KEY_WRAP_PADDED, bare};
use super::{Lane, OpError};

const BLOCK: usize = 16;
/// Counter blocks encrypted at once.
const COUNTERS: usize = 4096;
/// Longest key that is wrapped block by block, in bytes: 6,000 calls of the token.
const LONGEST_WRAPPED: usize = 8192;

pub(super) fn whole_blocks(block: usize, input: &[u8]) -> Result<(), OpError> {
    match input.len() % block {
        0 => Ok(()),
        _ => Err(misfit(&format!("without padding, data has whole blocks of {block} bytes"))),
    }
}

/// With PKCS #5 padding.
pub(super) fn padded(block: usize, input: &[u8]) -> ClearBytes {
    let missing = block - input.len() % block;
    let mut bytes = Vec::with_capacity(input.len() + missing);
    bytes.extend_from_slice(input);
    bytes.resize(input.len() + missing, u8::try_from(missing).unwrap_or(0));
    ClearBytes::from_vec(bytes)
}

pub(super) fn unpadded(block: usize, clear: &ClearBytes) -> Result<ClearBytes, OpError> {
    let len = clear.expose(|bytes| {
        let last = *bytes.last()?;
        let count = usize::from(last);
        let start = bytes.len().checked_sub(count)?;
        let fits = (1..=block).contains(&count)
            && bytes.get(start..)?.iter().fold(0, |odd, byte| odd | (byte ^ last)) == 0;
        fits.then_some(start)
    });
    len.and_then(|len| clear.slice(0..len)).ok_or_else(|| misfit("the padding is wrong"))
}

/// Counter mode, from the token's encryption of the counter blocks.
pub(super) fn counted(
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

fn key_wrap_mechanism(padded: bool) -> MechanismType {
    if padded { KEY_WRAP_PADDED } else { KEY_WRAP }
}

impl Lane {
    /// `plain` wrapped by the key `handle`.
    pub(super) fn wrapped_bytes(
        &self,
        handle: ObjectHandle,
        padded: bool,
        plain: &[u8],
    ) -> Result<ClearBytes, OpError> {
        key_wrap::check_clear(padded, plain.len()).map_err(OpError::Answer)?;
        let (session, mechanism) = (self.session()?, key_wrap_mechanism(padded));
        let wrapped = match self.check_mechanism(&mechanism) {
            Ok(()) => session.encrypt(&bare(mechanism), handle, plain)?,
            Err(_) => {
                check_length(plain)?;
                let block = |block: &Block| {
                    one_block(session.encrypt(&Mechanism::AesEcb, handle, &block[..])?)
                };
                key_wrap::wrap_by(padded, plain, block)?
            }
        };
        let len = plain.len().next_multiple_of(8) + 8;
        Ok(ClearBytes::from_vec(as_long_as(len, wrapped)?))
    }

    /// What [`Lane::wrapped_bytes`] made of the result.
    pub(super) fn unwrapped_bytes(
        &self,
        handle: ObjectHandle,
        padded: bool,
        wrapped: &[u8],
    ) -> Result<ClearBytes, OpError> {
        key_wrap::check_wrapped(padded, wrapped.len()).map_err(OpError::Answer)?;
        let (session, mechanism) = (self.session()?, key_wrap_mechanism(padded));
        if self.check_mechanism(&mechanism).is_ok() {
            let clear = session.decrypt(&bare(mechanism), handle, wrapped)?;
            let len = if padded { clear.len().next_multiple_of(8) } else { clear.len() };
            return match len + 8 == wrapped.len() {
                true => Ok(ClearBytes::from_vec(clear)),
                false => Ok(ClearBytes::from_vec(as_long_as(wrapped.len() - 8, clear)?)),
            };
        }
        check_length(wrapped)?;
        let block =
            |block: &Block| one_block(session.decrypt(&Mechanism::AesEcb, handle, &block[..])?);
        let clear = key_wrap::unwrap_by(padded, wrapped, block)?;
        clear.ok_or_else(|| OpError::Answer(key_wrap::changed()))
    }
}

fn one_block(made: Vec<u8>) -> Result<Block, OpError> {
    let made = ClearBytes::from_vec(as_long_as(BLOCK, made)?);
    made.expose(|bytes| <[u8; BLOCK]>::try_from(bytes).map(Block::new))
        .map_err(|_| OpError::Close(HsmError::Unavailable("the token gave no block".to_owned())))
}

fn check_length(input: &[u8]) -> Result<(), OpError> {
    match input.len() <= LONGEST_WRAPPED {
        true => Ok(()),
        false => Err(unsupported(format!(
            "{} bytes are too long for a token that wraps keys block by block",
            input.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_that_of_pkcs5() {
        for block in [8, BLOCK] {
            for len in 0..33 {
                let bytes = vec![7; len];
                let full = padded(block, &bytes);
                assert_eq!(full.len() % block, 0);
                assert_eq!(unpadded(block, &full).ok().unwrap(), ClearBytes::from_vec(bytes));
            }
        }
        for wrong in [&[0u8; 16][..], &[17; 32], &[1, 2, 3, 3], &[]] {
            assert!(unpadded(BLOCK, &ClearBytes::copy_from(wrong)).is_err());
        }
    }
}
