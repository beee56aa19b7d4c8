//! KEKs that go from one token to another.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Room, init_command, runtime, seed, with_token};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use hsm_profiles::{PinSource, Token, TokenConfig, TokenSelector, parcels};
use km_core::hsm::{Hsm, HsmError, KekInfo, TokenKey};
use km_core::material::ClearBytes;
use km_core::usage::{Action, Cipher, KeyKind};

/// Both tokens hold the KEK: what one seals the other opens, and keys made in one work in the other.
async fn hold_the_same(north: &Token, south: &Token, kek: &KekInfo) {
    let clear = ClearBytes::copy_from(b"sealed in one, opened in the other");
    for (one, other) in [(north, south), (south, north)] {
        assert_eq!(one.current_kek(), kek.id);
        let sealed = one.seal(b"aad", &clear).await.unwrap();
        assert_eq!(other.open(b"aad", &sealed).await.unwrap(), clear);
        let ecb = Action::Encrypt(Cipher::Ecb { padded: true });
        let made = one.make_key(b"", KeyKind::Aes, 256).await.unwrap();
        let (name, sealed) = (made.sealed.iv.clone(), made.sealed);
        let key = TokenKey { name, kind: KeyKind::Aes, wrapped: true, aad: Vec::new(), sealed };
        let here = one.use_key(&key, &ecb, &clear).await.unwrap();
        assert_eq!(other.use_key(&key, &ecb, &clear).await.unwrap(), here);
    }
}

/// A token of the same library that never had a KEK.
fn empty_token(room: &Room, label: &str) -> TokenConfig {
    let pin_file = room.dir.join(format!("{label}.pin"));
    let made = init_command().arg(label).arg(&pin_file).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let token = TokenSelector::Label(label.to_owned());
    TokenConfig { token, pin: PinSource::File(pin_file), create_kek: false, ..room.config() }
}

fn stays_inside(room: &Room, token: &str, number: u64) {
    let pkcs11 = room.other_handle();
    let slots = pkcs11.get_slots_with_token().unwrap();
    let is_it =
        |slot: &cryptoki::slot::Slot| pkcs11.get_token_info(*slot).unwrap().label() == token;
    let slot = slots.into_iter().find(is_it).unwrap();
    let session = pkcs11.open_rw_session(slot).unwrap();
    for label in [format!("qkm-kek-{number}"), format!("qkm-kek-w-{number}")] {
        let named = [Attribute::Label(label.into_bytes()), Attribute::Token(true)];
        let found = session.find_objects(&named).unwrap();
        assert_eq!(found.len(), 1);
        let wanted = [AttributeType::Sensitive, AttributeType::Extractable];
        let told = session.get_attributes(found[0], &wanted).unwrap();
        assert_eq!(told, [Attribute::Sensitive(true), Attribute::Extractable(false)]);
    }
    let takeable = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Extractable(true)];
    assert_eq!(session.find_objects(&takeable).unwrap(), [], "nothing is left that can be wrapped");
    let pair = [Attribute::Class(ObjectClass::PRIVATE_KEY)];
    for private in session.find_objects(&pair).unwrap() {
        let wanted = [AttributeType::Decrypt, AttributeType::Extractable];
        let told = session.get_attributes(private, &wanted).unwrap();
        assert_eq!(told, [Attribute::Decrypt(false), Attribute::Extractable(false)]);
    }
}

#[test]
fn a_kek_goes_to_another_token_and_stays_inside_both() {
    with_token("a_kek_goes_to_another_token_and_stays_inside_both", |room| {
        let (south, west) = (empty_token(&room, "south"), empty_token(&room, "west"));
        let north = room.open();
        runtime().block_on(async {
            let receiver = parcels::receiver(south.clone()).unwrap();
            assert_eq!(parcels::receiver(south.clone()).unwrap(), receiver, "one pair for all");
            let other = parcels::receiver(west.clone()).unwrap();
            assert_eq!(receiver.kem, None, "the token has no ML-KEM");
            let (kek, made) = north.create_kek_for(0, &[receiver, other], &seed()).await.unwrap();
            let [parcel, for_west] = &made[..] else { panic!("{made:?}") };
            assert!(parcel.kem.is_none() && for_west.kem.is_none());
            assert_eq!((kek.number, parcel.number), (2, 2));
            let mut changed = parcel.clone();
            changed.keys[0].id[7] ^= 1;
            changed.keys[1].key[7] ^= 1;
            for wrong in [&changed, for_west] {
                let refused = parcels::take(south.clone(), wrong);
                assert!(matches!(refused, Err(HsmError::Refused(_))), "{refused:?}");
                assert!(Token::open(south.clone()).is_err(), "nothing seals with half of it");
            }
            for _ in 0..2 {
                assert_eq!(parcels::take(south.clone(), parcel).unwrap(), kek);
            }
            let open = Token::open(south.clone()).unwrap();
            hold_the_same(&north, &open, &kek).await;
            stays_inside(&room, common::LABEL, 2);
            stays_inside(&room, "south", 2);
            drop(open);

            // Not in the place of a KEK that is there, and not by one who never asked.
            let mut second = parcel.clone();
            second.keys[1].id = vec![9; 16];
            let refused = parcels::take(south.clone(), &second);
            assert!(matches!(refused, Err(HsmError::Refused(_))), "{refused:?}");
            let never = parcels::take(empty_token(&room, "east"), parcel);
            assert!(matches!(never, Err(HsmError::Refused(_) | HsmError::Setup(_))), "{never:?}");
            assert_eq!(parcels::take(west.clone(), for_west).unwrap(), kek);
            let open = Token::open(west).unwrap();
            hold_the_same(&north, &open, &kek).await;
        });
    });
}

/// How many keys of epoch `number` the first token holds: those that wrap, and those that seal.
fn held(room: &Room, number: u64) -> [usize; 2] {
    let session = room.other_session();
    [format!("qkm-kek-w-{number}"), format!("qkm-kek-{number}")].map(|label| {
        let named = [Attribute::Label(label.into_bytes()), Attribute::Token(true)];
        session.find_objects(&named).unwrap().len()
    })
}

#[test]
fn an_epoch_that_fails_half_way_leaves_no_key_that_wraps() {
    with_token("an_epoch_that_fails_half_way_leaves_no_key_that_wraps", |room| {
        let south = empty_token(&room, "south");
        drop(room.open());
        let receiver = parcels::receiver(south.clone()).unwrap();
        // The key that wraps is kept, and the one that seals cannot be.
        let copied =
            "[[keys.template]]\nof = \"sealing\"\nset = { CKA_COPYABLE = false }\n\n[limits]";
        let profile = room.built_in().replace("[limits]", copied);
        let half = TokenConfig { profile: room.written("half", &profile), ..room.config() };
        let north = Token::open(half).unwrap();
        runtime().block_on(async {
            let failed = north.create_kek_for(0, std::slice::from_ref(&receiver), &seed()).await;
            assert!(failed.is_err(), "{failed:?}");
            assert_eq!(held(&room, 2), [0, 0], "all keys of an epoch, or none");
            drop(north);

            // A crash in between leaves one nevertheless.
            let left = [
                Attribute::Label(b"qkm-kek-w-2".to_vec()),
                Attribute::Id(vec![7; 16]),
                Attribute::Token(true),
                Attribute::ValueLen(32.into()),
                Attribute::Encrypt(false),
                Attribute::Decrypt(false),
                Attribute::Wrap(true),
                Attribute::Unwrap(true),
            ];
            let north = room.open();
            room.other_session().generate_key(&Mechanism::AesKeyGen, &left).unwrap();
            let (kek, made) = north.create_kek_for(0, &[receiver], &seed()).await.unwrap();
            assert_eq!(held(&room, 2), [1, 1]);
            assert_eq!(parcels::take(south.clone(), &made[0]).unwrap(), kek);
            hold_the_same(&north, &Token::open(south).unwrap(), &kek).await;
        });
    });
}
