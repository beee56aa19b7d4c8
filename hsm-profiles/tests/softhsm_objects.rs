//! Data kept inside the token.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{runtime, with_token};
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use hsm_profiles::Token;
use km_core::hsm::{Hsm, HsmError};
use km_core::material::ClearBytes;

#[test]
fn what_is_kept_in_the_token_is_private_outlives_a_restart_and_goes_when_told() {
    with_token(
        "what_is_kept_in_the_token_is_private_outlives_a_restart_and_goes_when_told",
        |room| {
            let token = room.open();
            let bytes: Vec<u8> = (0..65_472u32).map(|i| ((i * 7) >> 3) as u8).collect();
            let (clear, other) =
                (ClearBytes::from_vec(bytes.clone()), ClearBytes::copy_from(b"other"));
            runtime().block_on(async {
                token.store_object("qkm-north-1-aa", &clear).await.unwrap();
                // The same again is the answer that got lost; another one is refused.
                token.store_object("qkm-north-1-aa", &clear).await.unwrap();
                let taken = token.store_object("qkm-north-1-aa", &other).await;
                assert!(matches!(taken, Err(HsmError::Unsupported(_))), "{taken:?}");
                token.store_object("qkm-north-2-bb", &other).await.unwrap();
                token.store_object("qkm-south-1-cc", &other).await.unwrap();
                drop(token);
                let token = Token::open(room.config()).unwrap();
                assert_eq!(token.read_object("qkm-north-1-aa").await.unwrap(), clear);
                let names = token.object_names("qkm-north-").await.unwrap();
                assert_eq!(names, ["qkm-north-1-aa", "qkm-north-2-bb"]);
                let session = room.other_session();
                let found = session.find_objects(&[Attribute::Class(ObjectClass::DATA)]).unwrap();
                assert_eq!(found.len(), 3);
                for object in found {
                    let private = session.get_attributes(object, &[AttributeType::Private]);
                    assert_eq!(private.unwrap(), [Attribute::Private(true)]);
                }
                token.delete_object("qkm-north-1-aa").await.unwrap();
                token.delete_object("qkm-north-1-aa").await.unwrap();
                let gone = token.read_object("qkm-north-1-aa").await;
                assert!(matches!(gone, Err(HsmError::Refused(_))), "{gone:?}");
                // SoftHSM does not tell.
                assert_eq!(token.room().await.unwrap().free_bytes, None);
            });
            let files = files_below(&room.dir);
            assert!(files.len() > 3);
            for file in files {
                let found = file.windows(64).any(|window| window == &bytes[1000..1064]);
                assert!(!found, "the token wrote it in clear");
            }
        },
    );
}

fn files_below(dir: &std::path::Path) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(std::fs::read(&path).unwrap()),
        }
    }
    files
}
