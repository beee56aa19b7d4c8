//! What `qkm hsm list`, `login` and `test` find out, on both tokens in software.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use common::{LABEL, Room, library, runtime, with_token, with_token_of};
use hsm_profiles::examine::{self, Examined, Subject};
use hsm_profiles::soft::SoftToken;
use hsm_profiles::suite::assert_passes;
use hsm_profiles::{PinSource, TokenConfig};
use km_core::hsm::{Custody, HsmError};

fn subject(room: &Room, profile: Option<&str>) -> Subject {
    let config = room.config();
    Subject {
        library: Some(library(room.product)),
        profile: profile.map(str::to_owned),
        token: config.token,
        pin: config.pin,
        time: Duration::from_millis(20),
    }
}

/// The custody a function reaches; the test fails when it was not tried.
fn custody(found: &Examined, function: &str) -> Option<Custody> {
    let ability = found
        .abilities
        .iter()
        .find(|a| a.function == function)
        .or_else(|| found.abilities.iter().find(|a| a.function.starts_with(function)));
    ability.unwrap_or_else(|| panic!("{function}: {:#?}", found.abilities)).custody
}

fn examine_and_leave_as_it_was(room: &Room) -> Examined {
    let before = examine::login(room.config()).unwrap();
    let found = runtime().block_on(examine::test(subject(room, None))).unwrap();
    let session = room.other_session();
    // Who is not logged in sees no private objects.
    session.login(UserType::User, Some(&AuthPin::from(room.pin().as_str()))).unwrap();
    // Kryoptic describes its mechanisms in objects: only keys count.
    for class in [ObjectClass::SECRET_KEY, ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        let left = session.find_objects(&[Attribute::Class(class)]).unwrap();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
    assert!(before.keks.is_empty());
    assert_passes(&found.checks);
    assert!(found.fits() && found.tried.is_empty());
    for function in [
        "random",
        "seal and open a key",
        "seal and open a block",
        "encrypt",
        "MAC",
        "key pair",
        "agreement",
    ] {
        assert_eq!(custody(&found, function), Some(Custody::InToken), "{function}");
    }
    assert_eq!(custody(&found, "import"), Some(Custody::HostTransient));
    assert_eq!(custody(&found, "wrap and unwrap, CKM_AES_KEY_WRAP"), Some(Custody::InToken));
    let post_quantum = common::has_post_quantum(room.product).then_some(Custody::InToken);
    for function in ["key encapsulation, ML-KEM-768", "signature, ML-DSA-65"] {
        assert_eq!(custody(&found, function), post_quantum, "{function}");
    }
    assert_eq!(found.speeds.len(), 8);
    assert!(found.speeds.iter().all(|speed| speed.per_second > 1.0), "{:?}", found.speeds);
    found
}

#[test]
fn softhsm_fits_its_profile_and_tells_its_traps() {
    with_token("softhsm_fits_its_profile_and_tells_its_traps", |room| {
        let found = examine_and_leave_as_it_was(&room);
        assert_eq!(found.profile, "softhsm2");
        let detail = |begin: &str| {
            let found = found.abilities.iter().find(|a| a.function.starts_with(begin)).unwrap();
            found.detail.clone()
        };
        assert!(detail("wrap and unwrap").contains("31 bytes"), "{}", detail("wrap and unwrap"));
        assert!(detail("encrypt").contains("empty nonce"));
        assert!(detail("derive, HKDF").contains("CKM_HKDF_DERIVE is not offered"));
    });
}

#[test]
fn kryoptic_fits_its_profile() {
    with_token_of(SoftToken::Kryoptic, "kryoptic_fits_its_profile", |room| {
        let found = examine_and_leave_as_it_was(&room);
        assert_eq!(found.profile, "kryoptic");
        let kwp = custody(&found, "wrap and unwrap, CKM_AES_KEY_WRAP_KWP");
        assert_eq!(kwp, Some(Custody::InToken), "a mechanism that cryptoki has no name for");
        assert_eq!(custody(&found, "derive, HKDF"), Some(Custody::InToken));
    });
}

/// What a stricter product asks for, tried where it can be.
#[test]
fn a_clear_key_gets_in_wrapped_where_tokens_refuse_it() {
    with_token_of(
        SoftToken::Kryoptic,
        "a_clear_key_gets_in_wrapped_where_tokens_refuse_it",
        |room| {
            let text = include_str!("../profiles/kryoptic.toml")
                .replace("[keys]", "[keys]\nimport = \"encrypt-then-unwrap\"");
            let path = room.dir.join("strict.toml");
            std::fs::write(&path, text).unwrap();
            let subject = subject(&room, path.to_str());
            let found = runtime().block_on(examine::test(subject)).unwrap();
            assert_passes(&found.checks);
            let import = found.abilities.iter().find(|a| a.function.contains("then unwrap"));
            assert_eq!(import.unwrap().custody, Some(Custody::HostTransient), "{import:?}");
        },
    );
}

#[test]
fn a_profile_that_does_not_fit_is_told_by_the_suite() {
    with_token("a_profile_that_does_not_fit_is_told_by_the_suite", |room| {
        // Without SoftHSM's own meaning of CKR_GENERAL_ERROR every changed message looks like a
        // sick token.
        let text = include_str!("../profiles/softhsm2.toml");
        let path = room.dir.join("strict.toml");
        std::fs::write(&path, text.replace(", \"CKR_GENERAL_ERROR\"]", "]")).unwrap();
        let subject = subject(&room, path.to_str());
        let found = runtime().block_on(examine::test(subject)).unwrap();
        assert!(!found.fits(), "{:#?}", found.checks);
    });
}

#[test]
fn a_token_without_session_objects_gets_none() {
    with_token("a_token_without_session_objects_gets_none", |room| {
        let text = include_str!("../profiles/softhsm2.toml");
        let path = room.dir.join("card.toml");
        let only = text.replace("[keys]", "[keys]\ntoken_objects_only = true");
        std::fs::write(&path, only.replace("session-copy", "token")).unwrap();
        let found = runtime().block_on(examine::test(subject(&room, path.to_str()))).unwrap();
        assert_passes(&found.checks);
        assert_eq!(custody(&found, "keys for the time of a session"), None);
        let names: Vec<_> = found.abilities.iter().map(|a| a.function.as_str()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(found.speeds.iter().all(|speed| !speed.operation.starts_with("sign")));
    });
}

fn generic_profiles_fit(room: &Room) {
    for name in ["generic", "generic-wrap"] {
        let subject = Subject { time: Duration::ZERO, ..subject(room, Some(name)) };
        let found = runtime().block_on(examine::test(subject)).unwrap();
        assert_passes(&found.checks);
    }
}

#[test]
fn generic_profiles_fit_softhsm() {
    with_token("generic_profiles_fit_softhsm", |room| generic_profiles_fit(&room));
}

#[test]
fn generic_profiles_fit_kryoptic() {
    with_token_of(SoftToken::Kryoptic, "generic_profiles_fit_kryoptic", |room| {
        generic_profiles_fit(&room);
    });
}

/// SoftHSM makes no nonce, and takes an empty one: a profile that says otherwise must not seal.
#[test]
fn a_token_that_makes_no_nonce_is_not_taken_for_one_that_does() {
    with_token("a_token_that_makes_no_nonce_is_not_taken_for_one_that_does", |room| {
        for iv in ["writeback", "append", "prepend"] {
            let seal = format!("method = \"token-gcm\"\n# {iv}");
            let mut config = room.with_seal(iv, &seal);
            let text = std::fs::read_to_string(&config.profile).unwrap();
            std::fs::write(&config.profile, text.replace("\"host\"", &format!("{iv:?}"))).unwrap();
            config.create_kek = true;
            let error = hsm_profiles::Token::open(config).err().unwrap();
            assert!(error.to_string().contains("seal.iv"), "{iv}: {error}");
        }
    });
}

#[test]
fn a_listed_token_is_described() {
    with_token("a_listed_token_is_described", |room| {
        let found = examine::list(Some(&library(room.product))).unwrap();
        let [token] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (token.label.as_str(), token.profile, token.pin),
            (LABEL, Some("softhsm2"), "set")
        );
        assert!(token.mechanisms > 20 && token.model.contains("SoftHSM"), "{token:?}");
        assert!(examine::list(None).unwrap().iter().any(|t| t.serial == token.serial));
    });
}

#[test]
fn a_login_is_tried_once() {
    with_token("a_login_is_tried_once", |room| {
        let wrong = room.dir.join("wrong.pin");
        std::fs::copy(room.pin_file(), &wrong).unwrap();
        std::fs::write(&wrong, "not the PIN").unwrap();
        let config = TokenConfig { pin: PinSource::File(wrong.clone()), ..room.config() };
        let error = examine::login(config.clone()).unwrap_err();
        assert!(
            matches!(&error, HsmError::Setup(why) if why.contains("CKR_PIN_INCORRECT")),
            "{error}"
        );
        let state = || examine::list(Some(&library(room.product))).unwrap()[0].pin;
        assert_eq!(state(), "wrong ones were tried");
        let found = examine::login(room.config()).unwrap();
        assert_eq!((found.profile.as_str(), found.token.pin), ("softhsm2", "set"));
        assert!(found.keks.is_empty());
        drop(room.open());
        assert_eq!(examine::login(room.config()).unwrap().keks.len(), 1);
    });
}

#[test]
fn a_pin_of_another_form_costs_no_try() {
    with_token("a_pin_of_another_form_costs_no_try", |room| {
        let text = include_str!("../profiles/softhsm2.toml")
            .replace("[seal]", "[login]\npin = \"user-and-password\"\n[seal]");
        let path = room.dir.join("cloud.toml");
        std::fs::write(&path, text).unwrap();
        let config = TokenConfig { profile: path.display().to_string(), ..room.config() };
        let error = examine::login(config).unwrap_err().to_string();
        assert!(error.contains("user:password") && error.contains("no login was tried"), "{error}");
        assert_eq!(examine::list(Some(&library(room.product))).unwrap()[0].pin, "set");
    });
}
