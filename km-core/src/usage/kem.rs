//! Key encapsulation: ML-KEM (FIPS 203), where the token does not have it by aws-lc-rs, and by RustCrypto where
//! secrets are made of random numbers that are given. Enter through
//! [`Vault::kem_key_pair`](crate::vault::Vault::kem_key_pair).
//!
//! Keys and ciphertexts have the encoding of FIPS 203. Decapsulation of a ciphertext that was changed
//! gives another secret, not an error: whoever uses the secret must prove that both ends have it.

use aws_lc_rs::kem::{
    self, Algorithm, AlgorithmId, Ciphertext, DecapsulationKey, EncapsulationKey,
};
use ml_kem::{B32, EncapsulationKey768, EncapsulationKey1024, Key};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    hsm::{Custody, HsmError},
    material::ClearBytes,
};

/// Bytes of the secret that both ends get.
pub const SECRET_BYTES: usize = 32;

/// A parameter set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KemSet {
    /// ML-KEM-768, security category 3.
    MlKem768,
    /// ML-KEM-1024, security category 5.
    MlKem1024,
}

impl KemSet {
    /// Bytes of a public (encapsulation) key.
    pub fn public_bytes(self) -> usize {
        match self {
            Self::MlKem768 => 1184,
            Self::MlKem1024 => 1568,
        }
    }

    /// Bytes of a ciphertext.
    pub fn ciphertext_bytes(self) -> usize {
        match self {
            Self::MlKem768 => 1088,
            Self::MlKem1024 => 1568,
        }
    }

    fn algorithm(self) -> &'static Algorithm<AlgorithmId> {
        match self {
            Self::MlKem768 => &kem::ML_KEM_768,
            Self::MlKem1024 => &kem::ML_KEM_1024,
        }
    }
}

/// A pair for a few exchanges. It is stored nowhere, and gone at the latest with this process or
/// with the login to the token.
#[derive(Debug)]
pub struct KemPair {
    /// Its parameter set.
    pub set: KemSet,
    /// The public key, for the other end.
    pub public: Vec<u8>,
    pub(crate) private: KemPrivate,
}

/// Where the private key is.
#[derive(Debug)]
pub(crate) enum KemPrivate {
    /// In the token, under this name.
    Token(Vec<u8>),
    /// In this process's memory.
    Here(ClearBytes),
}

impl KemPair {
    /// Where the private key is. The secrets that come of it are in this process either way.
    pub fn custody(&self) -> Custody {
        match self.private {
            KemPrivate::Token(_) => Custody::InToken,
            KemPrivate::Here(_) => Custody::HostTransient,
        }
    }

    /// A pair made in this process.
    pub(crate) fn make(set: KemSet) -> Result<Self, HsmError> {
        let failed = |_| HsmError::Unsupported("the library made no ML-KEM key".to_owned());
        let key = DecapsulationKey::generate(set.algorithm()).map_err(failed)?;
        let public = key.encapsulation_key().and_then(|key| key.key_bytes()).map_err(failed)?;
        let private = key.key_bytes().map_err(failed)?;
        let private = KemPrivate::Here(ClearBytes::copy_from(private.as_ref()));
        Ok(Self { set, public: public.as_ref().to_vec(), private })
    }
}

/// A fresh secret for the holder of a private key.
#[derive(Debug)]
pub struct Encapsulated {
    /// Brings it there.
    pub ciphertext: Vec<u8>,
    /// The secret.
    pub secret: ClearBytes,
    /// Where it was made.
    pub custody: Custody,
}

/// A fresh secret and the ciphertext that brings it to the holder of the private key to `public`,
/// in this process.
///
/// # Errors
/// [`HsmError::Input`] when `public` is no key of this set.
pub fn encapsulate(set: KemSet, public: &[u8]) -> Result<(Vec<u8>, ClearBytes), HsmError> {
    let misfit = || HsmError::Input("the ML-KEM public key cannot be read".to_owned());
    let key = EncapsulationKey::new(set.algorithm(), public).map_err(|_| misfit())?;
    let (ciphertext, secret) = key.encapsulate().map_err(|_| misfit())?;
    Ok((ciphertext.as_ref().to_vec(), ClearBytes::copy_from(secret.as_ref())))
}

/// The secret and the ciphertext that `seed` makes for the holder of the private key to `public`, in this
/// process (FIPS 203, algorithm 17). The library of [`encapsulate`] takes no seed, so it is RustCrypto's that
/// does it.
///
/// # Errors
/// [`HsmError::Input`] when `public` is no key of this set, and [`HsmError::Unsupported`] when `seed` does not
/// have [`SECRET_BYTES`].
pub fn encapsulate_of(
    set: KemSet,
    public: &[u8],
    seed: &ClearBytes,
) -> Result<(Vec<u8>, ClearBytes), HsmError> {
    let misfit = || HsmError::Input("the ML-KEM public key cannot be read".to_owned());
    let short = |_| HsmError::Unsupported(format!("ML-KEM takes {SECRET_BYTES} bytes of a seed"));
    // Overwritten on every way out.
    let m = Zeroizing::new(seed.expose(|seed| B32::try_from(seed).map_err(short))?);
    let (ciphertext, secret) = match set {
        KemSet::MlKem768 => {
            let key = Key::<EncapsulationKey768>::try_from(public).map_err(|_| misfit())?;
            let key = EncapsulationKey768::new(&key).map_err(|_| misfit())?;
            let (ciphertext, secret) = key.encapsulate_deterministic(&m);
            (ciphertext.to_vec(), Zeroizing::new(secret))
        }
        KemSet::MlKem1024 => {
            let key = Key::<EncapsulationKey1024>::try_from(public).map_err(|_| misfit())?;
            let key = EncapsulationKey1024::new(&key).map_err(|_| misfit())?;
            let (ciphertext, secret) = key.encapsulate_deterministic(&m);
            (ciphertext.to_vec(), Zeroizing::new(secret))
        }
    };
    Ok((ciphertext, ClearBytes::copy_from(&secret)))
}

/// Refuses what is no public key of this set, before a token sees it: a token need not tell a bad key
/// from a fault of its own.
pub(crate) fn check_public(set: KemSet, public: &[u8]) -> Result<(), HsmError> {
    check_len("public key", public.len(), set.public_bytes())?;
    // The library checks the key when it is used, and not when it is read.
    encapsulate(set, public).map(drop)
}

/// The secret in `ciphertext`, in this process.
pub(crate) fn decapsulate(
    set: KemSet,
    private: &ClearBytes,
    ciphertext: &[u8],
) -> Result<ClearBytes, HsmError> {
    let failed = || HsmError::Input("the ML-KEM ciphertext does not decapsulate".to_owned());
    let secret = private.expose(|private| {
        let key = DecapsulationKey::new(set.algorithm(), private).map_err(|_| failed())?;
        key.decapsulate(Ciphertext::from(ciphertext)).map_err(|_| failed())
    })?;
    Ok(ClearBytes::copy_from(secret.as_ref()))
}

/// Refuses what has not the length of the set.
pub(crate) fn check_len(what: &str, has: usize, wanted: usize) -> Result<(), HsmError> {
    match has == wanted {
        true => Ok(()),
        false => Err(HsmError::Input(format!("the ML-KEM {what} has {has} bytes, not {wanted}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_of_its_seed_and_of_nothing_else() {
        for set in [KemSet::MlKem768, KemSet::MlKem1024] {
            let pair = KemPair::make(set).unwrap();
            let KemPrivate::Here(private) = &pair.private else { panic!() };
            let made = |byte| {
                encapsulate_of(set, &pair.public, &ClearBytes::from_vec(vec![byte; SECRET_BYTES]))
            };
            let (ciphertext, secret) = made(3).unwrap();
            assert_eq!(decapsulate(set, private, &ciphertext).unwrap(), secret);
            assert_eq!(made(3).unwrap(), (ciphertext.clone(), secret));
            assert_ne!(made(4).unwrap().0, ciphertext);
            let short = ClearBytes::from_vec(vec![3; SECRET_BYTES - 1]);
            let refused = encapsulate_of(set, &pair.public, &short);
            assert!(matches!(refused, Err(HsmError::Unsupported(_))), "{refused:?}");
            let wrong = vec![0xFF; set.public_bytes()];
            let seed = ClearBytes::from_vec(vec![3; SECRET_BYTES]);
            for wrong in [&wrong[..], &pair.public[1..]] {
                let refused = encapsulate_of(set, wrong, &seed);
                assert!(matches!(refused, Err(HsmError::Input(_))), "{refused:?}");
            }
        }
    }

    #[test]
    fn both_ends_get_one_secret_and_a_changed_ciphertext_another() {
        for set in [KemSet::MlKem768, KemSet::MlKem1024] {
            let pair = KemPair::make(set).unwrap();
            assert_eq!(pair.public.len(), set.public_bytes());
            assert_eq!(pair.custody(), Custody::HostTransient);
            let KemPrivate::Here(private) = &pair.private else { panic!() };
            let (mut ciphertext, secret) = encapsulate(set, &pair.public).unwrap();
            assert_eq!((ciphertext.len(), secret.len()), (set.ciphertext_bytes(), SECRET_BYTES));
            assert_eq!(decapsulate(set, private, &ciphertext).unwrap(), secret);
            ciphertext[7] ^= 1;
            assert_ne!(decapsulate(set, private, &ciphertext).unwrap(), secret);
            let other = KemPair::make(set).unwrap();
            assert_ne!(other.public, pair.public);
            assert!(encapsulate(set, &pair.public[1..]).is_err());
            check_public(set, &pair.public).unwrap();
            // Of the right length, but with a number that is not below the modulus.
            for place in [0, 600] {
                let mut wrong = pair.public.clone();
                wrong[place..place + 3].fill(0xFF);
                let refused = check_public(set, &wrong);
                assert!(matches!(refused, Err(HsmError::Input(_))), "{refused:?}");
            }
            assert!(decapsulate(set, private, &ciphertext[1..]).is_err());
        }
    }
}
