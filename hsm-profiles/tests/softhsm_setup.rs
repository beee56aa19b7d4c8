//! Each setup mistake ends in an error that says what to change.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::{LABEL, Room, with_token};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use hsm_profiles::{Token, TokenConfig, TokenSelector};
use km_core::hsm::HsmError;

/// The error of opening the token with `change` made to a good configuration.
fn refusal(room: &Room, change: impl FnOnce(&mut TokenConfig)) -> HsmError {
    let mut config = room.config();
    change(&mut config);
    Token::open(config).map(|_| ()).unwrap_err()
}

fn tells(error: &HsmError, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn a_wrong_pin_names_the_file_and_not_the_pin() {
    with_token("a_wrong_pin_names_the_file_and_not_the_pin", |room| {
        let wrong = room.dir.join("wrong.pin");
        std::fs::write(&wrong, "31415926").unwrap();
        std::fs::set_permissions(&wrong, PermissionsExt::from_mode(0o600)).unwrap();
        let error = refusal(&room, |c| c.pin = hsm_profiles::PinSource::File(wrong.clone()));
        tells(&error, &["wrong.pin", LABEL, "CKR_PIN_INCORRECT", "does not try a second time"]);
        assert!(matches!(error, HsmError::Setup(_)));
        assert!(!error.to_string().contains("31415926"));
        room.open();
    });
}

#[test]
fn an_absent_token_lists_those_present() {
    with_token("an_absent_token_lists_those_present", |room| {
        let serial = room.open();
        let serial = km_core::hsm::Hsm::status(&*serial).serial;
        for token in [TokenSelector::Label("nort".into()), TokenSelector::Serial("0".into())] {
            let error = refusal(&room, |c| c.token = token);
            tells(&error, &[LABEL, &serial, "hsm.token"]);
        }
    });
}

#[test]
fn an_absent_library_lists_the_candidates() {
    with_token("an_absent_library_lists_the_candidates", |room| {
        let error = refusal(&room, |c| c.library = Some(PathBuf::from("/nowhere/libhsm.so")));
        tells(&error, &["/nowhere/libhsm.so", "apt-get install softhsm2", "hsm.library"]);
        let text = include_str!("../profiles/softhsm2.toml").replace("/lib", "/bil");
        let profile = room.dir.join("elsewhere.toml");
        std::fs::write(&profile, text).unwrap();
        let error = refusal(&room, |c| c.profile = profile.display().to_string());
        tells(&error, &["/usr/bil/softhsm", "/usr/local/bil/softhsm", "apt-get install softhsm2"]);
        let not_pkcs11 = std::fs::canonicalize("/lib/x86_64-linux-gnu/libm.so.6").unwrap();
        let error = refusal(&room, |c| c.library = Some(not_pkcs11));
        tells(&error, &["C_GetFunctionList", "hsm.library"]);
    });
}

#[test]
fn an_open_pin_file_is_refused_before_login() {
    with_token("an_open_pin_file_is_refused_before_login", |room| {
        std::fs::set_permissions(room.pin_file(), PermissionsExt::from_mode(0o644)).unwrap();
        tells(&refusal(&room, |_| {}), &["north.pin", "0644", "chmod 600"]);
        std::fs::remove_file(room.pin_file()).unwrap();
        tells(&refusal(&room, |_| {}), &["north.pin", "cannot be read"]);
    });
}

#[test]
fn a_pin_may_come_from_a_systemd_credential() {
    with_token("a_pin_may_come_from_a_systemd_credential", |room| {
        // systemd shows its access list as group bits.
        std::fs::set_permissions(room.pin_file(), PermissionsExt::from_mode(0o440)).unwrap();
        let mut config = room.config();
        config.pin = hsm_profiles::PinSource::Credential("north.pin".to_owned());
        drop(Token::open(config).unwrap());
        std::fs::set_permissions(room.pin_file(), PermissionsExt::from_mode(0o444)).unwrap();
        let credential = hsm_profiles::PinSource::Credential("north.pin".to_owned());
        tells(&refusal(&room, |c| c.pin = credential), &["north.pin", "0444"]);
    });
}

#[test]
fn an_absent_mechanism_is_named() {
    with_token("an_absent_mechanism_is_named", |room| {
        let text = include_str!("../profiles/softhsm2.toml")
            .replace("\"AES_KEY_GEN\"", "\"AES_KEY_GEN\", \"HKDF_DERIVE\"");
        let profile = room.dir.join("hkdf.toml");
        std::fs::write(&profile, text).unwrap();
        let error = refusal(&room, |c| c.profile = profile.display().to_string());
        tells(&error, &["CKM_HKDF_DERIVE", LABEL, "softhsm2"]);
        assert!(!error.to_string().contains("AES_KEY_GEN"), "{error}");
        assert!(matches!(error, HsmError::Unsupported(_)));
    });
}

#[test]
fn no_kek_is_made_unless_asked_for() {
    with_token("no_kek_is_made_unless_asked_for", |room| {
        let error = refusal(&room, |c| c.create_kek = false);
        tells(&error, &["qkm-kek-", "hsm.create_kek", "restore"]);
        drop(room.open());
        let mut config = room.config();
        config.create_kek = false;
        Token::open(config).unwrap();
    });
}

#[test]
fn a_planted_extractable_kek_is_refused() {
    with_token("a_planted_extractable_kek_is_refused", |room| {
        let token = room.open();
        let session = room.other_session();
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(32.into()),
            Attribute::Label(b"qkm-kek-99".to_vec()),
            Attribute::Id(vec![9; 16]),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
        ];
        session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
        tells(&refusal(&room, |_| {}), &["qkm-kek-99", "is not sensitive", "can be extracted"]);
        drop(token);
    });
}

#[test]
fn too_many_sessions_and_odd_deadlines_are_refused() {
    with_token("too_many_sessions_and_odd_deadlines_are_refused", |room| {
        tells(&refusal(&room, |c| c.sessions = Some(64)), &["hsm.sessions", "64", "63"]);
        tells(&refusal(&room, |c| c.sessions = Some(0)), &["sessions"]);
        tells(&refusal(&room, |c| c.deadline_ms = 1), &["deadline_ms"]);
    });
}

#[test]
fn a_changed_pin_stops_logins_for_good() {
    with_token("a_changed_pin_stops_logins_for_good", |room| {
        use km_core::hsm::Hsm;
        let token = room.open();
        let right = room.pin();
        let overwrite = |pin: &str| std::fs::write(room.pin_file(), pin).unwrap();
        overwrite("27182818");
        room.other_session().logout().unwrap();
        common::runtime().block_on(async {
            let status = token.probe().await;
            assert!(!status.ready && status.detail.contains("CKR_PIN_INCORRECT"), "{status:?}");
            // The file is right again, but the token must not see another try from this process.
            overwrite(&right);
            let status = token.probe().await;
            assert!(!status.ready && status.detail.contains("second time"), "{status:?}");
        });
        let session = room.other_session();
        session.login(UserType::User, Some(&AuthPin::from(right.as_str()))).unwrap();
    });
}
