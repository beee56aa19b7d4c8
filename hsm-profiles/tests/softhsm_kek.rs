//! The KEK as others see it, and how a newer one takes over.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{Room, library, runtime, with_token};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use hsm_profiles::{PinSource, Token, TokenConfig, TokenSelector};
use km_core::hsm::{Hsm, HsmError, KekId, KekInfo, TokenKey};
use km_core::material::ClearBytes;
use km_core::usage::{Action, Cipher, Curve, Hash, KeyKind, Scheme};

#[test]
fn the_kek_cannot_leave_the_token() {
    with_token("the_kek_cannot_leave_the_token", |room| {
        let token = room.open();
        let session = room.other_session();
        let id = (0..16)
            .map(|i| u8::from_str_radix(&token.current_kek().0[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let found = session
            .find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Id(id)])
            .unwrap();
        let is_kept = |kek| {
            let kept = session.get_attributes(kek, &[AttributeType::Token]).unwrap();
            kept == [Attribute::Token(true)]
        };
        assert_eq!(found.iter().filter(|kek| is_kept(**kek)).count(), 1, "one KEK: {found:?}");
        assert_eq!(found.len(), 2, "and its copy for the login: {found:?}");
        let wanted = [
            (AttributeType::Private, Attribute::Private(true)),
            (AttributeType::Sensitive, Attribute::Sensitive(true)),
            (AttributeType::AlwaysSensitive, Attribute::AlwaysSensitive(true)),
            (AttributeType::Extractable, Attribute::Extractable(false)),
            (AttributeType::NeverExtractable, Attribute::NeverExtractable(true)),
            (AttributeType::Local, Attribute::Local(true)),
            (AttributeType::Encrypt, Attribute::Encrypt(true)),
            (AttributeType::Decrypt, Attribute::Decrypt(true)),
            (AttributeType::Wrap, Attribute::Wrap(false)),
            (AttributeType::Unwrap, Attribute::Unwrap(false)),
            (AttributeType::Derive, Attribute::Derive(false)),
            (AttributeType::ValueLen, Attribute::ValueLen(32.into())),
        ];
        for kek in found {
            for (kind, value) in &wanted {
                // A copy was not generated, so it is not called local.
                if is_kept(kek) || *kind != AttributeType::Local {
                    let read = session.get_attributes(kek, &[*kind]).unwrap();
                    assert_eq!(read, std::slice::from_ref(value));
                }
            }
            let value = session.get_attributes(kek, &[AttributeType::Value]);
            assert!(!matches!(value.as_deref(), Ok([Attribute::Value(_)])), "the KEK can be read");
        }
    });
}

/// The profile says what keys are like, who trusts the key that wraps them, and what is said when
/// nobody does.
#[test]
fn keys_that_only_a_trusted_key_wraps() {
    with_token("keys_that_only_a_trusted_key_wraps", |room| {
        // This KM cannot mark it, as SoftHSM keeps to the standard; that shows at the start.
        let room = room.with_keys("user", "trusted = \"user\"");
        let refused = Token::open(room.config()).err().unwrap().to_string();
        assert!(refused.contains("does not make the key that wraps"), "{refused}");
        let room = room.with_keys(
            "officer",
            "trusted = \"officer\"\n\
             template = [\n\
             { of = \"wrapping\", set = { CKA_PRIVATE = false } },\n\
             { of = \"private\", kind = \"ec\", set = { CKA_MODIFIABLE = false } }]",
        );
        let officer = Officer::of(&room);
        let open = || Token::open(officer.config.clone());
        let untrusted = open().err().unwrap();
        assert!(matches!(&untrusted, HsmError::Setup(why) if why.contains("CKA_TRUSTED")));
        officer.trusts("qkm-kek-w-1");
        let token = open().unwrap();
        runtime().block_on(async {
            let (aes, ec) = (KeyKind::Aes, KeyKind::Ec(Curve::P256));
            let made = [token.make_key(b"", aes, 256).await, token.make_key(b"", ec, 256).await];
            for (at, made) in made.into_iter().enumerate() {
                let (kind, action, input) = match at {
                    0 => (aes, Action::Encrypt(Cipher::Ecb { padded: true }), vec![7; 5]),
                    _ => (ec, Action::Sign(Scheme::Ecdsa(Hash::Sha256)), vec![7; 32]),
                };
                let (name, aad, sealed) = (vec![at as u8], Vec::new(), made.unwrap().sealed);
                let key = TokenKey { name, kind, wrapped: true, aad, sealed };
                token.use_key(&key, &action, &ClearBytes::from_vec(input)).await.unwrap();
            }
            let session = room.other_handle().open_rw_session(officer.slot()).unwrap();
            for (class, modifiable) in
                [(ObjectClass::SECRET_KEY, true), (ObjectClass::PRIVATE_KEY, false)]
            {
                let only = [Attribute::Class(class), Attribute::WrapWithTrusted(true)];
                let found = session.find_objects(&only).unwrap();
                assert_eq!(found.len(), 1, "{class:?}: {found:?}");
                let told = session.get_attributes(found[0], &[AttributeType::Modifiable]).unwrap();
                assert_eq!(told, [Attribute::Modifiable(modifiable)], "{class:?}");
            }
            drop(session);
            // An epoch begins with a trusted key, or not at all.
            let before = token.keks().await.unwrap();
            let untrusted = token.create_kek().await.unwrap_err();
            assert!(untrusted.to_string().contains("qkm-kek-w-2"), "{untrusted}");
            assert_eq!(token.keks().await.unwrap(), before);
            drop(token);
            officer.trusts("qkm-kek-w-2");
            let token = open().unwrap();
            assert_eq!(token.create_kek().await.unwrap().number, 2);
            token.make_key(b"", aes, 256).await.unwrap();
        });
    });
}

/// A token whose security officer is at hand.
struct Officer<'a> {
    room: &'a Room,
    config: TokenConfig,
}

const OFFICER_PIN: &str = "5678901234";

impl<'a> Officer<'a> {
    fn of(room: &'a Room) -> Self {
        let (label, pin) = ("officer", "1234567890");
        let pkcs11 = room.other_handle();
        let slots = pkcs11.get_slots_with_token().unwrap();
        let is_free = |slot: &Slot| !pkcs11.get_token_info(*slot).unwrap().token_initialized();
        let free = slots.into_iter().find(is_free).unwrap();
        let so_pin = AuthPin::from(OFFICER_PIN);
        pkcs11.init_token(free, &so_pin, label).unwrap();
        let pin_file = room.dir.join("officer.pin");
        std::fs::write(&pin_file, pin).unwrap();
        std::fs::set_permissions(&pin_file, Permissions::from_mode(0o600)).unwrap();
        let token = TokenSelector::Label(label.to_owned());
        let config = TokenConfig { token, pin: PinSource::File(pin_file), ..room.config() };
        let officer = Self { room, config };
        let session = pkcs11.open_rw_session(officer.slot()).unwrap();
        session.login(UserType::So, Some(&so_pin)).unwrap();
        session.init_pin(&AuthPin::from(pin)).unwrap();
        session.logout().unwrap();
        officer
    }

    fn slot(&self) -> Slot {
        let pkcs11 = self.room.other_handle();
        let slots = pkcs11.get_slots_with_token().unwrap();
        let is_ours = |slot: &Slot| pkcs11.get_token_info(*slot).unwrap().label() == "officer";
        slots.into_iter().find(is_ours).unwrap()
    }

    /// Puts a trusted key in the place of the one of this label: SoftHSM lets the officer make such
    /// a key, and mark none that is there.
    fn trusts(&self, label: &str) {
        let session = self.room.other_handle().open_rw_session(self.slot()).unwrap();
        session.login(UserType::So, Some(&AuthPin::from(OFFICER_PIN))).unwrap();
        let named = Attribute::Label(label.as_bytes().to_vec());
        let untrusted = session.find_objects(std::slice::from_ref(&named)).unwrap();
        let wanted = [AttributeType::Id, AttributeType::Trusted];
        let told = session.get_attributes(untrusted[0], &wanted).unwrap();
        let [id, Attribute::Trusted(false)] = &told[..] else { panic!("{told:?}") };
        session.destroy_object(untrusted[0]).unwrap();
        let trusted = [
            named,
            id.clone(),
            Attribute::Trusted(true),
            Attribute::ValueLen(32.into()),
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Wrap(true),
            Attribute::Unwrap(true),
        ];
        session.generate_key(&Mechanism::AesKeyGen, &trusted).unwrap();
        session.logout().unwrap();
    }
}

fn pkcs11_tool(room: &Room, arguments: &[&str]) -> String {
    let output = Command::new("pkcs11-tool")
        .arg("--module")
        .arg(library(hsm_profiles::soft::SoftToken::SoftHsm))
        .args(["--token-label", common::LABEL, "--login", "--pin", "env:TEST_PIN"])
        .env("TEST_PIN", room.pin())
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pkcs11_tool_sees_a_secret_key_that_never_leaves() {
    with_token("pkcs11_tool_sees_a_secret_key_that_never_leaves", |room| {
        let token = room.open();
        let seen = pkcs11_tool(&room, &["--list-objects", "--type", "secrkey"]);
        for words in ["Secret Key Object; AES length 32", "qkm-kek-1", "never extractable"] {
            assert!(seen.contains(words), "{words:?} is not in {seen}");
        }
        assert!(seen.contains("sensitive"), "{seen}");
        assert!(seen.contains(&token.current_kek().0), "{seen}");
        // The KEK seals and does nothing else; the key beside it wraps and does nothing else.
        for (label, usage) in [("qkm-kek-1", "encrypt, decrypt"), ("qkm-kek-w-1", "wrap, unwrap")] {
            let of = seen.split("Secret Key Object").find(|part| part.contains(label)).unwrap();
            let told = of.lines().find(|line| line.contains("Usage")).unwrap();
            assert_eq!(told.split(':').nth(1).unwrap().trim(), usage, "{seen}");
        }
    });
}

#[test]
fn the_newest_kek_seals_and_all_open() {
    with_token("the_newest_kek_seals_and_all_open", |room| {
        let token = room.open();
        let first = token.current_kek();
        let clear = ClearBytes::copy_from(&[3; 32]);
        runtime().block_on(async {
            let old = token.seal(b"", &clear).await.unwrap();
            let second = token.create_kek().await.unwrap().id;
            assert_ne!(first, second);
            assert_eq!(token.current_kek(), second);
            assert_eq!(ids(&token).await, [first.clone(), second.clone()]);
            // Ten KEKs: the order is by number, not by letters.
            let mut last = second;
            for _ in 3..=10 {
                last = token.create_kek().await.unwrap().id;
            }
            let new = token.seal(b"", &clear).await.unwrap();
            assert_eq!((&old.kek, &new.kek), (&first, &last));
            drop(token);
            let token = Token::open(room.config()).unwrap();
            assert_eq!(token.current_kek(), last);
            for sealed in [&old, &new] {
                assert_eq!(token.open(b"", sealed).await.unwrap(), clear);
            }
        });
    });
}

/// Its epoch may stand in the store already.
#[test]
fn a_kek_that_another_key_manager_made_is_listed() {
    with_token("a_kek_that_another_key_manager_made_is_listed", |room| {
        runtime().block_on(async {
            let (one, other) = (room.start().await, room.start().await);
            assert_eq!(ids(&one).await, ids(&other).await);
            let made = one.create_kek().await.unwrap();
            assert_eq!(other.keks().await.unwrap().last(), Some(&made));
        });
    });
}

async fn ids(token: &Token) -> Vec<KekId> {
    token.keks().await.unwrap().into_iter().map(|kek| kek.id).collect()
}

#[test]
fn a_destroyed_kek_is_gone_with_its_copies_and_opens_nothing_any_more() {
    with_token("a_destroyed_kek_is_gone_with_its_copies_and_opens_nothing_any_more", |room| {
        let token = room.open();
        let first = token.current_kek();
        let clear = ClearBytes::copy_from(&[3; 32]);
        runtime().block_on(async {
            let old_kek = KekInfo { id: first.clone(), number: 1 };
            let old = token.seal(b"", &clear).await.unwrap();
            let sealing = token.destroy_kek(&old_kek).await;
            assert!(matches!(sealing, Err(HsmError::Unsupported(_))), "{sealing:?}");
            let second = token.create_kek().await.unwrap();
            assert_eq!(second.number, 2);
            assert_eq!(token.open(b"", &old).await.unwrap(), clear);
            token.destroy_kek(&old_kek).await.unwrap();
            assert_eq!(token.keks().await.unwrap(), [second]);
            let gone = token.open(b"", &old).await;
            assert!(matches!(&gone, Err(HsmError::Unsupported(_))), "{gone:?}");
            assert!(gone.unwrap_err().to_string().contains("does not hold KEK"));
            // Neither the key nor a copy of it is left under any handle.
            let bytes = hex::decode(&first.0).unwrap();
            let left = room.other_session().find_objects(&[Attribute::Id(bytes)]).unwrap();
            assert!(left.is_empty(), "{left:?}");
            // To ask twice is no error, and the number is not given again.
            token.destroy_kek(&old_kek).await.unwrap();
            assert_eq!(token.create_kek().await.unwrap().number, 3);
            let new = token.seal(b"", &clear).await.unwrap();
            drop(token);
            let token = Token::open(room.config()).unwrap();
            assert_eq!(ids(&token).await.len(), 2);
            assert!(token.open(b"", &old).await.is_err());
            assert_eq!(token.open(b"", &new).await.unwrap(), clear);
        });
    });
}
