//! Key agreement in this process: the secret that a private key and another's public key share.
//! Enter through [`agree`].

use aws_lc_rs::agreement::{
    self, Algorithm, ECDH_P256, ECDH_P384, ECDH_P521, PrivateKey, UnparsedPublicKey, X25519,
};

use super::{
    Curve, KeyKind,
    private::{Parts, parts},
};
use crate::{hsm::HsmError, material::ClearBytes};

/// ECDH on a curve.
pub(super) fn ecdh(curve: Curve) -> &'static Algorithm {
    match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
        Curve::P521 => &ECDH_P521,
    }
}

/// The shared secret of `private` (PKCS #8 or SEC 1) and `public` (SubjectPublicKeyInfo in DER): for
/// ECDH the x-coordinate in the bytes of the curve, for X25519 32 bytes.
///
/// # Errors
/// [`HsmError::Input`] when `private` is on none of the curves P-256, P-384, P-521 and X25519, or
/// `public` is not a valid key on the same; the result of X25519 is never zero.
pub fn agree(private: &ClearBytes, public: &[u8]) -> Result<ClearBytes, HsmError> {
    let misfit = |what: &str| HsmError::Input(what.to_owned());
    let key = private.expose(key_of);
    let key =
        key.ok_or_else(|| misfit("the private key is not on P-256, P-384, P-521 or X25519"))?;
    let public = UnparsedPublicKey::new(key.algorithm(), public);
    let refused = misfit("the public key is not a valid one on the curve of the private key");
    agreement::agree(&key, public, refused, |secret| Ok(ClearBytes::copy_from(secret)))
}

fn key_of(bytes: &[u8]) -> Option<PrivateKey> {
    if let Some(Parts::Seed(secret)) = parts(KeyKind::X25519, bytes) {
        return PrivateKey::from_private_key(&X25519, secret).ok();
    }
    let curves = [Curve::P256, Curve::P384, Curve::P521];
    curves.into_iter().find_map(|at| PrivateKey::from_private_key_der(ecdh(at), bytes).ok())
}
