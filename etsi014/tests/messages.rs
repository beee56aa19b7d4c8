//! Round trips, the standard's examples, other implementations' habits, and what is refused.
#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use etsi014::{
    ContainerWriter, ErrorBody, Full, KeyContainer, KeyIds, KeyName, KeyRequest, MAX_KEYS, Status,
    path::{self, Method},
};
use proptest::prelude::*;
use uuid::Uuid;

const ID: &str = "0190163d-8694-739b-aea5-966c26f8ad91";

fn corpus(name: &str) -> Vec<u8> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/etsi014");
    fs::read(dir.join(name)).unwrap()
}

#[test]
fn the_standards_status_example_reads() {
    let status = Status::parse(&corpus("ok-status.json")).unwrap();
    assert_eq!((status.key_size, status.stored_key_count), (352, 25_000));
    assert_eq!(Status::parse(&status.to_json()).unwrap(), status);
}

#[test]
fn containers_of_other_servers_read() {
    let example = KeyContainer::parse(&corpus("ok-container.json")).unwrap();
    assert_eq!(example.iter().map(|(_, key)| key.len()).collect::<Vec<_>>(), [32, 32]);
    let capital = KeyContainer::parse(&corpus("ok-container-capital.json")).unwrap();
    assert_eq!(capital.iter().next().unwrap().1, [0, 1, 2, 3, 4]);
    let escaped = KeyContainer::parse(&corpus("ok-container-escapes.json")).unwrap();
    assert_eq!(escaped.iter().next().unwrap().1, [0xFF, 0xFF]);
}

#[test]
fn requests_of_other_clients_read() {
    let request = KeyRequest::parse(&corpus("ok-request.json")).unwrap();
    assert_eq!((request.number, request.size), (Some(20), Some(512)));
    assert_eq!(request.additional_slave_sae_ids, ["ada", "grace"]);
    assert_eq!(request.extension_mandatory[0]["abc_route"], "direct");
    assert_eq!(KeyRequest::parse(&request.to_json()).unwrap(), request);
    let nulls = KeyRequest::parse(&corpus("ok-request-nulls.json")).unwrap();
    assert_eq!(nulls, KeyRequest { number: Some(1), ..Default::default() });
    assert_eq!(KeyRequest::parse(b" \n").unwrap(), KeyRequest::default());
    assert_eq!(KeyRequest::parse(b"{}").unwrap(), KeyRequest::default());
    let ids = KeyIds::parse(&corpus("ok-key-ids.json")).unwrap();
    assert_eq!(ids.names.iter().map(ToString::to_string).collect::<Vec<_>>(), [ID, "vendor-7"]);
    assert_eq!(KeyIds::parse(&ids.to_json()).unwrap(), ids);
}

#[test]
fn errors_read_and_write() {
    let error = ErrorBody::parse(&corpus("ok-error.json")).unwrap();
    assert_eq!(error, ErrorBody::new(etsi014::text::SIZE_MULTIPLE_OF_8).with("size", "255"));
    assert_eq!(error.to_json(), corpus("ok-error.json"));
}

#[test]
fn malformed_messages_are_refused() {
    let container = |json: &[u8]| KeyContainer::parse(json).is_err();
    for name in ["base64", "twice", "no-key", "cut"] {
        assert!(container(&corpus(&format!("bad-container-{name}.json"))), "{name}");
    }
    assert!(container(&corpus("bad-nesting.json")));
    let key = |text: &str| format!(r#"{{"keys":[{{"key_ID":"{ID}","key":"{text}"}}]}}"#);
    for text in ["", "=", "====", "A===", "AAE", "AA==AA==", "AAA!", "AAAA=", "AAB=", "\\u0041\\n"]
    {
        assert!(container(key(text).as_bytes()), "{text}");
    }
    for json in [
        "",
        "[]",
        "{}",
        "null",
        "{\"keys\":null}",
        "{\"keys\":[1]}",
        "{\"keys\":[]} x",
        "{\"keys\":[{\"key_ID\":7,\"key\":\"AAAA\"}]}",
        "{\"keys\":[{\"key\":\"AAAA\"}]}",
    ] {
        assert!(container(json.as_bytes()), "{json}");
    }
    assert!(KeyIds::parse(&corpus("bad-key-ids-empty.json")).is_err());
    assert!(KeyIds::parse(&corpus("bad-key-ids-long.json")).is_err());
    assert!(KeyRequest::parse(&corpus("bad-request-number.json")).is_err());
    assert!(KeyRequest::parse(&corpus("bad-request-sae.json")).is_err());
    assert!(KeyRequest::parse(br#"{"number":1.5}"#).is_err());
    assert!(KeyRequest::parse(br#"{"number":"1"}"#).is_err());
    assert!(KeyRequest::parse(br#"{"extension_mandatory":{"a":1}}"#).is_err());
    let many = format!(r#"{{"additional_slave_SAE_IDs":[{}"a"]}}"#, r#""a","#.repeat(256));
    assert!(KeyRequest::parse(many.as_bytes()).is_err());
}

#[test]
fn counts_are_bounded() {
    let entry = format!(r#"{{"key_ID":"{ID}"}}"#);
    let list =
        |count: usize| format!(r#"{{"key_IDs":[{}]}}"#, vec![entry.as_str(); count].join(","));
    assert_eq!(KeyIds::parse(list(MAX_KEYS).as_bytes()).unwrap().names.len(), MAX_KEYS);
    assert!(KeyIds::parse(list(MAX_KEYS + 1).as_bytes()).is_err());
    let entry = format!(r#"{{"key_ID":"{ID}","key":"AAAA"}}"#);
    let list = |count: usize| format!(r#"{{"keys":[{}]}}"#, vec![entry.as_str(); count].join(","));
    assert_eq!(KeyContainer::parse(list(MAX_KEYS).as_bytes()).unwrap().len(), MAX_KEYS);
    assert!(KeyContainer::parse(list(MAX_KEYS + 1).as_bytes()).is_err());
}

#[test]
fn no_error_quotes_a_container() {
    let secret = "c2VjcmV0c2VjcmV0";
    for json in [
        format!(r#"{{"keys":"{secret}"}}"#),
        format!(r#"{{"keys":[{{"key_ID":"{ID}","key":["{secret}"]}}]}}"#),
        format!(r#"{{"keys":[{{"key_ID":"{ID}","key":"{secret}!"}}]}}"#),
        format!(r#"{{"keys":[{{"key_ID":"{ID}","key":"{secret}\n"}}]}}"#),
    ] {
        let error = KeyContainer::parse(json.as_bytes()).unwrap_err();
        assert!(!error.to_string().contains("c2Vj"), "{error}");
    }
}

#[test]
fn the_writer_never_outgrows_its_buffer() {
    let mut writer = ContainerWriter::new(2, 16);
    let name = KeyName::parse(&"x".repeat(64)).unwrap();
    assert_eq!(writer.push(&name, &[0; 17]), Err(Full));
    writer.push(&name, &[1; 16]).unwrap();
    writer.push(&name, &[2; 1]).unwrap();
    assert_eq!(writer.push(&name, &[3; 16]), Err(Full));
    let json = writer.finish();
    let lengths: Vec<_> =
        KeyContainer::parse(&json).unwrap().iter().map(|(_, key)| key.len()).collect();
    assert_eq!(lengths, [16, 1]);
    let empty = ContainerWriter::new(0, 0).finish();
    assert_eq!(&*empty, br#"{"keys":[]}"#);
}

#[test]
fn queries() {
    let request = KeyRequest::from_query(Some("number=3&size=1024&other=x")).unwrap();
    assert_eq!((request.number, request.size), (Some(3), Some(1024)));
    assert_eq!(request.to_query().unwrap(), "number=3&size=1024");
    assert_eq!(KeyRequest::from_query(None).unwrap().to_query().unwrap(), "");
    for bad in [
        "number=",
        "number",
        "number=-1",
        "number=+1",
        "size=1e3",
        "number=1&number=2",
        "size=99999999999999999999",
        "additional_slave_SAE_IDs=ada",
    ] {
        assert!(KeyRequest::from_query(Some(bad)).is_err(), "{bad}");
    }
    let ids = KeyIds::from_query(Some(&format!("key_ID={ID}"))).unwrap();
    assert_eq!(ids.names[0].uuid().unwrap(), Uuid::try_parse(ID).unwrap());
    for bad in ["", "key_ID=", "key_ID=%zz", "key_ID=a&key_ID=b", "key_id=a"] {
        assert!(KeyIds::from_query(Some(bad)).is_err(), "{bad}");
    }
}

#[test]
fn paths() {
    let path = path::build("urn:sae/ada é", Method::EncKeys);
    assert_eq!(path, "/api/v1/keys/urn%3Asae%2Fada%20%C3%A9/enc_keys");
    assert_eq!(path::parse(&path).unwrap(), ("urn:sae/ada é".to_owned(), Method::EncKeys));
    for bad in [
        "/",
        "/api/v1/keys/",
        "/api/v1/keys//status",
        "/api/v1/keys/a",
        "/api/v1/keys/a/status/",
        "/api/v1/keys/a/b/status",
        "/api/v2/keys/a/status",
        "/api/v1/keys/%/status",
        "/api/v1/keys/%ff/status",
        "/api/v1/keys/%0a/status",
        "/api/v1/keys/a/STATUS",
    ] {
        assert!(path::parse(bad).is_none(), "{bad}");
    }
}

proptest! {
    #[test]
    fn containers_round_trip(keys in prop::collection::vec((any::<u128>(), prop::collection::vec(any::<u8>(), 1..200)), 0..40)) {
        let mut writer = ContainerWriter::new(keys.len(), 200);
        for (id, key) in &keys {
            writer.push(&Uuid::from_u128(*id).into(), key).unwrap();
        }
        let json = writer.finish();
        let container = KeyContainer::parse(&json).unwrap();
        prop_assert_eq!(&*container.to_json(), &*json);
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        prop_assert_eq!(value["keys"].as_array().unwrap().len(), keys.len());
        for ((name, bytes), (id, key)) in container.iter().zip(&keys) {
            prop_assert_eq!(name.uuid(), Some(Uuid::from_u128(*id)));
            prop_assert_eq!(bytes, &key[..]);
        }
    }

    #[test]
    fn any_text_ends_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = KeyContainer::parse(&bytes);
        let _ = KeyIds::parse(&bytes);
        let _ = KeyRequest::parse(&bytes);
        let _ = Status::parse(&bytes);
        let _ = ErrorBody::parse(&bytes);
    }

    #[test]
    fn damaged_containers_end_in_an_answer(at in 0usize..180, byte in any::<u8>()) {
        let mut json = corpus("ok-container.json");
        let at = at % json.len();
        json[at] = byte;
        let _ = KeyContainer::parse(&json);
        let _ = KeyContainer::parse(&json[..at]);
    }

    #[test]
    fn sae_ids_survive_the_url(sae in "\\PC{1,60}") {
        let path = path::build(&sae, Method::Status);
        prop_assert!(path.is_ascii());
        prop_assert_eq!(path::parse(&path), Some((sae, Method::Status)));
    }
}

#[test]
fn keys_with_unusable_names_can_be_left_out() {
    let long = "x".repeat(etsi014::MAX_KEY_NAME + 1);
    let json =
        format!(r#"{{"keys":[{{"key_ID":"{long}","key":"AAAA"}},{{"key":"AQID","key_ID":"b"}}]}}"#);
    assert!(KeyContainer::parse(json.as_bytes()).is_err());
    let (container, skipped) = KeyContainer::parse_usable(json.as_bytes()).unwrap();
    let keys: Vec<_> = container.iter().map(|(name, key)| (name.to_string(), key)).collect();
    assert_eq!((keys, skipped), (vec![("b".to_owned(), &[1, 2, 3][..])], 1));
    assert!(KeyContainer::parse_usable(br#"{"keys":[{"key_ID":7,"key":"AAAA"}]}"#).is_err());
}
