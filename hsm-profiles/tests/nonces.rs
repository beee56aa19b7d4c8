//! Tokens that make their own GCM nonces, wherever they put them: SoftHSM behind a library that does
//! so (`tests/p11-shim/src/nonce.rs`).

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../testkit/p11_shim.rs"]
#[allow(dead_code, unreachable_pub)]
mod p11_shim;

use common::{Room, library, runtime, with_token, worker_program};
use hsm_profiles::suite::{assert_passes, hsm_suite};
use hsm_profiles::{Token, TokenConfig};
use km_core::hsm::{Custody, Hsm};
use km_core::material::ClearBytes;

/// The token with a library that makes nonces `place`, and a profile with this `[seal]`.
fn making(room: &Room, place: &str, seal: &str) -> TokenConfig {
    let config = room.with_seal(place, "method = \"token-gcm\"");
    let text = std::fs::read_to_string(&config.profile).unwrap();
    std::fs::write(&config.profile, text.replace("iv = \"host\"", seal)).unwrap();
    let shim = p11_shim::Shim::new(room.dir.join("no orders"));
    let mut env = shim.env(&library(room.product));
    env.insert("QKM_SHIM_NONCE".to_owned(), place.to_owned());
    TokenConfig { library: Some(p11_shim::library()), env, ..config }
}

fn passes(room: &Room, place: &str, seal: &str, nonce_bytes: usize) {
    let config = making(room, place, seal);
    runtime().block_on(async {
        let token = Token::start(config, worker_program()).await.unwrap();
        assert_passes(&hsm_suite(&*token).await);
        let sealed = token.seal(b"", &ClearBytes::from_vec(vec![1; 64])).await.unwrap();
        assert_eq!((sealed.iv.len(), sealed.method.custody()), (nonce_bytes, Custody::InToken));
    });
}

#[test]
fn nonces_that_are_written_back_pass_the_suite() {
    with_token("nonces_that_are_written_back_pass_the_suite", |room| {
        passes(&room, "writeback", "iv = \"writeback\"", 12);
    });
}

#[test]
fn nonces_after_the_tag_pass_the_suite() {
    with_token("nonces_after_the_tag_pass_the_suite", |room| {
        passes(&room, "append", "iv = \"append\"\niv_bytes = 16", 16);
    });
}

#[test]
fn nonces_before_the_ciphertext_pass_the_suite() {
    with_token("nonces_before_the_ciphertext_pass_the_suite", |room| {
        passes(&room, "prepend", "iv = \"prepend\"\niv_on_open = \"in-data\"", 12);
    });
}

/// As AWS CloudHSM: its own nonces, and longer messages under data keys sealed so.
#[test]
fn long_messages_leave_a_token_that_makes_its_nonces() {
    with_token("long_messages_leave_a_token_that_makes_its_nonces", |room| {
        passes(&room, "writeback", "iv = \"writeback\"\nin_token_bytes = 4096", 12);
    });
}

#[test]
fn a_token_that_wants_to_make_the_nonce_refuses_ours() {
    with_token("a_token_that_wants_to_make_the_nonce_refuses_ours", |room| {
        let config = making(&room, "append", "iv = \"host\"");
        let error = runtime().block_on(Token::start(config, worker_program())).err().unwrap();
        assert!(error.to_string().contains("CKR_MECHANISM_PARAM_INVALID"), "{error}");
    });
}
