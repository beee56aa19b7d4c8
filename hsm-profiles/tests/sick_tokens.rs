//! Tokens that hang in one session, do what they say they did not, give what is not random, or have
//! little room: SoftHSM behind a library that does so (`tests/p11-shim`).

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../testkit/p11_shim.rs"]
#[allow(dead_code, unreachable_pub)]
mod p11_shim;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Room, library, runtime, seed, with_token, worker_program};
use cryptoki::object::{Attribute, AttributeType};
use hsm_profiles::{Breaker, MemberConfig, Token, TokenConfig};
use km_core::hsm::{Hsm, HsmError, TokenKey};
use km_core::material::ClearBytes;
use km_core::usage::{Action, Cipher, Curve, Hash, KeyKind, Scheme};
use p11_shim::Shim;
use tokio::task::JoinSet;

const EC: KeyKind = KeyKind::Ec(Curve::P256);
const SIGN: Action = Action::Sign(Scheme::Ecdsa(Hash::Sha256));

/// The token with a library that obeys, and the orders for it.
fn obeying(room: &Room) -> (TokenConfig, Shim) {
    let orders = Shim::new(room.dir.join("orders"));
    let (library, env) = (Some(p11_shim::library()), orders.env(&library(room.product)));
    let config = TokenConfig { library, env, deadline_ms: 500, sessions: Some(2), ..room.config() };
    (config, orders)
}

/// As [`obeying`], with a standby whose library is as it should be.
fn with_standby(room: &Room) -> (TokenConfig, Shim) {
    // The first start makes the KEK that both must hold.
    drop(room.open());
    let (config, orders) = obeying(room);
    let south = MemberConfig {
        profile: None,
        name: "south".into(),
        library: Some(library(room.product)),
        token: None,
        pin: None,
        env: Some(room.copied("south").1),
    };
    (TokenConfig { member: vec![south], ..config }, orders)
}

async fn start(config: TokenConfig) -> Arc<Token> {
    let token = Token::start(config, worker_program()).await.unwrap();
    ready_again(&token).await;
    token
}

async fn ready_again(token: &Token) {
    until("all tokens are used", || token.members().iter().all(|m| m.breaker == Breaker::Closed))
        .await;
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn seal(token: &Token) -> Result<km_core::hsm::Sealed, HsmError> {
    token.seal(b"", &ClearBytes::copy_from(&[5; 40])).await
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, HsmError>) -> String {
    match answer {
        Err(HsmError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// A key that is at hand.
async fn signs(token: &Token) -> TokenKey {
    let sealed = token.make_key(b"", EC, 0).await.unwrap().sealed;
    let (name, aad) = (b"signs".to_vec(), Vec::new());
    let key = TokenKey { name, kind: EC, wrapped: true, aad, sealed };
    token.use_key(&key, &SIGN, &digest()).await.unwrap();
    key
}

fn digest() -> ClearBytes {
    ClearBytes::copy_from(&[7; 32])
}

/// Others at work all the time: so many that the other session never sleeps.
fn at_work(token: &Arc<Token>, signs: Option<&TokenKey>) -> JoinSet<()> {
    let work = |token: Arc<Token>, signs: Option<TokenKey>| async move {
        loop {
            let done = match &signs {
                Some(key) => token.use_key(key, &SIGN, &digest()).await.map(drop),
                None => seal(&token).await.map(drop),
            };
            if done.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    (0..8).map(|_| work(Arc::clone(token), signs.cloned())).collect()
}

/// Others get their answers, so nothing but the hanging job itself shows it.
#[test]
fn a_hang_in_one_session_is_ended_while_others_work() {
    with_token("a_hang_in_one_session_is_ended_while_others_work", |room| {
        runtime().block_on(async {
            let (config, orders) = obeying(&room);
            let token = start(config).await;
            let key = signs(&token).await;
            for function in ["C_Encrypt", "C_Sign"] {
                let work = at_work(&token, (function == "C_Encrypt").then_some(&key));
                let before = token.members()[0].restarts;
                orders.order(&[format!("{function} 1 hang")]);
                unavailable(match function {
                    "C_Encrypt" => seal(&token).await.map(drop),
                    _ => token.use_key(&key, &SIGN, &digest()).await.map(drop),
                });
                orders.lift();
                until("it is ended", || token.members()[0].restarts > before).await;
                ready_again(&token).await;
                drop(work);
                seal(&token).await.unwrap();
                token.use_key(&key, &SIGN, &digest()).await.unwrap();
            }
        });
    });
}

#[test]
fn a_standby_takes_over_from_a_token_that_hangs_in_one_session() {
    with_token("a_standby_takes_over_from_a_token_that_hangs_in_one_session", |room| {
        runtime().block_on(async {
            let (config, orders) = with_standby(&room);
            let token = start(config).await;
            let _work = at_work(&token, Some(&signs(&token).await));
            orders.order(&["C_Encrypt 1 hang".to_owned()]);
            unavailable(seal(&token).await);
            let hangs = Instant::now();
            while seal(&token).await.is_err() {
                assert!(hangs.elapsed() < Duration::from_secs(3), "{:?}", token.members());
            }
            let [first, second] = &token.members()[..] else { panic!("two tokens") };
            assert_ne!(first.breaker, Breaker::Closed);
            assert_eq!((second.breaker, second.restarts), (Breaker::Closed, 0));
        });
    });
}

#[test]
fn a_token_that_leaves_a_probe_unanswered_is_not_used_until_it_answers() {
    with_token("a_token_that_leaves_a_probe_unanswered_is_not_used_until_it_answers", |room| {
        runtime().block_on(async {
            let (config, orders) = with_standby(&room);
            let token = start(TokenConfig { deadline_ms: 2000, ..config }).await;
            let _work = at_work(&token, Some(&signs(&token).await));
            // Too long for an answer, and too short for a hang.
            orders.order(&["C_EncryptInit 1 sleep 2400".to_owned()]);
            let asked = Instant::now();
            assert!(token.probe().await.ready, "the standby is");
            assert!(asked.elapsed() >= Duration::from_secs(2));
            let [first, second] = &token.members()[..] else { panic!("two tokens") };
            assert_eq!((first.breaker, first.restarts), (Breaker::HalfOpen, 0), "{first:?}");
            assert!(first.status.detail.contains("no answer within 2000 ms"), "{first:?}");
            assert_eq!(second.breaker, Breaker::Closed);
            let asked = Instant::now();
            seal(&token).await.unwrap();
            assert!(asked.elapsed() < Duration::from_secs(1));
            orders.lift();
            token.probe().await;
            assert_eq!(token.members()[0].breaker, Breaker::Closed);
        });
    });
}

/// Each of these asks all tokens.
#[test]
fn a_token_that_hangs_costs_an_idle_standby_nothing() {
    with_token("a_token_that_hangs_costs_an_idle_standby_nothing", |room| {
        runtime().block_on(async {
            let (config, orders) = with_standby(&room);
            let token = start(config).await;
            let clear = ClearBytes::copy_from(&[1; 8]);
            for function in ["C_GetTokenInfo", "C_FindObjectsInit", "C_CreateObject"] {
                // Idle for longer than a deadline, as a standby is.
                tokio::time::sleep(Duration::from_millis(700)).await;
                orders.order(&[format!("{function} 1 hang")]);
                let before = token.members()[0].restarts;
                match function {
                    "C_GetTokenInfo" => drop(token.room().await.unwrap()),
                    "C_FindObjectsInit" => drop(token.object_names("held-").await.unwrap()),
                    _ => {
                        let why = unavailable(token.store_object("held-1", &clear).await);
                        assert!(why.contains("north did not"), "{why}");
                    }
                }
                orders.lift();
                until("the first is ended", || token.members()[0].restarts > before).await;
                ready_again(&token).await;
            }
            assert_eq!(token.members()[1].restarts, 0);
            assert_eq!(token.object_names("held-").await.unwrap(), ["held-1"], "the second did it");
        });
    });
}

/// A token may make a key and answer with an error. Two KEKs of one number would end all sealing.
#[test]
fn a_kek_that_was_made_but_not_told_of_is_not_made_twice() {
    with_token("a_kek_that_was_made_but_not_told_of_is_not_made_twice", |room| {
        runtime().block_on(async {
            drop(room.open());
            let (config, orders) = obeying(&room);
            for (number, code) in [(2, "0x5"), (3, "0x30"), (4, "0xb3")] {
                let token = start(TokenConfig { deadline_ms: 5000, ..config.clone() }).await;
                // The first call makes the key that wraps in that epoch.
                orders.order(&[format!("C_GenerateKey 2 after answer {code}")]);
                let made = token.create_kek().await;
                orders.lift();
                ready_again(&token).await;
                let keks = token.keks().await.unwrap();
                let numbers: Vec<_> = keks.iter().map(|kek| kek.number).collect();
                assert_eq!(numbers, (1..=number).collect::<Vec<_>>(), "{code}");
                assert_eq!(keks.last(), Some(&made.unwrap()), "{code}");
                assert_eq!(seal(&token).await.unwrap().kek, keks.last().unwrap().id);
            }
        });
    });
}

/// Likewise a KEK of which no other token hears, though it was to go there.
#[test]
fn a_kek_that_was_made_but_not_told_of_does_not_stay_for_others() {
    with_token("a_kek_that_was_made_but_not_told_of_does_not_stay_for_others", |room| {
        runtime().block_on(async {
            // Without a key that wraps the KEK is what is made first.
            let mut profile = room.built_in();
            let wrap = profile.find("[[wrap]]").unwrap()..profile.find("[keys]").unwrap();
            profile.replace_range(wrap, "");
            let profile = room.written("no wrap", &profile);
            let (config, orders) = obeying(&room);
            let token = start(TokenConfig { profile, deadline_ms: 5000, ..config }).await;
            let receiver = token.kek_receiver().await.unwrap();
            orders.order(&["C_CopyObject 1 after answer 0x30".to_owned()]);
            unavailable(token.create_kek_for(0, &[receiver], &seed()).await);
            orders.lift();
            ready_again(&token).await;
            assert_eq!(token.keks().await.unwrap().len(), 1);
        });
    });
}

/// Every twelve bytes, and whatever is asked for: the one is not random, the other looks so.
#[test]
fn a_generator_that_stands_still_seals_nothing() {
    with_token("a_generator_that_stands_still_seals_nothing", |room| {
        runtime().block_on(async {
            let (config, orders) = obeying(&room);
            let token = start(TokenConfig { deadline_ms: 5000, ..config }).await;
            for (period, told) in [(12, "proportion"), (1_000_000, "a second time")] {
                let before = seal(&token).await.unwrap();
                orders.order(&[format!("C_GenerateRandom 1 stuck {period}")]);
                let mut nonces = BTreeSet::from([before.iv.clone()]);
                let why = loop {
                    match seal(&token).await {
                        Ok(sealed) => assert!(nonces.insert(sealed.iv), "a nonce came twice"),
                        error => break unavailable(error),
                    }
                };
                assert!(why.contains("health test") && why.contains(told), "{why}");
                tokio::time::sleep(Duration::from_millis(600)).await;
                assert!(token.open(b"", &before).await.is_ok());
                let status = token.status();
                assert!(!status.ready && status.detail.contains("health test"), "{status:?}");
                orders.lift();
                ready_again(&token).await;
            }
            seal(&token).await.unwrap();
        });
    });
}

/// Keys at hand fill it; to be full is not to be away.
#[test]
fn a_token_with_little_room_stays_logged_in() {
    with_token("a_token_with_little_room_stays_logged_in", |room| {
        runtime().block_on(async {
            let (mut config, orders) = obeying(&room);
            config.env.insert("QKM_SHIM_ROOM".to_owned(), "8".to_owned());
            let config = TokenConfig { sessions: Some(1), deadline_ms: 5000, ..config };
            let token = start(config).await;
            orders.order(&["C_Login 2 abort".to_owned()]);
            use_many(&token, 40).await;
            let [member] = &token.members()[..] else { panic!("one token") };
            assert_eq!((member.breaker, member.restarts), (Breaker::Closed, 0));
        });
    });
}

#[test]
fn a_session_has_as_many_keys_at_hand_as_the_profile_says() {
    with_token("a_session_has_as_many_keys_at_hand_as_the_profile_says", |room| {
        runtime().block_on(async {
            let profile = room.built_in().replace("[limits]", "[limits]\nhandles = 4");
            let profile = room.written("few", &profile);
            let config = TokenConfig { profile, sessions: Some(1), ..room.config() };
            let token = Token::open(config).unwrap();
            use_many(&token, 10).await;
            let session = room.other_session();
            let all = session.find_objects(&[Attribute::Token(false)]).unwrap();
            let labels = all
                .into_iter()
                .map(|handle| session.get_attributes(handle, &[AttributeType::Label]).unwrap());
            // The copies of KEKs are named as they are.
            let keys = labels.filter(|l| !matches!(&l[..], [Attribute::Label(l)] if !l.is_empty()));
            assert_eq!(keys.count(), 4);
        });
    });
}

/// Uses that many keys, each of which is then at hand.
async fn use_many(token: &Token, count: u8) {
    let sealed = token.seal(b"", &ClearBytes::copy_from(&[8; 32])).await.unwrap();
    let action = Action::Encrypt(Cipher::Cbc { iv: [1; 16], padded: true });
    for n in 0..count {
        let (name, aad, sealed) = (vec![n], Vec::new(), sealed.clone());
        let key = TokenKey { name, kind: KeyKind::Aes, wrapped: false, aad, sealed };
        token.use_key(&key, &action, &digest()).await.unwrap();
    }
}

/// The login was not tried: to look again costs none of the tries that are left.
#[test]
fn a_locked_pin_is_looked_at_again_until_it_is_unlocked() {
    with_token("a_locked_pin_is_looked_at_again_until_it_is_unlocked", |room| {
        runtime().block_on(async {
            let (config, orders) = obeying(&room);
            let token = start(TokenConfig { deadline_ms: 5000, ..config }).await;
            for (flags, told) in [("0x40000", "is locked"), ("0x20000", "has one try left")] {
                let marked = format!("C_GetTokenInfo 1 flags {flags}");
                // A login that is lost, and a worker that is.
                for lost in ["C_EncryptInit 1 answer 0x101", "C_EncryptInit 1 abort"] {
                    orders.order(&[marked.clone(), lost.to_owned()]);
                    unavailable(seal(&token).await);
                    let says = || token.members()[0].status.detail.contains(told);
                    until("it says so", says).await;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    assert!(!token.status().ready);
                    orders.lift();
                    ready_again(&token).await;
                    seal(&token).await.unwrap();
                }
            }
        });
    });
}
