//! Actions in this process, by aws-lc-rs: for keys that are in this process's memory for the time
//! of the request. Enter through [`act`]; new keys come from [`make`].

use ::hmac::{KeyInit, Mac, SimpleHmac};
use aws_lc_rs::{
    aead::{self, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{PrivateKey, X25519},
    cipher::{
        AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey,
        EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
    },
    digest::Digest,
    encoding::{AsBigEndian, AsDer, Curve25519SeedBin, Pkcs8V1Der},
    error::Unspecified,
    hmac,
    iv::FixedLength,
    rsa::{
        KeyPair as RsaKeyPair, KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256,
        OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512, OaepAlgorithm, OaepPrivateDecryptingKey,
        Pkcs1PrivateDecryptingKey, PrivateDecryptingKey,
    },
    signature::{
        self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, PqdsaKeyPair,
        PqdsaSigningAlgorithm,
    },
};
use sha3::{Sha3_224, Sha3_256, Sha3_384, Sha3_512};
use wiped::Wiped;

use super::{
    Action, Cipher, Curve, DsaSet, Hash, KeyKind, Scheme, agree, der, derive, key_wrap, local,
    private,
    public::{Salt, salt_kind},
    rsa,
};
use crate::{hsm::HsmError, material::ClearBytes};

const BLOCK: usize = 16;
/// The one length aws-lc-rs takes for GCM tags; shorter ones are cut from it.
const GCM_TAG: u8 = 16;

/// A pair that was made in this process.
pub struct MadePair {
    /// Private key, PKCS #8 in DER.
    pub private: ClearBytes,
    /// Public key as [`super::public`] reads it: PKCS #1 for RSA, SubjectPublicKeyInfo else.
    pub public: Vec<u8>,
}

/// Does `action` with `key`, the bytes of a key of `kind`.
///
/// # Errors
/// [`HsmError::Input`] when the data does not fit, [`HsmError::Unsupported`] when the library does
/// not have the action or the bytes are no such key.
pub fn act(
    kind: KeyKind,
    action: &Action,
    key: &ClearBytes,
    input: &ClearBytes,
) -> Result<ClearBytes, HsmError> {
    key.expose(|key| {
        input.expose(|input| match (kind, action) {
            (KeyKind::Aes, Action::Encrypt(cipher)) => encrypt(cipher, key, input),
            (KeyKind::Aes, Action::Decrypt(cipher)) => decrypt(cipher, key, input),
            (KeyKind::TripleDes | KeyKind::Local(_), Action::Encrypt(cipher)) => {
                local::encrypt(kind, cipher, key, input)
            }
            (KeyKind::TripleDes | KeyKind::Local(_), Action::Decrypt(cipher)) => {
                local::decrypt(kind, cipher, key, input)
            }
            (_, Action::Derive { how, len }) => derive::derive(how, key, *len as usize),
            (KeyKind::Hmac, Action::Mac(hash)) => Ok(mac(*hash, key, input)),
            (KeyKind::Rsa, Action::Decrypt(cipher)) => rsa_decrypt(cipher, key, input),
            (KeyKind::Rsa, Action::Sign(scheme)) => rsa_sign(*scheme, key, input),
            (KeyKind::Ec(curve), Action::Sign(Scheme::Ecdsa(hash))) => {
                ec_sign(curve, *hash, key, input)
            }
            (KeyKind::Ed25519, Action::Sign(Scheme::Ed25519)) => ed_sign(key, input),
            (KeyKind::MlDsa(set), Action::Sign(Scheme::MlDsa)) => dsa_sign(set, key, input),
            (KeyKind::Ec(_) | KeyKind::X25519, Action::Agree) => agree::agree(kind, key, input),
            _ => Err(cannot("this kind of key is not for this action")),
        })
    })
}

/// Makes a key pair of `kind` with the library's own generator, which knows nothing of the sources that
/// the operator chose ([`super::seeded`] is for those). `bits` counts for RSA only. Slow for RSA: keep it
/// off the threads that serve.
///
/// # Errors
/// [`HsmError::Unsupported`] for kinds that are no pairs, and other lengths.
pub fn make(kind: KeyKind, bits: u32) -> Result<MadePair, HsmError> {
    let failed = |_| cannot("the library made no key pair");
    match kind {
        KeyKind::Rsa => {
            let size = match bits {
                2048 => KeySize::Rsa2048,
                3072 => KeySize::Rsa3072,
                4096 => KeySize::Rsa4096,
                _ => return Err(cannot("RSA keys are made with 2048, 3072 or 4096 bits")),
            };
            let pair = RsaKeyPair::generate(size).map_err(failed)?;
            let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(failed)?;
            Ok(MadePair {
                private: ClearBytes::copy_from(private.as_ref()),
                public: pair.public_key().as_ref().to_vec(),
            })
        }
        KeyKind::Ec(curve) => {
            let pair = EcdsaKeyPair::generate(signing(curve)).map_err(failed)?;
            let private = pair.to_pkcs8v1().map_err(failed)?;
            Ok(MadePair {
                private: ClearBytes::copy_from(private.as_ref()),
                public: der::ec_public(curve, pair.public_key().as_ref()),
            })
        }
        KeyKind::Ed25519 => {
            let pair = Ed25519KeyPair::generate().map_err(failed)?;
            let private = pair.to_pkcs8v1().map_err(failed)?;
            Ok(MadePair {
                private: ClearBytes::copy_from(private.as_ref()),
                public: der::ed25519_public(pair.public_key().as_ref()),
            })
        }
        KeyKind::X25519 => {
            let key = PrivateKey::generate(&X25519).map_err(failed)?;
            let secret: Curve25519SeedBin<'_> = key.as_be_bytes().map_err(failed)?;
            let private = private::pkcs8(kind, secret.as_ref());
            Ok(MadePair {
                private: private.ok_or_else(|| cannot("the library made no key pair"))?,
                public: der::x25519_public(key.compute_public_key().map_err(failed)?.as_ref()),
            })
        }
        KeyKind::MlDsa(set) => {
            let pair = PqdsaKeyPair::generate(dsa(set)).map_err(failed)?;
            let private = pair.to_pkcs8v1().map_err(failed)?;
            Ok(MadePair {
                private: ClearBytes::copy_from(private.as_ref()),
                public: der::ml_dsa_public(set, pair.public_key().as_ref()),
            })
        }
        KeyKind::Aes | KeyKind::Hmac | KeyKind::TripleDes | KeyKind::Local(_) => {
            Err(cannot("this kind of key is no pair"))
        }
    }
}

pub(super) fn cannot(what: &str) -> HsmError {
    HsmError::Unsupported(what.to_owned())
}

pub(super) fn misfit(what: &str) -> HsmError {
    HsmError::Input(what.to_owned())
}

fn whole_blocks(input: &[u8]) -> Result<(), HsmError> {
    match input.len() % BLOCK {
        0 => Ok(()),
        _ => Err(misfit("without padding, data has whole blocks of 16 bytes")),
    }
}

pub(super) fn aes_key(key: &[u8]) -> Result<UnboundCipherKey, HsmError> {
    let algorithm = match key.len() {
        16 => &AES_128,
        24 => &AES_192,
        32 => &AES_256,
        _ => return Err(cannot("an AES key has 128, 192 or 256 bits")),
    };
    UnboundCipherKey::new(algorithm, key).map_err(|_| cannot("the bytes are no AES key"))
}

fn gcm_key(key: &[u8]) -> Result<LessSafeKey, HsmError> {
    let algorithm = match key.len() {
        16 => &aead::AES_128_GCM,
        24 => &aead::AES_192_GCM,
        32 => &aead::AES_256_GCM,
        _ => return Err(cannot("an AES key has 128, 192 or 256 bits")),
    };
    let key = UnboundKey::new(algorithm, key).map_err(|_| cannot("the bytes are no AES key"))?;
    Ok(LessSafeKey::new(key))
}

fn gcm_nonce(iv: &[u8]) -> Result<Nonce, HsmError> {
    Nonce::try_assume_unique_for_key(iv)
        .map_err(|_| cannot("outside the token, GCM has nonces of 12 bytes"))
}

fn gcm_seal(key: &[u8], iv: &[u8], aad: &[u8], bytes: &mut Vec<u8>) -> Result<(), HsmError> {
    let nonce = gcm_nonce(iv)?;
    gcm_key(key)?
        .seal_in_place_append_tag(nonce, Aad::from(aad), bytes)
        .map_err(|_| misfit("the data was not encrypted"))
}

/// The counter mode inside GCM with a nonce of 12 bytes, for less than 64 GiB.
fn gcm_stream(key: &[u8], iv: &[u8], bytes: &mut [u8]) -> Result<(), HsmError> {
    let failed = |_: Unspecified| misfit("the data does not decrypt under this key");
    let mut first = [0; BLOCK];
    for (to, from) in first.iter_mut().zip(iv.iter().chain(&[0, 0, 0, 2])) {
        *to = *from;
    }
    let key = DecryptingKey::ctr(aes_key(key)?).map_err(failed)?;
    key.decrypt(bytes, DecryptionContext::Iv128(FixedLength::from(&first))).map_err(failed)?;
    Ok(())
}

/// A copy with room for padding or a tag, so that it never moves.
pub(super) fn roomy(input: &[u8]) -> Wiped {
    let mut bytes = Wiped::with_capacity(input.len() + BLOCK);
    bytes.append(input);
    bytes
}

fn encrypt(cipher: &Cipher, key: &[u8], input: &[u8]) -> Result<ClearBytes, HsmError> {
    let failed = |_: Unspecified| misfit("the data was not encrypted");
    let iv = |iv: &[u8; BLOCK]| EncryptionContext::Iv128(FixedLength::from(iv));
    let mut bytes = roomy(input);
    match cipher {
        Cipher::Ecb { padded: true } => {
            let key = PaddedBlockEncryptingKey::ecb_pkcs7(aes_key(key)?).map_err(failed)?;
            key.encrypt(bytes.as_vec_mut()).map_err(failed)?;
        }
        Cipher::Ecb { padded: false } => {
            whole_blocks(input)?;
            let key = EncryptingKey::ecb(aes_key(key)?).map_err(failed)?;
            key.encrypt(&mut bytes).map_err(failed)?;
        }
        Cipher::Cbc { iv: first, padded: true } => {
            let key = PaddedBlockEncryptingKey::cbc_pkcs7(aes_key(key)?).map_err(failed)?;
            key.less_safe_encrypt(bytes.as_vec_mut(), iv(first)).map_err(failed)?;
        }
        Cipher::Cbc { iv: first, padded: false } => {
            whole_blocks(input)?;
            let key = EncryptingKey::cbc(aes_key(key)?).map_err(failed)?;
            key.less_safe_encrypt(&mut bytes, iv(first)).map_err(failed)?;
        }
        Cipher::Ctr { iv: first } => {
            let key = EncryptingKey::ctr(aes_key(key)?).map_err(failed)?;
            key.less_safe_encrypt(&mut bytes, iv(first)).map_err(failed)?;
        }
        Cipher::Gcm { iv, aad, tag } => {
            gcm_seal(key, iv, aad, bytes.as_vec_mut())?;
            let whole = bytes.len();
            bytes.truncate(whole - usize::from(GCM_TAG.saturating_sub(*tag)));
        }
        Cipher::KeyWrap { padded } => return key_wrap::wrap(*padded, key, input),
        _ => return local::encrypt(KeyKind::Aes, cipher, key, input),
    }
    Ok(bytes.into())
}

fn decrypt(cipher: &Cipher, key: &[u8], input: &[u8]) -> Result<ClearBytes, HsmError> {
    let failed = |_: Unspecified| misfit("the data does not decrypt under this key");
    let iv = |iv: &[u8; BLOCK]| DecryptionContext::Iv128(FixedLength::from(iv));
    let mut bytes = roomy(input);
    let len = match cipher {
        Cipher::Ecb { padded: true } => {
            let key = PaddedBlockDecryptingKey::ecb_pkcs7(aes_key(key)?).map_err(failed)?;
            key.decrypt(&mut bytes, DecryptionContext::None).map_err(failed)?.len()
        }
        Cipher::Ecb { padded: false } => {
            whole_blocks(input)?;
            let key = DecryptingKey::ecb(aes_key(key)?).map_err(failed)?;
            key.decrypt(&mut bytes, DecryptionContext::None).map_err(failed)?.len()
        }
        Cipher::Cbc { iv: first, padded: true } => {
            let key = PaddedBlockDecryptingKey::cbc_pkcs7(aes_key(key)?).map_err(failed)?;
            key.decrypt(&mut bytes, iv(first)).map_err(failed)?.len()
        }
        Cipher::Cbc { iv: first, padded: false } => {
            whole_blocks(input)?;
            let key = DecryptingKey::cbc(aes_key(key)?).map_err(failed)?;
            key.decrypt(&mut bytes, iv(first)).map_err(failed)?.len()
        }
        Cipher::Ctr { iv: first } => {
            let key = DecryptingKey::ctr(aes_key(key)?).map_err(failed)?;
            key.decrypt(&mut bytes, iv(first)).map_err(failed)?.len()
        }
        Cipher::Gcm { iv, aad, tag } => {
            let nonce = gcm_nonce(iv)?;
            if *tag != GCM_TAG {
                let stream = |bytes: &mut [u8]| gcm_stream(key, iv, bytes);
                let seal = |bytes: &mut Vec<u8>| gcm_seal(key, iv, aad, bytes);
                return local::open_by_sealing(input, *tag, stream, seal);
            }
            gcm_key(key)?.open_in_place(nonce, Aad::from(aad), &mut bytes).map_err(failed)?.len()
        }
        Cipher::KeyWrap { padded } => return key_wrap::unwrap(*padded, key, input),
        _ => return local::decrypt(KeyKind::Aes, cipher, key, input),
    };
    bytes.truncate(len);
    Ok(bytes.into())
}

/// aws-lc-rs has no HMAC with SHA-3.
macro_rules! mac_sha3 {
    ($hash:ty, $key:ident, $input:ident) => {
        // A key of any length fits.
        match <SimpleHmac<$hash> as KeyInit>::new_from_slice($key) {
            Ok(mut mac) => {
                mac.update($input);
                ClearBytes::copy_from(&mac.finalize().into_bytes())
            }
            Err(_) => ClearBytes::from_vec(Vec::new()),
        }
    };
}

fn mac(hash: Hash, key: &[u8], input: &[u8]) -> ClearBytes {
    let algorithm = match hash {
        Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha224 => hmac::HMAC_SHA224,
        Hash::Sha256 => hmac::HMAC_SHA256,
        Hash::Sha384 => hmac::HMAC_SHA384,
        Hash::Sha512 => hmac::HMAC_SHA512,
        Hash::Sha3_224 => return mac_sha3!(Sha3_224, key, input),
        Hash::Sha3_256 => return mac_sha3!(Sha3_256, key, input),
        Hash::Sha3_384 => return mac_sha3!(Sha3_384, key, input),
        Hash::Sha3_512 => return mac_sha3!(Sha3_512, key, input),
    };
    ClearBytes::copy_from(hmac::sign(&hmac::Key::new(algorithm, key), input).as_ref())
}

/// PKCS #8 or PKCS #1.
fn rsa_pair(key: &[u8]) -> Result<RsaKeyPair, HsmError> {
    RsaKeyPair::from_pkcs8(key)
        .or_else(|_| RsaKeyPair::from_der(key))
        .map_err(|_| cannot("the bytes are no RSA private key in PKCS #8 or PKCS #1 form"))
}

fn rsa_sign(scheme: Scheme, key: &[u8], input: &[u8]) -> Result<ClearBytes, HsmError> {
    let pair = rsa_pair(key)?;
    let modulus = pair.public_modulus_len();
    let hash = scheme.hash().ok_or_else(|| cannot("an RSA key does not sign so"))?;
    if input.len() != hash.len() {
        return Err(misfit("the hash has another length"));
    }
    let encoding = match (rsa_encoding(scheme, modulus), scheme) {
        (Some(encoding), _) => encoding,
        (None, Scheme::RsaPss { hash, salt }) => return rsa::pss_sign(hash, salt, key, input),
        (None, Scheme::RsaPkcs1(hash)) if hash != Hash::Sha1 => {
            return rsa::pkcs1_sign(hash, key, input);
        }
        _ => return Err(cannot("outside the token, RSA does not sign with this hash")),
    };
    let digest = hash.import(input).ok_or_else(|| cannot("RSA does not sign this hash so"))?;
    let mut signature = vec![0; modulus];
    pair.sign_digest(encoding, &digest, &mut signature)
        .map_err(|_| misfit("the RSA key is too short for this hash"))?;
    Ok(ClearBytes::from_vec(signature))
}

type RsaEncoding = &'static dyn signature::RsaEncoding;

fn rsa_encoding(scheme: Scheme, modulus: usize) -> Option<RsaEncoding> {
    use signature::RsaPssSaltLength::Max;
    let encoding: RsaEncoding = match scheme {
        Scheme::RsaPkcs1(Hash::Sha256) => &signature::RSA_PKCS1_SHA256,
        Scheme::RsaPkcs1(Hash::Sha384) => &signature::RSA_PKCS1_SHA384,
        Scheme::RsaPkcs1(Hash::Sha512) => &signature::RSA_PKCS1_SHA512,
        Scheme::RsaPss { hash, salt } => match (hash, salt_kind(hash, salt, modulus)?) {
            (Hash::Sha256, Salt::AsHash) => &signature::RSA_PSS_SHA256,
            (Hash::Sha384, Salt::AsHash) => &signature::RSA_PSS_SHA384,
            (Hash::Sha512, Salt::AsHash) => &signature::RSA_PSS_SHA512,
            (Hash::Sha256, Salt::Longest) => {
                &const { signature::RSA_PSS_SHA256.with_pss_salt_length(Max) }
            }
            (Hash::Sha384, Salt::Longest) => {
                &const { signature::RSA_PSS_SHA384.with_pss_salt_length(Max) }
            }
            (Hash::Sha512, Salt::Longest) => {
                &const { signature::RSA_PSS_SHA512.with_pss_salt_length(Max) }
            }
            _ => return None,
        },
        _ => return None,
    };
    Some(encoding)
}

/// As aws-lc-rs has it.
pub(super) fn oaep(hash: Hash) -> Option<&'static OaepAlgorithm> {
    Some(match hash {
        Hash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        Hash::Sha256 => &OAEP_SHA256_MGF1SHA256,
        Hash::Sha384 => &OAEP_SHA384_MGF1SHA384,
        Hash::Sha512 => &OAEP_SHA512_MGF1SHA512,
        Hash::Sha224 | Hash::Sha3_224 | Hash::Sha3_256 | Hash::Sha3_384 | Hash::Sha3_512 => {
            return None;
        }
    })
}

fn rsa_decrypt(cipher: &Cipher, key: &[u8], input: &[u8]) -> Result<ClearBytes, HsmError> {
    let failed = |_: Unspecified| misfit("the data does not decrypt under this key");
    let pkcs8: Pkcs8V1Der<'_> =
        rsa_pair(key)?.as_der().map_err(|_| cannot("the bytes are no RSA private key"))?;
    let private = PrivateDecryptingKey::from_pkcs8(pkcs8.as_ref())
        .map_err(|_| cannot("the RSA key is too short or too long to decrypt with"))?;
    let mut clear = Wiped::zeros(private.key_size_bytes());
    let len = match cipher {
        Cipher::RsaPkcs1 => {
            let key = Pkcs1PrivateDecryptingKey::new(private).map_err(failed)?;
            key.decrypt(input, &mut clear).map_err(failed)?.len()
        }
        Cipher::RsaOaep { hash, mask, label } => {
            let Some(algorithm) = oaep(*hash).filter(|_| mask == hash && label.is_empty()) else {
                return rsa::oaep_decrypt((*hash, *mask, label), key, input);
            };
            let key = OaepPrivateDecryptingKey::new(private).map_err(failed)?;
            key.decrypt(algorithm, input, &mut clear, None).map_err(failed)?.len()
        }
        _ => return Err(cannot("an RSA key is no AES key")),
    };
    clear.truncate(len);
    Ok(clear.into())
}

pub(super) fn signing(curve: Curve) -> &'static EcdsaSigningAlgorithm {
    match curve {
        Curve::P256 => &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        Curve::P384 => &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
        Curve::P521 => &signature::ECDSA_P521_SHA512_ASN1_SIGNING,
    }
}

/// The hash whose algorithm a curve signs here, and `digest` of `hash` in its length: ECDSA takes the
/// leftmost bits of a longer one, and a shorter one is a smaller number.
pub(super) fn fitted(curve: Curve, hash: Hash, digest: &[u8]) -> Result<Digest, HsmError> {
    let misfit = || misfit("the hash has another length");
    if digest.len() != hash.len() {
        return Err(misfit());
    }
    let own = match curve {
        Curve::P256 => Hash::Sha256,
        Curve::P384 => Hash::Sha384,
        Curve::P521 => Hash::Sha512,
    };
    let mut bytes = vec![0; own.len().saturating_sub(digest.len())];
    bytes.extend(digest.iter().take(own.len()));
    own.import(&bytes).ok_or_else(misfit)
}

fn ec_sign(curve: Curve, hash: Hash, key: &[u8], input: &[u8]) -> Result<ClearBytes, HsmError> {
    if hash == Hash::Sha1 {
        return Err(cannot("outside the token, nothing is signed with SHA-1"));
    }
    let (algorithm, digest) = (signing(curve), fitted(curve, hash, input)?);
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, key)
        .or_else(|_| EcdsaKeyPair::from_private_key_der(algorithm, key))
        .map_err(|_| cannot("the bytes are no private key of this curve"))?;
    let signed = pair.sign_digest(&digest).map_err(|_| misfit("the hash was not signed"))?;
    Ok(ClearBytes::copy_from(signed.as_ref()))
}

fn ed_sign(key: &[u8], input: &[u8]) -> Result<ClearBytes, HsmError> {
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key)
        .or_else(|_| Ed25519KeyPair::from_seed_unchecked(key))
        .map_err(|_| cannot("the bytes are no Ed25519 private key"))?;
    Ok(ClearBytes::copy_from(pair.sign(input).as_ref()))
}

pub(super) fn dsa(set: DsaSet) -> &'static PqdsaSigningAlgorithm {
    match set {
        DsaSet::MlDsa44 => &signature::ML_DSA_44_SIGNING,
        DsaSet::MlDsa65 => &signature::ML_DSA_65_SIGNING,
        DsaSet::MlDsa87 => &signature::ML_DSA_87_SIGNING,
    }
}

fn dsa_sign(set: DsaSet, key: &[u8], input: &[u8]) -> Result<ClearBytes, HsmError> {
    let pair = PqdsaKeyPair::from_pkcs8(dsa(set), key)
        .map_err(|_| cannot("the bytes are no ML-DSA private key of this parameter set"))?;
    let mut signature = vec![0; set.signature_bytes()];
    pair.sign(input, &mut signature).map_err(|_| misfit("the message was not signed"))?;
    Ok(ClearBytes::from_vec(signature))
}
