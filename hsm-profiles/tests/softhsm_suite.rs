//! The conformance suite, load, and several tokens, on a real SoftHSM token.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::{runtime, with_token};
use hsm_profiles::soft::{CONF_VARIABLE, SoftToken, provision};
use hsm_profiles::suite::{assert_passes, hsm_suite};
use km_core::hsm::{Custody, Hsm, HsmError, KeyProtection, SealMethod};
use km_core::material::ClearBytes;

#[test]
fn passes_the_suite() {
    with_token("passes_the_suite", |room| {
        assert_passes(&runtime().block_on(hsm_suite(&*room.open())))
    });
}

#[test]
fn passes_the_suite_with_wrapped_data_keys() {
    with_token("passes_the_suite_with_wrapped_data_keys", |room| {
        let token = hsm_profiles::Token::open(room.sealing_by("key-wrap")).unwrap();
        assert_passes(&runtime().block_on(hsm_suite(&*token)));
    });
}

/// As of a token that lists no other way to wrap: RFC 3394 is not asked for.
#[test]
fn passes_the_suite_with_data_keys_under_padded_key_wrap() {
    with_token("passes_the_suite_with_data_keys_under_padded_key_wrap", |room| {
        let seal = "method = \"wrapped-key-gcm\"\nprotection = \"key-wrap-padded\"";
        let text = room.built_in().replace("method = \"token-gcm\"", seal);
        let only = text.replace(
            "mechanism = \"AES_KEY_WRAP\"\nform = \"rfc3394\"",
            "mechanism = \"AES_KEY_WRAP_PAD\"\nform = \"rfc5649\"",
        );
        assert_ne!(only, text);
        let profile = room.written("padded", &only);
        let config = hsm_profiles::TokenConfig { profile, ..room.config() };
        let token = hsm_profiles::Token::open(config).unwrap();
        runtime().block_on(async {
            assert_passes(&hsm_suite(&*token).await);
            let sealed = token.seal(b"", &ClearBytes::copy_from(b"x")).await.unwrap();
            let SealMethod::WrappedKeyGcm { protection, .. } = sealed.method else { panic!() };
            assert_eq!(protection, KeyProtection::KeyWrapPadded);
        });
    });
}

#[test]
fn passes_the_suite_with_data_keys_under_cbc() {
    with_token("passes_the_suite_with_data_keys_under_cbc", |room| {
        let token = hsm_profiles::Token::open(room.sealing_by("cbc")).unwrap();
        assert_passes(&runtime().block_on(hsm_suite(&*token)));
    });
}

#[test]
fn long_messages_leave_a_token_that_takes_short_ones() {
    with_token("long_messages_leave_a_token_that_takes_short_ones", |room| {
        let short = "method = \"token-gcm\"\nin_token_bytes = 4096";
        let token = hsm_profiles::Token::open(room.with_seal("short", short)).unwrap();
        runtime().block_on(async {
            assert_passes(&hsm_suite(&*token).await);
            for (len, custody) in [(4096, Custody::InToken), (4097, Custody::HostTransient)] {
                let sealed = token.seal(b"", &ClearBytes::from_vec(vec![1; len])).await.unwrap();
                assert_eq!(sealed.method.custody(), custody, "{len} bytes");
            }
        });
    });
}

#[test]
fn a_change_of_profile_strands_nothing() {
    with_token("a_change_of_profile_strands_nothing", |room| {
        let configs =
            [room.config(), room.sealing_by("key-wrap"), room.sealing_by("cbc"), room.config()];
        let clear = ClearBytes::copy_from(&[5; 300]);
        let mut sealed = Vec::new();
        for config in configs {
            let token = hsm_profiles::Token::open(config).unwrap();
            runtime().block_on(async {
                sealed.push(token.seal(b"record", &clear).await.unwrap());
                assert_eq!(sealed.last().unwrap().kek, token.current_kek());
                for one in &sealed {
                    assert_eq!(token.open(b"record", one).await.unwrap(), clear);
                }
            });
        }
        let custody: Vec<_> = sealed.iter().map(|one| one.method.custody()).collect();
        let (token, host) = (Custody::InToken, Custody::HostTransient);
        assert_eq!(custody, [token, host, host, token]);
        // The KEK that wraps may not decrypt, and the other way round.
        assert_ne!(sealed[0].kek, sealed[1].kek);
        assert_eq!(sealed[0].kek, sealed[2].kek);
    });
}

#[test]
fn concurrent_tasks_get_their_own_answers() {
    with_token("concurrent_tasks_get_their_own_answers", |room| {
        let token = room.open();
        let busy = |token: Arc<hsm_profiles::Token>, task: u32| async move {
            for op in 0..100u32 {
                let aad = format!("task {task} op {op}");
                let clear = ClearBytes::from_vec([task, op].map(u32::to_be_bytes).concat());
                let sealed = token.seal(aad.as_bytes(), &clear).await.unwrap();
                assert_eq!(token.open(aad.as_bytes(), &sealed).await.unwrap(), clear);
            }
        };
        runtime().block_on(async {
            let tasks: Vec<_> =
                (0..64).map(|task| tokio::spawn(busy(Arc::clone(&token), task))).collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
        assert!(token.status().ready);
    });
}

#[test]
fn bad_data_among_good_harms_nobody_else() {
    with_token("bad_data_among_good_harms_nobody_else", |room| {
        let token = room.open();
        let clear = ClearBytes::copy_from(&[9; 48]);
        runtime().block_on(async {
            let mut bad = token.seal(b"r", &clear).await.unwrap();
            bad.ciphertext[3] ^= 4;
            let attack = tokio::spawn({
                let token = Arc::clone(&token);
                async move {
                    for _ in 0..100 {
                        let answer = token.open(b"r", &bad).await;
                        assert!(matches!(answer, Err(HsmError::Refused(_))), "{answer:?}");
                    }
                }
            });
            for _ in 0..300 {
                let sealed = token.seal(b"r", &clear).await.unwrap();
                assert_eq!(token.open(b"r", &sealed).await.unwrap(), clear);
            }
            attack.await.unwrap();
        });
    });
}

#[test]
fn two_tokens_share_one_library() {
    with_token("two_tokens_share_one_library", |room| {
        let made = std::process::Command::new(env!("CARGO_BIN_EXE_qkm-token-init"))
            .arg("south")
            .arg(room.dir.join("south.pin"))
            .status()
            .unwrap();
        assert!(made.success());
        let mut config = room.config();
        config.token = hsm_profiles::TokenSelector::Label("south".to_owned());
        config.pin = hsm_profiles::PinSource::File(room.dir.join("south.pin"));
        let south = hsm_profiles::Token::open(config).unwrap();
        let (north, north_again) = (room.open(), room.open());
        assert_eq!(north.current_kek(), north_again.current_kek());
        assert_ne!(north.current_kek(), south.current_kek());
        runtime().block_on(async {
            let clear = ClearBytes::copy_from(&[1; 32]);
            let sealed = north.seal(b"", &clear).await.unwrap();
            assert!(matches!(south.open(b"", &sealed).await, Err(HsmError::Unsupported(_))));
            drop(north);
            assert_eq!(north_again.open(b"", &sealed).await.unwrap(), clear);
            assert!(south.probe().await.ready);
        });
        let mut by_serial = room.config();
        by_serial.token = hsm_profiles::TokenSelector::Serial(south.status().serial);
        by_serial.pin = hsm_profiles::PinSource::File(room.dir.join("south.pin"));
        let again = hsm_profiles::Token::open(by_serial).unwrap();
        assert_eq!(again.status().token, "south");
    });
}

#[test]
fn a_provisioned_token_is_private_and_unique() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let made = provision(SoftToken::SoftHsm, dir.path(), "north", common::init_command()).unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&made.pin_file), 0o600);
    assert_eq!(mode(&dir.path().join("softhsm")), 0o700);
    let pin = std::fs::read_to_string(&made.pin_file).unwrap();
    let error =
        provision(SoftToken::SoftHsm, dir.path(), "north", common::init_command()).unwrap_err();
    assert!(error.to_string().contains("north"), "{error}");
    assert_eq!(std::fs::read_to_string(&made.pin_file).unwrap(), pin, "the PIN is untouched");
    std::fs::rename(&made.pin_file, dir.path().join("old.pin")).unwrap();
    let error =
        provision(SoftToken::SoftHsm, dir.path(), "north", common::init_command()).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    assert!(!made.pin_file.exists(), "no PIN is left for a token that was not made");
    assert!(std::env::var_os(CONF_VARIABLE).is_none());
}
