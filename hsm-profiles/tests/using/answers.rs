//! What a token does with a key is what the library does in this process, byte for byte; what it does
//! not have it says it has not, and the library does it.

use std::num::NonZeroU32;

use hsm_profiles::Token;
use hsm_profiles::soft::SoftToken;
use km_core::hsm::{Hsm, HsmError};
use km_core::material::ClearBytes;
use km_core::usage::derive::Derivation;
use km_core::usage::{Action, Cipher, Hash, KeyKind, Scheme, process, public};

use super::common::{Room, runtime, with_token, with_token_of};
use super::{brought, handles_stay_inside, signs};

#[test]
fn the_token_answers_as_the_library_does() {
    with_token("answers::the_token_answers_as_the_library_does", |room| same_answers(&room));
}

#[test]
fn the_token_answers_as_the_library_does_kryoptic() {
    with_token_of(
        SoftToken::Kryoptic,
        "answers::the_token_answers_as_the_library_does_kryoptic",
        |room| same_answers(&room),
    );
}

/// All modes of AES that tokens are asked for, with lengths that fit, and whether SoftHSM has them.
fn ciphers() -> Vec<(Cipher, &'static [usize], bool)> {
    let iv = [0xF5; 16];
    let (whole, any): (&[usize], &[usize]) = (&[96], &[96, 33, 1]);
    let aad = b"with it".to_vec();
    vec![
        (Cipher::Ecb { padded: false }, whole, true),
        (Cipher::Ecb { padded: true }, any, true),
        (Cipher::Cbc { iv, padded: false }, whole, true),
        (Cipher::Cbc { iv, padded: true }, any, true),
        // Counts over the end of the block.
        (Cipher::Ctr { iv: [0xFF; 16] }, any, true),
        (Cipher::Gcm { iv: vec![9; 12], aad: aad.clone(), tag: 16 }, any, true),
        (Cipher::Gcm { iv: vec![9; 12], aad: vec![], tag: 16 }, any, true),
        (Cipher::KeyWrap { padded: false }, &[16, 24, 96], true),
        (Cipher::KeyWrap { padded: true }, &[1, 8, 9, 31, 96], true),
        (Cipher::Cfb { iv }, any, false),
        (Cipher::Ofb { iv }, any, false),
        (Cipher::Ccm { nonce: vec![9; 12], aad: aad.clone(), tag: 16 }, any, false),
        (Cipher::Ccm { nonce: vec![9; 13], aad: vec![], tag: 8 }, any, false),
        (Cipher::Ccm { nonce: vec![9; 7], aad, tag: 12 }, any, false),
    ]
}

/// Both ways, or a refusal that leaves it to this process.
async fn same_cipher(
    token: &Token,
    (kind, bytes): (KeyKind, &[u8]),
    cipher: &Cipher,
    len: usize,
    inside: bool,
) {
    let key = brought(token, &format!("{kind:?} {}", bytes.len()), kind, bytes).await;
    let (here, clear) = (ClearBytes::copy_from(bytes), ClearBytes::from_vec((0..96).collect()));
    let clear = clear.slice(0..len).unwrap();
    let encrypt = Action::Encrypt(cipher.clone());
    let known = process::act(kind, &encrypt, &here, &clear).unwrap();
    let sealed = token.use_key(&key, &encrypt, &clear).await;
    if !inside {
        assert!(matches!(sealed, Err(HsmError::Unsupported(_))), "{cipher:?}: {sealed:?}");
        return;
    }
    assert_eq!(sealed.unwrap(), known, "{cipher:?} {len}");
    let decrypt = Action::Decrypt(cipher.clone());
    assert_eq!(process::act(kind, &decrypt, &here, &known).unwrap(), clear, "{cipher:?} {len}");
    assert_eq!(token.use_key(&key, &decrypt, &known).await.unwrap(), clear, "{cipher:?} {len}");
}

pub(super) fn same_answers(room: &Room) {
    let token = room.open();
    let soft_hsm = room.product == SoftToken::SoftHsm;
    runtime().block_on(async {
        for key in [16, 24, 32] {
            let bytes = vec![0xA7; key];
            for (cipher, lens, soft_hsm_has_it) in ciphers() {
                for len in lens {
                    let inside = soft_hsm_has_it || !soft_hsm;
                    same_cipher(&token, (KeyKind::Aes, &bytes), &cipher, *len, inside).await;
                }
            }
        }
        for (key, padded, len) in [(24, false, 96), (24, true, 33), (16, true, 8)] {
            let bytes: Vec<u8> = (1..=key).collect();
            let cipher = Cipher::Cbc8 { iv: [0xF5; 8], padded };
            same_cipher(&token, (KeyKind::TripleDes, &bytes), &cipher, len, soft_hsm).await;
        }
        for action in by_secret() {
            let inside = !soft_hsm || soft_hsm_has(&action);
            same_by_secret(&token, &action, inside).await;
        }
        handles_stay_inside(room, 4);
        for name in [&b"Hmac 64"[..], b"TripleDes 24"] {
            token.forget_key(name).await;
        }
        // The next request of each session drops it; there are three, so ask often.
        for _ in 0..64 {
            let key = brought(&token, "aes-16", KeyKind::Aes, &[0xA7; 16]).await;
            let ecb = Action::Encrypt(Cipher::Ecb { padded: true });
            token.use_key(&key, &ecb, &ClearBytes::copy_from(b"x")).await.unwrap();
        }
        assert!(token.status().ready, "{:?}", token.status());
    });
}

/// What is done with a secret of any length.
fn by_secret() -> Vec<Action> {
    let (salt, info) = (b"salt".to_vec(), b"context".to_vec());
    let hashes = [
        Hash::Sha1,
        Hash::Sha224,
        Hash::Sha256,
        Hash::Sha384,
        Hash::Sha512,
        Hash::Sha3_224,
        Hash::Sha3_256,
        Hash::Sha3_384,
        Hash::Sha3_512,
    ];
    let hkdf = |hash, salt, len| Action::Derive {
        how: Derivation::Hkdf { hash, salt, info: info.clone() },
        len,
    };
    let pbkdf2 = |hash, len| {
        let iterations = NonZeroU32::new(1000).unwrap();
        Action::Derive { how: Derivation::Pbkdf2 { hash, salt: salt.clone(), iterations }, len }
    };
    let digest = |hash| Action::Derive { how: Derivation::Hash(hash), len: 20 };
    let mut all: Vec<_> = hashes.into_iter().map(Action::Mac).collect();
    all.extend(hashes.into_iter().map(digest));
    all.extend([
        hkdf(Hash::Sha256, salt.clone(), 42),
        hkdf(Hash::Sha1, vec![], 100),
        hkdf(Hash::Sha512, salt.clone(), 16),
        pbkdf2(Hash::Sha1, 50),
        pbkdf2(Hash::Sha512, 32),
    ]);
    all
}

fn soft_hsm_has(action: &Action) -> bool {
    match action {
        Action::Mac(hash) | Action::Derive { how: Derivation::Hash(hash), .. } => {
            matches!(hash, Hash::Sha1 | Hash::Sha224 | Hash::Sha256 | Hash::Sha384 | Hash::Sha512)
        }
        _ => false,
    }
}

async fn same_by_secret(token: &Token, action: &Action, inside: bool) {
    let bytes = [0x0B; 64];
    let key = brought(token, "Hmac 64", KeyKind::Hmac, &bytes).await;
    let (here, data) = (ClearBytes::copy_from(&bytes), ClearBytes::copy_from(b"Hi There"));
    let known = process::act(KeyKind::Hmac, action, &here, &data).unwrap();
    let done = token.use_key(&key, action, &data).await;
    match inside {
        true => assert_eq!(done.unwrap(), known, "{action:?}"),
        false => assert!(matches!(done, Err(HsmError::Unsupported(_))), "{action:?}: {done:?}"),
    }
}

#[test]
fn rsa_in_the_token_has_the_hashes_of_the_library() {
    with_token("answers::rsa_in_the_token_has_the_hashes_of_the_library", rsa);
}

#[test]
fn rsa_in_the_token_has_the_hashes_of_the_library_kryoptic() {
    with_token_of(
        SoftToken::Kryoptic,
        "answers::rsa_in_the_token_has_the_hashes_of_the_library_kryoptic",
        rsa,
    );
}

/// SoftHSM has OAEP with SHA-1 alone and no SHA-3.
fn rsa(room: Room) {
    let token = room.open();
    let kryoptic = room.product == SoftToken::Kryoptic;
    runtime().block_on(async {
        let pair = process::make(KeyKind::Rsa, 2048).unwrap();
        let bytes = pair.private.expose(<[u8]>::to_vec);
        let key = brought(&token, "rsa", KeyKind::Rsa, &bytes).await;
        for (hash, salt, inside) in [
            (Hash::Sha384, 48, true),
            (Hash::Sha256, 0, true),
            (Hash::Sha3_256, 32, kryoptic),
            (Hash::Sha3_512, 64, kryoptic),
        ] {
            let scheme = Scheme::RsaPss { hash, salt };
            if inside {
                signs(&token, &key, scheme, &pair.public).await;
                continue;
            }
            let input = ClearBytes::from_vec(hash.of(b"x"));
            let refused = token.use_key(&key, &Action::Sign(scheme), &input).await;
            assert!(matches!(refused, Err(HsmError::Unsupported(_))), "{hash:?}: {refused:?}");
        }
        for (hash, mask, label, inside) in [
            (Hash::Sha1, Hash::Sha1, &b""[..], true),
            (Hash::Sha256, Hash::Sha256, b"", kryoptic),
            (Hash::Sha256, Hash::Sha1, b"a label", kryoptic),
            (Hash::Sha3_256, Hash::Sha3_256, b"", kryoptic),
        ] {
            let cipher = Cipher::RsaOaep { hash, mask, label: label.to_vec() };
            let sealed = public::encrypt(&cipher, &pair.public, b"a secret").unwrap();
            let sealed = ClearBytes::from_vec(sealed);
            let opened = token.use_key(&key, &Action::Decrypt(cipher.clone()), &sealed).await;
            match inside {
                true => assert_eq!(opened.unwrap(), ClearBytes::copy_from(b"a secret")),
                false => assert!(matches!(opened, Err(HsmError::Unsupported(_))), "{opened:?}"),
            }
        }
        assert!(token.status().ready, "{:?}", token.status());
    });
}
