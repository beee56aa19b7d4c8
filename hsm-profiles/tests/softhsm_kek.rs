//! The KEK as others see it, and how a newer one takes over.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::process::Command;

use common::{Room, library, runtime, with_token};
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use hsm_profiles::Token;
use km_core::hsm::{Hsm, HsmError, KekId, KekInfo};
use km_core::material::ClearBytes;

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
        assert!(!seen.contains("wrap"), "{seen}");
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
