//! AES-GCM in the token, whoever makes the nonce. Enter through [`encrypt`] and [`decrypt`].

use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys::CK_GCM_PARAMS;
use km_core::hsm::HsmError;

use super::OpError;
use crate::profile::{IvOnOpen, IvSource, Seal};

/// Length in bytes of a GCM nonce that the host makes.
pub(crate) const IV_BYTES: usize = 12;
/// The longest that a token makes.
pub(crate) const MAX_IV_BYTES: usize = 16;
/// GCM tag length in bytes.
pub(crate) const TAG_BYTES: usize = 16;
const TAG_BITS: u64 = 128;

/// Nonce and ciphertext with its tag.
pub(super) type Encrypted = (Vec<u8>, Vec<u8>);

/// Encrypts `clear`. `iv` is the nonce that the host made, used where the profile says so.
pub(super) fn encrypt(
    session: &Session,
    key: ObjectHandle,
    seal: &Seal,
    iv: [u8; IV_BYTES],
    aad: &[u8],
    clear: &[u8],
) -> Result<Encrypted, OpError> {
    let mut nonce = match seal.iv {
        IvSource::Host => iv.to_vec(),
        IvSource::Writeback => vec![0; seal.iv_bytes],
        IvSource::Append | IvSource::Prepend => Vec::new(),
    };
    let made = with_gcm(seal, &mut nonce, aad, |gcm| session.encrypt(gcm, key, clear))?;
    let apart = taken_apart(seal, nonce, made);
    apart.filter(|(_, ciphertext)| ciphertext.len() == clear.len() + TAG_BYTES).ok_or_else(|| {
        OpError::Answer(HsmError::Unsupported(format!(
            "the token does not encrypt as the profile says (seal.iv = {:?}, {} bytes): correct \
             seal.iv in a copy of the profile, or choose another one",
            seal.iv, seal.iv_bytes
        )))
    })
}

/// Decrypts what [`encrypt`] made.
pub(super) fn decrypt(
    session: &Session,
    key: ObjectHandle,
    seal: &Seal,
    iv: &[u8],
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<Vec<u8>, Error> {
    let run = |iv: &[u8], data: &[u8]| {
        with_gcm(seal, &mut iv.to_vec(), aad, |gcm| session.decrypt(gcm, key, data))
    };
    match (seal.iv_on_open, seal.iv) {
        (IvOnOpen::InData, IvSource::Append) => run(&[], &[ciphertext, iv].concat()),
        (IvOnOpen::InData, IvSource::Prepend) => run(&[], &[iv, ciphertext].concat()),
        _ => run(iv, ciphertext),
    }
}

/// Nonce and ciphertext from what the token gave; none when it cannot have made a nonce.
fn taken_apart(seal: &Seal, nonce: Vec<u8>, mut made: Vec<u8>) -> Option<Encrypted> {
    let len = seal.iv_bytes;
    match seal.iv {
        IvSource::Host => Some((nonce, made)),
        // A token that leaves the zeros would use one nonce for every message.
        IvSource::Writeback if nonce.iter().all(|b| *b == 0) => None,
        IvSource::Writeback => Some((nonce, made)),
        IvSource::Append => {
            let nonce = made.split_off(made.len().checked_sub(len)?);
            Some((nonce, made))
        }
        IvSource::Prepend if made.len() < len => None,
        IvSource::Prepend => {
            let ciphertext = made.split_off(len);
            Some((made, ciphertext))
        }
    }
}

/// Runs with the GCM parameters; an empty `iv` is passed as none, which cryptoki's own parameters
/// cannot say. The token may write into `iv`.
fn with_gcm<T>(
    seal: &Seal,
    iv: &mut [u8],
    aad: &[u8],
    run: impl FnOnce(&Mechanism) -> Result<T, Error>,
) -> Result<T, Error> {
    let params = CK_GCM_PARAMS {
        pIv: if iv.is_empty() { std::ptr::null_mut() } else { iv.as_mut_ptr() },
        ulIvLen: iv.len().try_into()?,
        ulIvBits: (iv.len() * 8).try_into()?,
        pAAD: aad.as_ptr().cast_mut(),
        ulAADLen: aad.len().try_into()?,
        ulTagBits: TAG_BITS,
    };
    let gcm = VendorDefinedMechanism::new(seal.mechanism.kind, Some(&params));
    run(&Mechanism::VendorDefined(gcm))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    fn seal(iv: IvSource, iv_bytes: usize) -> Seal {
        Seal { iv, iv_bytes, ..Profile::load("softhsm2").unwrap().seal }
    }

    #[test]
    fn the_nonce_is_found_where_the_token_puts_it() {
        let made = || (1..=40).collect::<Vec<u8>>();
        let apart = |iv, len, nonce: &[u8]| taken_apart(&seal(iv, len), nonce.to_vec(), made());
        assert_eq!(apart(IvSource::Host, 12, &[9; 12]).unwrap(), (vec![9; 12], made()));
        assert_eq!(apart(IvSource::Writeback, 12, &[9; 12]).unwrap(), (vec![9; 12], made()));
        let (nonce, ciphertext) = apart(IvSource::Append, 16, &[]).unwrap();
        assert_eq!((nonce, ciphertext), (made()[24..].to_vec(), made()[..24].to_vec()));
        let (nonce, ciphertext) = apart(IvSource::Prepend, 12, &[]).unwrap();
        assert_eq!((nonce, ciphertext), (made()[..12].to_vec(), made()[12..].to_vec()));
    }

    #[test]
    fn a_token_that_writes_no_nonce_is_not_believed() {
        let left = taken_apart(&seal(IvSource::Writeback, 12), vec![0; 12], vec![1; 40]);
        assert!(left.is_none());
        for iv in [IvSource::Append, IvSource::Prepend] {
            assert!(taken_apart(&seal(iv, 16), Vec::new(), vec![1; 15]).is_none());
        }
    }
}
