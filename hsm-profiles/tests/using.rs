//! Keys of applications used inside the token, checked against another implementation, on SoftHSM
//! and on Kryoptic.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "using/agreement.rs"]
mod agreement;
#[path = "using/answers.rs"]
mod answers;
mod common;

use std::sync::Arc;

use common::{Room, has_post_quantum, runtime, with_token, with_token_of};
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use hsm_profiles::Token;
use hsm_profiles::soft::SoftToken;
use km_core::custody::{Custodies, QUICK, SLOW};
use km_core::hsm::{Custody, Hsm, HsmError, MadeKey, TokenKey};
use km_core::material::ClearBytes;
use km_core::usage::{
    Action, Cipher, Curve, DsaSet, Hash, KeyKind, KeyUse, Scheme, process, public,
};

const AAD: &[u8] = b"object 1";

/// A key whose bytes are sealed, as an application brought it.
async fn brought(token: &Token, name: &str, kind: KeyKind, bytes: &[u8]) -> TokenKey {
    let sealed = token.seal(AAD, &ClearBytes::copy_from(bytes)).await.unwrap();
    let name = name.as_bytes().to_vec();
    TokenKey { name, kind, wrapped: false, aad: AAD.to_vec(), sealed }
}

/// A key that was made in the token.
async fn made(token: &Token, name: &str, kind: KeyKind, bits: u32) -> (TokenKey, Option<Vec<u8>>) {
    let MadeKey { sealed, public } = token.make_key(AAD, kind, bits).await.unwrap();
    let name = name.as_bytes().to_vec();
    (TokenKey { name, kind, wrapped: true, aad: AAD.to_vec(), sealed }, public)
}

#[test]
fn keys_made_in_the_token_work_there() {
    with_token("keys_made_in_the_token_work_there", made_inside);
}

#[test]
fn keys_made_in_the_token_work_there_kryoptic() {
    with_token_of(SoftToken::Kryoptic, "keys_made_in_the_token_work_there_kryoptic", made_inside);
}

#[test]
fn private_keys_from_outside_are_used_in_the_token() {
    with_token("private_keys_from_outside_are_used_in_the_token", |room| {
        brought_pairs(&room, Way::Clear)
    });
}

#[test]
fn private_keys_from_outside_are_used_in_the_token_kryoptic() {
    with_token_of(
        SoftToken::Kryoptic,
        "private_keys_from_outside_are_used_in_the_token_kryoptic",
        |room| brought_pairs(&room, Way::Clear),
    );
}

/// As tokens want it that take no clear keys (FIPS 140, level 3).
#[test]
fn keys_from_outside_go_in_encrypted_where_the_profile_says_so() {
    with_token_of(
        SoftToken::Kryoptic,
        "keys_from_outside_go_in_encrypted_where_the_profile_says_so",
        |room| {
            let room = room.with_keys("encrypted", "import = \"encrypt-then-unwrap\"");
            answers::same_answers(&room);
            brought_pairs(&room, Way::Unwrapped);
        },
    );
}

#[test]
fn several_uses_are_one_request() {
    with_token("several_uses_are_one_request", many_at_once);
}

#[test]
fn several_uses_are_one_request_kryoptic() {
    with_token_of(SoftToken::Kryoptic, "several_uses_are_one_request_kryoptic", many_at_once);
}

#[test]
fn bad_data_costs_nobody_the_keys_at_hand() {
    with_token("bad_data_costs_nobody_the_keys_at_hand", bad_data);
}

#[test]
fn bad_data_costs_nobody_the_keys_at_hand_kryoptic() {
    with_token_of(SoftToken::Kryoptic, "bad_data_costs_nobody_the_keys_at_hand_kryoptic", bad_data);
}

#[test]
fn a_key_moves_to_the_next_epoch_inside_the_token() {
    with_token("a_key_moves_to_the_next_epoch_inside_the_token", new_epoch);
}

#[test]
fn a_key_moves_to_the_next_epoch_inside_the_token_kryoptic() {
    with_token_of(
        SoftToken::Kryoptic,
        "a_key_moves_to_the_next_epoch_inside_the_token_kryoptic",
        new_epoch,
    );
}

/// The session objects that are no copies of KEKs.
fn handles(room: &Room) -> Vec<ObjectHandle> {
    let session = room.other_session();
    let all = session.find_objects(&[Attribute::Token(false)]).unwrap();
    let is_kek = |handle: &ObjectHandle| {
        let label = session.get_attributes(*handle, &[AttributeType::Label]).unwrap();
        matches!(label.first(), Some(Attribute::Label(label)) if label.starts_with(b"qkm-kek-"))
    };
    all.into_iter().filter(|handle| !is_kek(handle)).collect()
}

/// Every key at hand is sensitive and not extractable, and its value is not shown.
fn handles_stay_inside(room: &Room, least: usize) {
    let session = room.other_session();
    let found = handles(room);
    assert!(found.len() >= least, "keys are at hand: {found:?}");
    for handle in found {
        let wanted = [AttributeType::Sensitive, AttributeType::Extractable];
        let told = session.get_attributes(handle, &wanted).unwrap();
        assert!(told.contains(&Attribute::Sensitive(true)), "{told:?}");
        assert!(told.contains(&Attribute::Extractable(false)), "{told:?}");
        let value = session.get_attributes(handle, &[AttributeType::Value]);
        assert!(!matches!(value.as_deref(), Ok([Attribute::Value(_)])), "a key can be read");
    }
}

fn made_inside(room: Room) {
    let token = room.open();
    runtime().block_on(async {
        for bits in [128, 256] {
            let (key, public) = made(&token, &format!("aes-{bits}"), KeyKind::Aes, bits).await;
            assert_eq!(public, None);
            let clear = ClearBytes::copy_from(b"in the token");
            let cipher = Cipher::Gcm { iv: vec![3; 12], aad: vec![1], tag: 16 };
            let encrypt = Action::Encrypt(cipher.clone());
            let sealed = token.use_key(&key, &encrypt, &clear).await.unwrap();
            let decrypt = Action::Decrypt(cipher);
            assert_eq!(token.use_key(&key, &decrypt, &sealed).await.unwrap(), clear);
            let moved =
                TokenKey { aad: b"object 2".to_vec(), name: b"moved".to_vec(), ..key.clone() };
            let refused = token.use_key(&moved, &decrypt, &sealed).await;
            assert!(matches!(refused, Err(HsmError::Refused(_))), "{refused:?}");
            let other = TokenKey { kind: KeyKind::Hmac, name: b"other".to_vec(), ..key };
            let refused = token.use_key(&other, &Action::Mac(Hash::Sha256), &clear).await;
            assert!(matches!(refused, Err(HsmError::Unsupported(_))), "{refused:?}");
        }
        let (key, _) = made(&token, "hmac", KeyKind::Hmac, 256).await;
        let data = ClearBytes::copy_from(b"said");
        let mac = token.use_key(&key, &Action::Mac(Hash::Sha256), &data).await.unwrap();
        assert_eq!(mac.len(), 32);
        for (kind, bits, scheme) in [
            (KeyKind::Ec(Curve::P256), 0, Scheme::Ecdsa(Hash::Sha256)),
            (KeyKind::Ec(Curve::P384), 0, Scheme::Ecdsa(Hash::Sha384)),
            (KeyKind::Ec(Curve::P521), 0, Scheme::Ecdsa(Hash::Sha512)),
            (KeyKind::Ec(Curve::P256), 0, Scheme::Ecdsa(Hash::Sha224)),
            (KeyKind::Ec(Curve::P256), 0, Scheme::Ecdsa(Hash::Sha3_512)),
            (KeyKind::Ec(Curve::P384), 0, Scheme::Ecdsa(Hash::Sha3_256)),
            (KeyKind::Rsa, 2048, Scheme::RsaPkcs1(Hash::Sha256)),
            (KeyKind::Rsa, 2048, Scheme::RsaPkcs1(Hash::Sha3_384)),
            (KeyKind::Rsa, 2048, Scheme::RsaPss { hash: Hash::Sha256, salt: 32 }),
            (KeyKind::Ed25519, 256, Scheme::Ed25519),
        ] {
            // SoftHSM makes Ed25519 keys, but does not wrap them.
            if kind == KeyKind::Ed25519 && !has_post_quantum(room.product) {
                let refused = token.make_key(AAD, kind, bits).await;
                assert!(matches!(refused, Err(HsmError::Unsupported(_))), "{refused:?}");
                continue;
            }
            let name = format!("{kind:?} {scheme:?}");
            let (key, public) = made(&token, &name, kind, bits).await;
            signs(&token, &key, scheme, &public.unwrap()).await;
        }
        // Those who have it do not wrap such keys, so they do not make them either.
        let refused = token.make_key(AAD, KeyKind::MlDsa(DsaSet::MlDsa65), 0).await;
        assert!(matches!(refused, Err(HsmError::Unsupported(_))), "{refused:?}");
        // A refused sealing costs the session that met it, so those before may be gone.
        handles_stay_inside(&room, 6);
    });
}

/// Several uses are one request; if one of them does not fit, nothing is answered of the others.
fn many_at_once(room: Room) {
    let token = room.open();
    assert!(token.sessions() > 0);
    runtime().block_on(async {
        let (key, _) = made(&token, "aes", KeyKind::Aes, 256).await;
        let cipher = |n: u8| Cipher::Cbc { iv: [n; 16], padded: true };
        let use_of = |action, input| KeyUse { action, input };
        let clear = |n: u8| ClearBytes::from_vec(vec![n; usize::from(n)]);
        let each = |n: u8| use_of(Action::Encrypt(cipher(n)), clear(n));
        let sealed = token.use_key_each(&key, &(0..40).map(each).collect()).await.unwrap();
        assert_eq!(sealed.len(), 40);
        for (n, sealed) in (0..).zip(&sealed) {
            let opened = token.use_key(&key, &Action::Decrypt(cipher(n)), sealed).await.unwrap();
            assert_eq!(opened, clear(n), "{n}");
        }
        let mut back: Vec<_> = (0..)
            .zip(sealed)
            .map(|(n, sealed)| use_of(Action::Decrypt(cipher(n)), sealed))
            .collect();
        back[7].input = ClearBytes::copy_from(b"no ciphertext");
        let back: Arc<[KeyUse]> = back.into();
        let refused = token.use_key_each(&key, &back).await;
        assert!(matches!(refused, Err(HsmError::Input(_))), "{refused:?}");
        for one in back.iter().skip(8) {
            token.use_key(&key, &one.action, &one.input).await.unwrap();
        }
        assert!(token.status().ready, "{:?}", token.status());
        let none = token.use_key_each(&key, &Arc::from([])).await;
        assert_eq!(none.unwrap(), []);
    });
}

/// SoftHSM has EdDSA; Kryoptic only as `make pq` builds it.
fn has_ed25519(room: &Room) -> bool {
    room.product == SoftToken::SoftHsm || has_post_quantum(room.product)
}

/// What is signed: the hash of the message, or the message itself.
fn message(scheme: Scheme, said: &[u8]) -> Vec<u8> {
    scheme.hash().map_or_else(|| said.to_vec(), |hash| hash.of(said))
}

/// The token's signature is one under `public`, and of nothing else.
async fn signs(token: &Token, key: &TokenKey, scheme: Scheme, public: &[u8]) {
    let input = ClearBytes::from_vec(message(scheme, b"what is signed"));
    let signature = token.use_key(key, &Action::Sign(scheme), &input).await.unwrap();
    let fits = |said: &[u8]| {
        let said = message(scheme, said);
        let check = |s: &[u8]| public::verify(key.kind, scheme, public, &said, s);
        signature.expose(check).unwrap()
    };
    assert!(fits(b"what is signed"), "{:?} {scheme:?}", key.kind);
    assert!(!fits(b"what is not"), "{:?} {scheme:?}", key.kind);
}

/// How keys from outside go into the token.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Clear,
    Unwrapped,
}

/// Private keys that applications brought are used in the token, those it does not have are not.
fn brought_pairs(room: &Room, way: Way) {
    let token = room.open();
    // Kryoptic 1.5.4 takes ML-DSA keys in clear, and unwraps none: see what it says below.
    let ml_dsa = has_post_quantum(room.product) && way == Way::Clear;
    let (sha256, sha384) = (Hash::Sha256, Hash::Sha384);
    runtime().block_on(async {
        let rsa = process::make(KeyKind::Rsa, 2048).unwrap();
        let bytes = rsa.private.expose(<[u8]>::to_vec);
        let key = brought(&token, "rsa", KeyKind::Rsa, &bytes).await;
        for scheme in [Scheme::RsaPkcs1(sha256), Scheme::RsaPss { hash: sha256, salt: 32 }] {
            signs(&token, &key, scheme, &rsa.public).await;
        }
        let sealed = public::encrypt(&Cipher::RsaPkcs1, &rsa.public, b"a secret").unwrap();
        let decrypt = Action::Decrypt(Cipher::RsaPkcs1);
        let opened = token.use_key(&key, &decrypt, &ClearBytes::from_vec(sealed)).await;
        assert_eq!(opened.unwrap(), ClearBytes::copy_from(b"a secret"));

        for (kind, scheme, inside) in [
            (KeyKind::Ec(Curve::P256), Scheme::Ecdsa(sha256), true),
            (KeyKind::Ec(Curve::P384), Scheme::Ecdsa(sha384), true),
            (KeyKind::Ec(Curve::P521), Scheme::Ecdsa(sha384), true),
            (KeyKind::Ed25519, Scheme::Ed25519, has_ed25519(room)),
            (KeyKind::MlDsa(DsaSet::MlDsa44), Scheme::MlDsa, ml_dsa),
            (KeyKind::MlDsa(DsaSet::MlDsa65), Scheme::MlDsa, ml_dsa),
            (KeyKind::MlDsa(DsaSet::MlDsa87), Scheme::MlDsa, ml_dsa),
        ] {
            let pair = process::make(kind, 0).unwrap();
            let bytes = pair.private.expose(<[u8]>::to_vec);
            let key = brought(&token, &format!("{kind:?}"), kind, &bytes).await;
            if inside {
                signs(&token, &key, scheme, &pair.public).await;
                continue;
            }
            let input = ClearBytes::copy_from(b"x");
            let refused = token.use_key(&key, &Action::Sign(scheme), &input).await;
            let Err(HsmError::Unsupported(why)) = refused else { panic!("{kind:?}: {refused:?}") };
            if has_post_quantum(room.product) {
                assert!(why.contains("CKR_FUNCTION_NOT_SUPPORTED"), "{kind:?}: {why}");
            }
        }
        // A key that does not fit its public half: nothing is signed with it.
        let mut wrong = bytes.clone();
        let modulus = 40;
        wrong[modulus + 100] ^= 4;
        for (name, bytes) in [("wrong", &wrong[..]), ("no key", b"no key at all")] {
            let key = brought(&token, name, KeyKind::Rsa, bytes).await;
            let input = ClearBytes::from_vec(sha256.of(b"x"));
            let sign = Action::Sign(Scheme::RsaPkcs1(sha256));
            let refused = token.use_key(&key, &sign, &input).await;
            assert!(matches!(refused, Err(HsmError::Unsupported(_))), "{name}: {refused:?}");
        }
        assert!(token.status().ready, "{:?}", token.status());
        handles_stay_inside(room, 4);
    });
}

fn bad_data(room: Room) {
    let config = hsm_profiles::TokenConfig { sessions: Some(1), ..room.config() };
    let token = Token::open(config).unwrap();
    runtime().block_on(async {
        let (key, _) = made(&token, "aes", KeyKind::Aes, 256).await;
        let iv = [1; 16];
        let ecb = Action::Encrypt(Cipher::Ecb { padded: true });
        token.use_key(&key, &ecb, &ClearBytes::copy_from(b"x")).await.unwrap();
        let before = handles(&room);
        for (cipher, len) in [
            (Cipher::Cbc { iv, padded: true }, 32),
            (Cipher::Cbc { iv, padded: true }, 0),
            (Cipher::Cbc { iv, padded: false }, 15),
            (Cipher::Ecb { padded: true }, 48),
            (Cipher::Gcm { iv: vec![1; 12], aad: vec![], tag: 16 }, 40),
            (Cipher::Gcm { iv: vec![1; 12], aad: vec![], tag: 16 }, 3),
            (Cipher::KeyWrap { padded: false }, 40),
            (Cipher::KeyWrap { padded: true }, 16),
            (Cipher::KeyWrap { padded: true }, 24),
            (Cipher::Ccm { nonce: vec![1; 12], aad: vec![], tag: 16 }, 40),
        ] {
            if matches!(cipher, Cipher::Ccm { .. }) && room.product == SoftToken::SoftHsm {
                continue;
            }
            let data = ClearBytes::from_vec(vec![0; len]);
            // Padding is never 0; of other bytes one in 256 would look like it under this key.
            let data = match &cipher {
                Cipher::Cbc { padded: true, .. } if len > 0 => {
                    let zeros = Action::Encrypt(Cipher::Cbc { iv, padded: false });
                    token.use_key(&key, &zeros, &data).await.unwrap()
                }
                Cipher::Ecb { padded: true } => {
                    let zeros = Action::Encrypt(Cipher::Ecb { padded: false });
                    token.use_key(&key, &zeros, &data).await.unwrap()
                }
                _ => data,
            };
            let refused = token.use_key(&key, &Action::Decrypt(cipher.clone()), &data).await;
            assert!(matches!(refused, Err(HsmError::Input(_))), "{cipher:?}: {refused:?}");
            assert!(token.status().ready, "{:?}", token.status());
        }
        assert_eq!(handles(&room), before, "the session and its keys are still there");
        // A login that somebody closes takes the keys along; they come back.
        room.other_session().logout().unwrap();
        token.use_key(&key, &ecb, &ClearBytes::copy_from(b"x")).await.unwrap();
        token.forget_key(&key.name).await;
        assert_eq!(handles(&room), []);
    });
}

fn new_epoch(room: Room) {
    let token = room.open();
    runtime().block_on(async {
        let old = token.keks().await.unwrap().pop().unwrap();
        let mut moved = Vec::new();
        for (name, kind, bits) in [
            ("aes", KeyKind::Aes, 256),
            ("ec", KeyKind::Ec(Curve::P256), 0),
            ("rsa", KeyKind::Rsa, 2048),
        ] {
            let (key, public) = made(&token, name, kind, bits).await;
            moved.push((key, public));
        }
        let ecb = Action::Encrypt(Cipher::Ecb { padded: true });
        let data = ClearBytes::copy_from(b"the same before and after");
        let before = token.use_key(&moved[0].0, &ecb, &data).await.unwrap();
        let new = token.create_kek().await.unwrap();
        let mut stale = moved[0].0.clone();
        stale.name = b"stale".to_vec();
        for (key, _) in &mut moved {
            key.sealed = token.rewrap_key(AAD, &key.sealed).await.unwrap();
            key.name.extend_from_slice(b" anew");
            assert_eq!(key.sealed.kek, new.id);
        }
        token.destroy_kek(&old).await.unwrap();
        assert_eq!(token.use_key(&moved[0].0, &ecb, &data).await.unwrap(), before);
        let digest = Hash::Sha256.of(b"signed");
        for (at, scheme) in [(1, Scheme::Ecdsa(Hash::Sha256)), (2, Scheme::RsaPkcs1(Hash::Sha256))]
        {
            let (key, public) = &moved[at];
            let input = ClearBytes::copy_from(&digest);
            let signature = token.use_key(key, &Action::Sign(scheme), &input).await.unwrap();
            let public = public.as_ref().unwrap();
            let check = |s: &[u8]| public::verify(key.kind, scheme, public, &digest, s);
            assert!(signature.expose(check).unwrap());
        }
        let gone = token.use_key(&stale, &ecb, &data).await;
        assert!(matches!(gone, Err(HsmError::Unsupported(_))), "{gone:?}");
    });
}

#[test]
fn where_keys_are_is_found_by_trying() {
    with_token("where_keys_are_is_found_by_trying", custodies);
}

#[test]
fn where_keys_are_is_found_by_trying_kryoptic() {
    with_token_of(SoftToken::Kryoptic, "where_keys_are_is_found_by_trying_kryoptic", custodies);
}

fn custodies(room: Room) {
    let config = hsm_profiles::TokenConfig { sessions: Some(1), ..room.config() };
    let token = Token::open(config).unwrap();
    runtime().block_on(async {
        let found = Custodies::default();
        found.survey(&*token, &[QUICK, SLOW].concat(), true).await.unwrap();
        let best = |name| found.list().iter().find(|(known, _)| *known == name).unwrap().1.best;
        for name in ["aes", "agreement", "ec", "hmac", "rsa"] {
            assert_eq!(best(name), Some(Some(Custody::InToken)), "{name}");
        }
        assert_eq!(handles(&room), [], "nothing of it is kept");
    });
}
