//! ML-KEM in the token where it has it, else in this process, each checked against the other
//! implementation. `make pq` runs them with a token that has it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../testkit/hsm.rs"]
#[allow(dead_code, unreachable_pub)]
mod hsm;

use std::sync::Arc;

use common::{Room, has_post_quantum, runtime, with_token, with_token_of};
use hsm_profiles::soft::SoftToken;
use km_core::hsm::{Custody, Hsm, HsmError};
use km_core::material::ClearBytes;
use km_core::usage::kem::KemSet;
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
            let (sent, secret) = library.kem_encapsulate(set, &pair.public).await.unwrap();
            assert_eq!(ours.kem_decapsulate(&pair, &sent).await.unwrap(), secret);
            let (sent, secret) = ours.kem_encapsulate(set, &theirs.public).await.unwrap();
            assert_eq!(library.kem_decapsulate(&theirs, &sent).await.unwrap(), secret);
            let (mut sent, secret) = ours.kem_encapsulate(set, &pair.public).await.unwrap();
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
        let (sent, secret) = library.kem_encapsulate(pair.set, &pair.public).await.unwrap();
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
