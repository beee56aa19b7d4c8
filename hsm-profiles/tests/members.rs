//! Several tokens and the KEKs of new epochs: real workers, each with a SoftHSM of its own.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../testkit/p11_shim.rs"]
#[allow(dead_code, unreachable_pub)]
mod p11_shim;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::{Room, runtime, with_token, worker_program};
use cryptoki::object::Attribute;
use hsm_profiles::soft::SoftToken;
use hsm_profiles::{Breaker, MemberConfig, Token, TokenConfig, take_no_keks};
use km_core::hsm::{Hsm, HsmError, KEK_SEED_BYTES, MadeKey, TokenKey};
use km_core::material::ClearBytes;
use km_core::usage::{Action, Cipher, KeyKind};
use p11_shim::Shim;

fn south(env: Option<BTreeMap<String, String>>) -> MemberConfig {
    MemberConfig { name: "south".into(), profile: None, library: None, token: None, pin: None, env }
}

/// Two folders of tokens, the second a copy of the first from when it had its first KEK.
fn two_tokens(room: &Room) -> TokenConfig {
    drop(room.open());
    let (_, env) = room.copied("copy");
    TokenConfig { member: vec![south(Some(env))], ..room.config() }
}

async fn all_are(token: &Token, wanted: Breaker) {
    let until = Instant::now() + Duration::from_secs(30);
    while !token.members().iter().all(|member| member.breaker == wanted) {
        assert!(Instant::now() < until, "{:?}", token.members());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_new_kek_comes_into_every_token() {
    with_token("a_new_kek_comes_into_every_token", |room| {
        runtime().block_on(async {
            let token = Token::start(two_tokens(&room), worker_program()).await.unwrap();
            all_are(&token, Breaker::Closed).await;
            for number in [2, 3] {
                assert_eq!(token.create_kek().await.unwrap().number, number);
                all_are(&token, Breaker::Closed).await;
            }
            let clear = ClearBytes::copy_from(b"sealed in the first token");
            let sealed = token.seal(b"aad", &clear).await.unwrap();
            assert_eq!(sealed.kek, token.current_kek());
            let ecb = Action::Encrypt(Cipher::Ecb { padded: true });
            let MadeKey { sealed: key, .. } = token.make_key(b"", KeyKind::Aes, 256).await.unwrap();
            let name = key.iv.clone();
            let key =
                TokenKey { name, kind: KeyKind::Aes, wrapped: true, aad: vec![], sealed: key };
            let encrypted = token.use_key(&key, &ecb, &clear).await.unwrap();
            // The second one does all that alone.
            std::fs::rename(room.dir.join("softhsm"), room.dir.join("away")).unwrap();
            token.probe().await;
            assert_eq!(token.members()[1].breaker, Breaker::Closed, "{:?}", token.members());
            assert_eq!(token.open(b"aad", &sealed).await.unwrap(), clear);
            assert_eq!(token.use_key(&key, &ecb, &clear).await.unwrap(), encrypted);
            assert_eq!(token.seal(b"aad", &clear).await.unwrap().kek, sealed.kek);
        });
    });
}

/// It would lack it for good.
#[test]
fn no_kek_is_made_while_a_token_is_away() {
    with_token("no_kek_is_made_while_a_token_is_away", |room| {
        runtime().block_on(async {
            let token = Token::start(two_tokens(&room), worker_program()).await.unwrap();
            all_are(&token, Breaker::Closed).await;
            let (here, away) = (room.dir.join("copy/softhsm"), room.dir.join("away"));
            std::fs::rename(&here, &away).unwrap();
            token.probe().await;
            let refused = token.create_kek().await;
            let Err(HsmError::Unavailable(why)) = &refused else { panic!("{refused:?}") };
            assert!(why.contains("south") && why.contains("hsm.member"), "{why}");
            assert_eq!(token.keks().await.unwrap().len(), 1);
            std::fs::rename(&away, &here).unwrap();
            token.probe().await;
            all_are(&token, Breaker::Closed).await;
            token.create_kek().await.unwrap();
            all_are(&token, Breaker::Closed).await;
        });
    });
}

/// One whose worker lives may be away all the same: another one would have destroyed it alone.
#[test]
fn no_token_destroys_a_kek_while_another_is_away() {
    with_token("no_token_destroys_a_kek_while_another_is_away", |room| {
        runtime().block_on(async {
            let token = Token::start(two_tokens(&room), worker_program()).await.unwrap();
            all_are(&token, Breaker::Closed).await;
            let old = token.keks().await.unwrap().remove(0);
            let kek = token.create_kek().await.unwrap();
            all_are(&token, Breaker::Closed).await;
            let (here, away) = (room.dir.join("copy/softhsm"), room.dir.join("away"));
            std::fs::rename(&here, &away).unwrap();
            token.probe().await;
            assert_eq!(token.members()[1].restarts, 0, "its worker lives");
            let refused = token.destroy_kek(&old).await;
            let Err(HsmError::Unavailable(why)) = &refused else { panic!("{refused:?}") };
            assert!(why.contains("south is away"), "{why}");
            assert_eq!(token.keks().await.unwrap(), [old.clone(), kek.clone()], "of the first");
            std::fs::rename(&away, &here).unwrap();
            token.probe().await;
            all_are(&token, Breaker::Closed).await;
            assert_eq!(token.keks_anywhere().await.unwrap(), [old.clone(), kek.clone()]);
            token.destroy_kek(&old).await.unwrap();
            assert_eq!(token.keks_anywhere().await.unwrap(), [kek]);
        });
    });
}

/// It can be wrapped only while it is made: until what waits is safe no token is waited for.
#[test]
fn a_kek_is_brought_to_the_other_tokens_when_that_is_asked_for() {
    with_token("a_kek_is_brought_to_the_other_tokens_when_that_is_asked_for", |room| {
        runtime().block_on(async {
            let token = Token::start(two_tokens(&room), worker_program()).await.unwrap();
            all_are(&token, Breaker::Closed).await;
            let seed = ClearBytes::copy_from(&[7; KEK_SEED_BYTES]);
            let (kek, _) = token.create_kek_for(0, &[], &seed).await.unwrap();
            assert!(token.lacks_kek(&kek).await);
            let waiting = token.keks_waiting();
            assert_eq!(waiting.len(), 1);
            assert_eq!((waiting[0].0.as_str(), waiting[0].1.number), ("south", kek.number));
            assert_eq!(token.tokens(), ["", "south"]);
            token.bring_kek(&kek).await;
            assert!(!token.lacks_kek(&kek).await && token.keks_waiting().is_empty());
            all_are(&token, Breaker::Closed).await;
        });
    });
}

/// The KEK is made and its parcel cannot be made again: it is kept for the token until it is taken.
#[test]
fn what_a_token_did_not_take_it_takes_later() {
    with_token("what_a_token_did_not_take_it_takes_later", |room| {
        let shim = Shim::new(room.dir.join("orders"));
        let mut config = two_tokens(&room);
        let real = common::library(SoftToken::SoftHsm);
        config.member[0].library = Some(p11_shim::library());
        config.member[0].env.as_mut().unwrap().extend(shim.env(&real));
        runtime().block_on(async {
            let token = Token::start(config, worker_program()).await.unwrap();
            all_are(&token, Breaker::Closed).await;
            // CKR_FUNCTION_FAILED.
            shim.order(&["C_UnwrapKey 1 answer 0x6".to_owned()]);
            let kek = token.create_kek().await.unwrap();
            assert_eq!(token.current_kek(), kek.id);
            token.probe().await;
            let second = &token.members()[1];
            assert_eq!(second.breaker, Breaker::Open, "{second:?}");
            assert!(second.status.detail.contains(&kek.id.0), "{second:?}");
            shim.lift();
            token.probe().await;
            assert_eq!(token.members()[1].breaker, Breaker::Closed, "{:?}", token.members());
        });
    });
}

/// The second way to one token stands for an HSM whose tokens keep each other alike.
#[test]
fn what_an_hsm_brought_to_its_other_tokens_is_not_brought_again() {
    with_token("what_an_hsm_brought_to_its_other_tokens_is_not_brought_again", |room| {
        // The login of this process is that of its sessions.
        let here = room.open();
        let config = TokenConfig { member: vec![south(None)], ..room.config() };
        runtime().block_on(async {
            let token = Token::start(config, worker_program()).await.unwrap();
            all_are(&token, Breaker::Closed).await;
            token.create_kek().await.unwrap();
            all_are(&token, Breaker::Closed).await;
        });
        let session = room.other_session();
        for label in ["qkm-kek-2", "qkm-kek-w-2"] {
            let named = [Attribute::Label(label.into()), Attribute::Token(true)];
            assert_eq!(session.find_objects(&named).unwrap().len(), 1, "{label}");
        }
        drop(here);
    });
}

#[test]
fn tokens_that_take_no_kek_are_told_and_those_that_seal_otherwise_refused() {
    with_token("tokens_that_take_no_kek_are_told_and_those_that_seal_otherwise_refused", |room| {
        let good = two_tokens(&room);
        assert_eq!(take_no_keks(&good).unwrap(), []);
        let only = room.built_in().replace("[keys]\n", "[keys]\ntrusted = \"officer\"\n");
        let only = room.written("officer", &only);
        let mut member = good.member.clone();
        member[0].profile = Some(only);
        let mixed = TokenConfig { member, ..good.clone() };
        let told = take_no_keks(&mixed).unwrap();
        assert!(matches!(&told[..], [(name, why)] if name == "south" && why.contains("cloning")));
        assert_eq!(take_no_keks(&TokenConfig { member: vec![], ..mixed.clone() }).unwrap(), []);
        // Its HSM has to bring the KEK there: nobody waits for it.
        runtime().block_on(async {
            let token = Token::start(mixed, worker_program()).await.unwrap();
            std::fs::rename(room.dir.join("copy/softhsm"), room.dir.join("away")).unwrap();
            token.probe().await;
            token.create_kek().await.unwrap();
            let breakers = token.members().into_iter().map(|member| member.breaker);
            assert_eq!(breakers.collect::<Vec<_>>()[0], Breaker::Closed);
        });

        let wraps = room.sealing_by("key-wrap").profile;
        let mut member = good.member.clone();
        member[0].profile = Some(wraps);
        let config = TokenConfig { member, ..good };
        let refused = runtime().block_on(Token::start(config, worker_program())).map(drop);
        let Err(HsmError::Setup(why)) = &refused else { panic!("{refused:?}") };
        assert!(why.contains("south") && why.contains("seal alike"), "{why}");
    });
}
