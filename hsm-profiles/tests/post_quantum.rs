//! ML-KEM in the token where it has it, else in this process, each checked against the other
//! implementation. `make pq` runs them with a token that has it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../testkit/hsm.rs"]
#[allow(dead_code, unreachable_pub)]
mod hsm;

use std::sync::Arc;

use common::{
    Room, has_post_quantum, init_command, library, runtime, seed, with_token, with_token_of,
    worker_program,
};
use hsm_profiles::soft::{SoftToken, provision};
use hsm_profiles::{Breaker, MemberConfig, PinSource, Token, TokenConfig, TokenSelector};
use km_core::custody::{CustodyView, ML_KEM};
use km_core::hsm::{Custody, Hsm, HsmError, KekReceiver};
use km_core::material::ClearBytes;
use km_core::usage::kem::{Encapsulated, KemSet};
use km_core::vault::Vault;

#[test]
fn encapsulated_secrets_are_those_of_the_library() {
    with_token("encapsulated_secrets_are_those_of_the_library", one_secret);
}

#[test]
fn encapsulated_secrets_are_those_of_the_library_kryoptic() {
    with_token_of(
        SoftToken::Kryoptic,
        "encapsulated_secrets_are_those_of_the_library_kryoptic",
        one_secret,
    );
}

#[test]
fn a_kek_comes_by_ml_kem_as_well() {
    with_token("a_kek_comes_by_ml_kem_as_well", two_layers);
}

/// Which of them makes a pair is told by its name, so that it goes back there.
#[test]
fn of_several_tokens_the_one_with_ml_kem_makes_the_pairs() {
    with_token("of_several_tokens_the_one_with_ml_kem_makes_the_pairs", mixed);
}

/// A token of another product.
fn other(room: &Room) -> TokenConfig {
    let (product, dir) = (SoftToken::Kryoptic, room.dir.join("south"));
    std::fs::create_dir(&dir).unwrap();
    let mut init = init_command();
    init.env("QKM_TOKEN_LIBRARY", library(product));
    let made = provision(product, &dir, "south", init).unwrap();
    let (token, pin) = (TokenSelector::Label("south".into()), PinSource::File(made.pin_file));
    let config = TokenConfig {
        library: Some(library(product)),
        env: [(product.conf_variable().to_owned(), made.conf.display().to_string())].into(),
        ..TokenConfig::new(product.profile(), token, pin)
    };
    TokenConfig { create_kek: true, ..config }
}

/// Where the token that receives has ML-KEM, a KEK on its way to it is in a second layer, and nothing opens
/// that was changed in either.
fn two_layers(room: Room) {
    let inside = has_post_quantum(SoftToken::Kryoptic);
    let north = room.open();
    runtime().block_on(async {
        let south = Token::start(other(&room), worker_program()).await.unwrap();
        let receiver = south.kek_receiver().await.unwrap();
        assert_eq!(receiver.kem.is_some(), inside);
        assert_eq!(south.kek_receiver().await.unwrap(), receiver, "one pair for all");
        let alone = KekReceiver { kem: None, ..receiver.clone() };
        let (kek, made) =
            north.create_kek_for(0, &[receiver, alone.clone()], &seed()).await.unwrap();
        let [parcel, by_rsa] = &made[..] else { panic!("{made:?}") };
        assert_eq!((parcel.kem.is_some(), by_rsa.kem.is_some()), (inside, false));
        let layer = if inside { 16 } else { 0 };
        assert_eq!(parcel.keys[0].key.len(), by_rsa.keys[0].key.len() + layer);

        let mut wrong = vec![parcel.clone(); 4];
        wrong[0].keys.iter_mut().for_each(|key| key.key[9] ^= 1);
        wrong[1].kem = Some(vec![7; KemSet::MlKem1024.ciphertext_bytes()]);
        // Bound by the second layer, and it cannot be left out.
        wrong[2].number += 7;
        wrong[3].kem = None;
        for wrong in &wrong[..if inside { 4 } else { 2 }] {
            let refused = south.take_kek(wrong).await;
            assert!(matches!(refused, Err(HsmError::Refused(_))), "{refused:?}");
        }
        assert_eq!(south.take_kek(parcel).await.unwrap(), kek);
        let (next, made) = north.create_kek_for(0, &[alone], &seed()).await.unwrap();
        let clear = ClearBytes::copy_from(b"sealed under it");
        let sealed = north.seal(b"aad", &clear).await.unwrap();
        // Said aloud, and taken.
        assert_eq!(south.take_kek(&made[0]).await.unwrap(), next);
        assert_eq!(south.open(b"aad", &sealed).await.unwrap(), clear);
    });
}

fn one_secret(room: Room) {
    let inside = has_post_quantum(room.product);
    let token = room.open();
    runtime().block_on(async {
        let ours = Vault::new(token.clone());
        let library = Vault::new(Arc::new(hsm::SoftwareHsm::new()));
        for set in [KemSet::MlKem768, KemSet::MlKem1024] {
            let custody = if inside { Custody::InToken } else { Custody::HostTransient };
            let pair = ours.kem_key_pair(set).await.unwrap();
            assert_eq!(pair.custody(), custody);
            let theirs = library.kem_key_pair(set).await.unwrap();
            assert_eq!(theirs.custody(), Custody::HostTransient);
            // Each way, and by itself.
            let Encapsulated { ciphertext: sent, secret, .. } =
                library.kem_encapsulate(set, &pair.public).await.unwrap();
            assert_eq!(ours.kem_decapsulate(&pair, &sent).await.unwrap(), secret);
            let Encapsulated { ciphertext: sent, secret, .. } =
                ours.kem_encapsulate(set, &theirs.public).await.unwrap();
            assert_eq!(library.kem_decapsulate(&theirs, &sent).await.unwrap(), secret);
            let made = ours.kem_encapsulate(set, &pair.public).await.unwrap();
            assert_eq!(made.custody, custody);
            let (mut sent, secret) = (made.ciphertext, made.secret);
            assert_eq!(ours.kem_decapsulate(&pair, &sent).await.unwrap(), secret);
            sent[3] ^= 0x10;
            assert_ne!(ours.kem_decapsulate(&pair, &sent).await.unwrap(), secret);
            let cut = ours.kem_decapsulate(&pair, &sent[1..]).await;
            assert!(matches!(cut, Err(HsmError::Input(_))), "{cut:?}");
            let cut = ours.kem_encapsulate(set, &pair.public[1..]).await;
            assert!(matches!(cut, Err(HsmError::Input(_))), "{cut:?}");
            // A key of the right length that is none: said of the key, and the token stays ready.
            let wrong = vec![0xFF; set.public_bytes()];
            let refused = ours.kem_encapsulate(set, &wrong).await;
            assert!(matches!(refused, Err(HsmError::Input(_))), "{refused:?}");
            assert!(token.status().ready, "{:?}", token.status());
        }
        let pair = ours.kem_key_pair(KemSet::MlKem768).await.unwrap();
        let Encapsulated { ciphertext: sent, secret, .. } =
            library.kem_encapsulate(pair.set, &pair.public).await.unwrap();
        // An error that costs a session does not cost the pair.
        let mut sealed = token.seal(b"1", &ClearBytes::copy_from(b"sealed")).await.unwrap();
        sealed.ciphertext[0] ^= 1;
        for _ in 0..8 {
            assert!(matches!(token.open(b"1", &sealed).await, Err(HsmError::Refused(_))));
        }
        assert_eq!(ours.kem_decapsulate(&pair, &sent).await.unwrap(), secret);
        // A login that somebody closes does, and it is told so.
        room.other_session().logout().unwrap();
        let after = ours.kem_decapsulate(&pair, &sent).await;
        match inside {
            true => assert!(matches!(after, Err(HsmError::Unsupported(_))), "{after:?}"),
            false => assert_eq!(after.unwrap(), secret),
        }
        ours.kem_forget(pair).await;
        assert!(token.probe().await.ready);
        ours.kem_key_pair(KemSet::MlKem768).await.unwrap();
    });
}

fn mixed(room: Room) {
    let inside = has_post_quantum(SoftToken::Kryoptic);
    let other = other(&room);
    runtime().block_on(async {
        let north = room.start().await;
        let south = Token::start(other.clone(), worker_program()).await.unwrap();
        let receiver = south.kek_receiver().await.unwrap();
        let (_, made) = north.create_kek_for(0, &[receiver], &seed()).await.unwrap();
        south.take_kek(&made[0]).await.unwrap();
        drop((north, south));
        let member = MemberConfig {
            name: "south".into(),
            profile: Some(other.profile),
            library: other.library,
            token: Some(other.token),
            pin: Some(other.pin),
            env: Some(other.env),
        };
        let config = TokenConfig { member: vec![member], ..room.config() };
        let token = Token::start(config, worker_program()).await.unwrap();
        let both = |token: &Token| token.members().iter().all(|one| one.breaker == Breaker::Closed);
        assert!(both(&token), "{:?}", token.members());
        token.create_kek().await.unwrap();
        assert!(both(&token), "the KEK comes into the token of another vendor");

        let ours = Vault::new(token.clone());
        let library = Vault::new(Arc::new(hsm::SoftwareHsm::new()));
        let custody = if inside { Custody::InToken } else { Custody::HostTransient };
        for set in [KemSet::MlKem768, KemSet::MlKem1024] {
            let pair = ours.kem_key_pair(set).await.unwrap();
            assert_eq!(pair.custody(), custody);
            let Encapsulated { ciphertext: sent, secret, .. } =
                library.kem_encapsulate(set, &pair.public).await.unwrap();
            assert_eq!(ours.kem_decapsulate(&pair, &sent).await.unwrap(), secret);
            let Encapsulated { ciphertext: sent, secret, .. } =
                ours.kem_encapsulate(set, &pair.public).await.unwrap();
            assert_eq!(ours.kem_decapsulate(&pair, &sent).await.unwrap(), secret);
            ours.kem_forget(pair).await;
        }
        let told = ours.custodies().list();
        let uses = |view: &CustodyView| match inside {
            true => (view.in_token, view.host_transient),
            false => (view.host_transient, view.in_token),
        };
        let view = told.iter().find(|(name, _)| *name == ML_KEM).map(|(_, view)| uses(view));
        // Made, and for each of two exchanges opened; one of these was sealed here.
        assert_eq!(view, Some((2 * 4, 0)));
    });
}
