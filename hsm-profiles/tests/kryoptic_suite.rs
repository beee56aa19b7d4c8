//! The conformance suite on Kryoptic, an independent token with another temperament than SoftHSM:
//! PKCS#11 3.2, strict arguments, its objects in SQLite.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{runtime, with_token_of};
use hsm_profiles::Token;
use hsm_profiles::soft::SoftToken;
use hsm_profiles::suite::{assert_passes, hsm_suite};
use km_core::hsm::Hsm;
use km_core::material::ClearBytes;

#[test]
fn passes_the_suite() {
    with_token_of(SoftToken::Kryoptic, "passes_the_suite", |room| {
        assert_passes(&runtime().block_on(hsm_suite(&*room.open())));
    });
}

#[test]
fn passes_the_suite_with_wrapped_data_keys() {
    with_token_of(SoftToken::Kryoptic, "passes_the_suite_with_wrapped_data_keys", |room| {
        let token = Token::open(room.sealing_by("key-wrap")).unwrap();
        assert_passes(&runtime().block_on(hsm_suite(&*token)));
    });
}

#[test]
fn passes_the_suite_with_data_keys_under_padded_key_wrap() {
    with_token_of(
        SoftToken::Kryoptic,
        "passes_the_suite_with_data_keys_under_padded_key_wrap",
        |room| {
            let token = Token::open(room.sealing_by("key-wrap-padded")).unwrap();
            assert_passes(&runtime().block_on(hsm_suite(&*token)));
        },
    );
}

#[test]
fn passes_the_suite_with_data_keys_under_cbc() {
    with_token_of(SoftToken::Kryoptic, "passes_the_suite_with_data_keys_under_cbc", |room| {
        let token = Token::open(room.sealing_by("cbc")).unwrap();
        assert_passes(&runtime().block_on(hsm_suite(&*token)));
    });
}

/// The same lifetime of data over three profiles, and a logout in between.
#[test]
fn a_logout_and_a_change_of_profile_strand_nothing() {
    with_token_of(SoftToken::Kryoptic, "a_logout_and_a_change_of_profile_strand_nothing", |room| {
        let clear = ClearBytes::copy_from(&[5; 300]);
        let mut sealed = Vec::new();
        let ways = ["key-wrap", "key-wrap-padded", "cbc"].map(|way| room.sealing_by(way));
        for config in [room.config()].into_iter().chain(ways) {
            let token = Token::open(config).unwrap();
            runtime().block_on(async {
                sealed.push(token.seal(b"record", &clear).await.unwrap());
                room.other_session().logout().unwrap();
                for one in &sealed {
                    assert_eq!(token.open(b"record", one).await.unwrap(), clear);
                }
            });
        }
    });
}
