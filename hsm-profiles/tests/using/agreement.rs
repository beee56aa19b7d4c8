//! Secrets agreed on in the token, and keys made of them there.

use hsm_profiles::Token;
use hsm_profiles::soft::SoftToken;
use km_core::hsm::{Hsm, HsmError, TokenKey};
use km_core::material::ClearBytes;
use km_core::usage::{Action, Cipher, Curve, Hash, KeyKind, process};

use super::common::{Room, runtime, with_token, with_token_of};
use super::{AAD, brought, handles, handles_stay_inside, made};

#[test]
fn secrets_are_agreed_on_in_the_token() {
    with_token("agreement::secrets_are_agreed_on_in_the_token", agreement);
}

#[test]
fn secrets_are_agreed_on_in_the_token_kryoptic() {
    with_token_of(
        SoftToken::Kryoptic,
        "agreement::secrets_are_agreed_on_in_the_token_kryoptic",
        agreement,
    );
}

const AGREE: [KeyKind; 4] =
    [KeyKind::Ec(Curve::P256), KeyKind::Ec(Curve::P384), KeyKind::Ec(Curve::P521), KeyKind::X25519];

/// Keys made in the token and keys brought to it give what the library gives at the other end.
fn agreement(room: Room) {
    let config = hsm_profiles::TokenConfig { sessions: Some(1), ..room.config() };
    let token = Token::open(config).unwrap();
    runtime().block_on(async {
        for kind in AGREE {
            let other = process::make(kind, 0).unwrap();
            let public = ClearBytes::copy_from(&other.public);
            let pair = process::make(kind, 0).unwrap();
            let bytes = pair.private.expose(<[u8]>::to_vec);
            let key = brought(&token, &format!("brought {kind:?}"), kind, &bytes).await;
            if kind == KeyKind::X25519 && room.product == SoftToken::SoftHsm {
                for refused in [
                    token.use_key(&key, &Action::Agree, &public).await.map(drop),
                    token.make_key(AAD, kind, 256).await.map(drop),
                ] {
                    assert!(matches!(refused, Err(HsmError::Unsupported(_))), "{refused:?}");
                }
                continue;
            }
            let secret = token.use_key(&key, &Action::Agree, &public).await.unwrap();
            let there = |own: &[u8]| {
                let own = ClearBytes::copy_from(own);
                process::act(kind, &Action::Agree, &other.private, &own).unwrap()
            };
            assert_eq!(secret, there(&pair.public), "{kind:?}");
            let (inside, own) = made(&token, &format!("made {kind:?}"), kind, 0).await;
            let secret = token.use_key(&inside, &Action::Agree, &public).await.unwrap();
            assert_eq!(secret, there(&own.unwrap()), "{kind:?}");
            keys_of_it(&room, &token, &inside, &other.public, &secret).await;
        }
        handles_stay_inside(&room, 4);
        bad_points(&room, &token).await;
    });
}

/// A key that never leaves the token is the secret, or its start, as KMIP has it. SoftHSM would take
/// the end of it for a shorter key, and has nothing to extract the start with.
async fn keys_of_it(
    room: &Room,
    token: &Token,
    base: &TokenKey,
    public: &[u8],
    secret: &ClearBytes,
) {
    let clear = ClearBytes::copy_from(&[7; 32]);
    let (aad, mac) = (b"derived".to_vec(), Action::Mac(Hash::Sha256));
    let encrypt = Action::Encrypt(Cipher::Ecb { padded: false });
    let whole = u32::try_from(secret.len() * 8).unwrap();
    for (kind, bits, action) in
        [(KeyKind::Hmac, whole, &mac), (KeyKind::Aes, 256, &encrypt), (KeyKind::Aes, 128, &encrypt)]
    {
        let made = token.agree_key(base, public, &aad, kind, bits).await;
        // SoftHSM wraps whole blocks of 8 bytes only.
        let odd = room.product == SoftToken::SoftHsm && bits % 64 != 0;
        if room.product == SoftToken::SoftHsm && (bits < whole || odd) {
            assert!(matches!(made, Err(HsmError::Unsupported(_))), "{bits}: {made:?}");
            continue;
        }
        let (name, sealed) = (
            [&base.name[..], format!("{kind:?} {bits}").as_bytes()].concat(),
            made.unwrap().sealed,
        );
        let key = TokenKey { name, kind, wrapped: true, aad: aad.clone(), sealed };
        let start = secret.slice(0..usize::try_from(bits / 8).unwrap()).unwrap();
        let known = process::act(kind, action, &start, &clear).unwrap();
        assert_eq!(token.use_key(&key, action, &clear).await.unwrap(), known, "{bits}");
    }
    let too_long = u32::try_from(secret.len() * 8 + 8).unwrap();
    for (kind, bits) in [(KeyKind::Hmac, too_long), (KeyKind::Aes, 0), (AGREE[0], 256)] {
        let refused = token.agree_key(base, public, &aad, kind, bits).await;
        assert!(matches!(refused, Err(HsmError::Unsupported(_))), "{refused:?}");
    }
}

/// Another's key that is none costs nobody the session, and is no oracle for the private key.
async fn bad_points(room: &Room, token: &Token) {
    for kind in &AGREE[..3] {
        let (key, own) = made(token, &format!("bad {kind:?}"), *kind, 0).await;
        let before = handles(room);
        let own = own.unwrap();
        let mut beside = own.clone();
        *beside.last_mut().unwrap() ^= 1;
        let other = AGREE.into_iter().find(|other| other != kind).unwrap();
        let other = process::make(other, 0).unwrap().public;
        for wrong in [&beside[..], &other, &own[..own.len() - 1], b"", b"no key"] {
            let input = ClearBytes::copy_from(wrong);
            let refused = token.use_key(&key, &Action::Agree, &input).await;
            assert!(matches!(refused, Err(HsmError::Input(_))), "{kind:?}: {refused:?}");
            let refused = token.agree_key(&key, wrong, AAD, KeyKind::Aes, 256).await;
            assert!(matches!(refused, Err(HsmError::Input(_))), "{kind:?}: {refused:?}");
        }
        assert!(token.status().ready, "{:?}", token.status());
        assert!(handles(room).len() > before.len(), "the session lives, the key is at hand");
        let agreed = token.use_key(&key, &Action::Agree, &ClearBytes::copy_from(&own)).await;
        assert!(agreed.unwrap().len() >= 32);
    }
}
