//! The seed corpus of the TTLV fuzz target, `fuzz/corpus/ttlv`. The seeds are made here; to write
//! them anew: `QKM_WRITE_CORPUS=1 cargo nextest run -p kmip corpus`.

use std::path::PathBuf;

use kmip::attribute::{Attribute, Name};
use kmip::client::{self, Client};
use kmip::enums::*;
use kmip::fuzzing::decode_any;
use kmip::message::{ResponseHeader, ResponseItem, ResponseWriter, error_response};
use kmip::object::{KeyBlock, Object};
use kmip::{DateTime, RequestMessage, ResponseMessage, SecretBytes, SecretText, Version, op};
use proptest::prelude::*;

fn response(version: Version, item: ResponseItem) -> Vec<u8> {
    let mut w = ResponseWriter::new(version, ResponseHeader::new(version, DateTime(1)));
    w.item(&item);
    w.finish().to_vec()
}

/// Seeds that a decoder accepts.
fn good() -> Vec<(&'static str, Vec<u8>)> {
    let old = Client::new(Version::V1_0).with_login("ann", SecretText::copy_from("not a secret"));
    let (v1, v2) = (Client::new(Version::V1_4), Client::new(Version::V2_1));
    let aes = CryptographicAlgorithm::Aes;
    let name = || Attribute::Name(Name::text("seed"));
    let key = || SecretBytes::copy_from(&[0x11; 16]);
    let block = KeyBlock::raw(key(), Some(aes), Some(128));
    let get = op::get::Response { id: "id".into(), object: Object::SymmetricKey(block) };
    let attributes = op::get_attributes::Response {
        id: "id".into(),
        attributes: [name(), Attribute::State(State::Active)].into_iter().collect(),
    };
    vec![
        ("get_10_login", old.request(client::get("id")).unwrap().to_vec()),
        ("create_14", v1.request(client::create(aes, 256, 12, [name()])).unwrap().to_vec()),
        ("create_21", v2.request(client::create(aes, 256, 12, [name()])).unwrap().to_vec()),
        ("register_14", v1.request(client::register_key(key(), aes, 12, [])).unwrap().to_vec()),
        ("register_21", v2.request(client::register_key(key(), aes, 12, [])).unwrap().to_vec()),
        ("locate_fresh_21", v2.request(client::locate_fresh("qkd/south")).unwrap().to_vec()),
        (
            "batch_14",
            v1.batch([client::activate("a").into(), client::destroy("a").into()]).unwrap().to_vec(),
        ),
        ("get_answer_14", response(Version::V1_4, ResponseItem::success(None, get.into()))),
        (
            "attributes_answer_21",
            response(Version::V2_1, ResponseItem::success(None, attributes.into())),
        ),
        (
            "error_answer_12",
            error_response(Version::V1_2, DateTime(1), ResultReason::InvalidMessage, "no").to_vec(),
        ),
    ]
}

/// Seeds that a decoder refuses.
fn bad() -> Vec<(&'static str, Vec<u8>)> {
    let frame = good().swap_remove(1).1;
    let with = |at: usize, byte: u8| {
        let mut frame = frame.clone();
        frame[at] = byte;
        frame
    };
    let mut deep = vec![[0x42, 0x00, 0x08, 0x01, 0, 0, 0, 0]; 40];
    let levels = deep.len();
    for (level, header) in deep.iter_mut().enumerate() {
        let [.., high, low] = ((levels - 1 - level) as u32 * 8).to_be_bytes();
        (header[6], header[7]) = (high, low);
    }
    vec![
        ("bad_truncated", frame[..frame.len() - 9].to_vec()),
        ("bad_length", with(4, 0x7F)),
        ("bad_type", with(11, 0x0C)),
        ("bad_version", with(35, 9)),
        ("bad_deep", deep.concat()),
    ]
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/ttlv")
}

#[test]
fn corpus_files_are_the_seeds() {
    for (name, bytes) in good().into_iter().chain(bad()) {
        let path = folder().join(name);
        if std::env::var_os("QKM_WRITE_CORPUS").is_some() {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        let stored = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(
            stored == bytes,
            "{name} is not what the room writes now; see the head of this file"
        );
    }
}

#[test]
fn corpus_seeds_are_good_and_bad_as_named() {
    let accepted =
        |b: &[u8]| RequestMessage::decode(b).is_ok() || ResponseMessage::decode(b).is_ok();
    assert!(good().iter().all(|(_, bytes)| accepted(bytes)));
    assert!(bad().iter().all(|(_, bytes)| !accepted(bytes)));
}

proptest! {
    #[test]
    fn mutated_seeds_keep_the_invariants(
        seed in 0usize..10,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = good().swap_remove(seed).1;
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        decode_any(&bytes);
    }
}
