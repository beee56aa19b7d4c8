//! Hostile input: each row ends in the named error, at the named byte.

use kmip::enums::{OperationCode, ResultReason};
use kmip::message::DecodeError;
use kmip::tag::Tag;
use kmip::ttlv::{Error, Limits, Type, Value, frame_len, parse};
use kmip::{Operation, RequestMessage, Version};

use crate::tree::encode;

fn frame(hex_text: &str) -> Vec<u8> {
    hex::decode(hex_text.replace(' ', "")).unwrap()
}

fn nested(levels: usize) -> Vec<u8> {
    let value = (1..levels)
        .fold(Value::Structure(vec![]), |inner, _| Value::Structure(vec![(Tag::Attribute, inner)]));
    encode(Tag::RequestMessage, &value)
}

#[test]
fn malformed_frames_are_refused_where_they_break() {
    let rows: &[(&str, &str, usize)] = &[
        ("empty", "", 0),
        ("half a header", "42007801", 0),
        ("no such type", "420078 0C 00000000", 3),
        ("type zero", "420078 00 00000000", 3),
        ("length past the end", "420078 01 00000008", 4),
        ("length of 2 GiB", "420078 01 7ffffff8", 4),
        ("length of 4 GiB", "420078 01 ffffffff", 4),
        ("bytes after the end", "420078 01 00000000 00", 8),
        ("structure of 4 bytes", "420078 01 00000004 00000000 00000000", 4),
        ("integer of 8 bytes", "420078 01 00000010 42000D 02 00000008 0000000000000001", 12),
        ("integer of 0 bytes", "420078 01 00000008 42000D 02 00000000", 12),
        ("integer without padding", "420078 01 0000000c 42000D 02 00000004 00000001", 4),
        ("padding not zero", "420078 01 00000010 42000D 02 00000004 0000000100000001", 20),
        ("text padding not zero", "420078 01 00000010 42000A 07 00000001 4100000000000001", 17),
        ("boolean two", "420078 01 00000010 420010 06 00000008 0000000000000002", 16),
        ("boolean of high bits", "420078 01 00000010 420010 06 00000008 0100000000000001", 16),
        ("text not UTF-8", "420078 01 00000010 42000A 07 00000002 c328000000000000", 16),
        ("surrogate in text", "420078 01 00000010 42000A 07 00000003 eda0800000000000", 16),
        ("big integer of 4 bytes", "420078 01 00000010 420052 04 00000004 0000000100000000", 12),
        ("big integer of 0 bytes", "420078 01 00000008 420052 04 00000000", 12),
        (
            "child past its parent",
            "420078 01 00000018 420077 01 00000008 42000D 02 00000004 0000000100000000",
            20,
        ),
        ("header cut by parent", "420078 01 00000010 420077 01 00000004 4200 0000 00000000", 12),
        ("byte string of 2 GiB", "420078 01 00000008 420043 08 7ffffff0", 12),
        ("interval of 8 bytes", "420078 01 00000010 420049 0A 00000008 0000000000000001", 12),
        ("extended date of 4 bytes", "420078 01 00000010 420092 0B 00000004 0000000100000000", 12),
    ];
    for (name, bytes, at) in rows {
        match parse(&frame(bytes), &Limits::default()).map(|item| item.tag()) {
            Err(Error::Malformed { offset, .. }) => assert_eq!(offset, *at, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        assert!(RequestMessage::decode(&frame(bytes)).is_err(), "{name}");
    }
}

#[test]
fn the_length_is_bounded_before_anything_is_read() {
    assert_eq!(frame_len(&frame("42007801 000000"), 100), Ok(None));
    assert_eq!(frame_len(&frame("42007801 00000010"), 100), Ok(Some(24)));
    assert_eq!(frame_len(&frame("42007801 0000005c"), 100), Ok(Some(100)));
    assert_eq!(
        frame_len(&frame("42007801 0000005d"), 100),
        Err(Error::TooLong { length: 101, cap: 100 })
    );
    assert_eq!(
        frame_len(&frame("42007801 ffffffff"), usize::MAX >> 40),
        Err(Error::TooLong { length: 0x1_0000_0007, cap: usize::MAX >> 40 })
    );
    for other in ["474554202f204854", "1603010200010001", "42007802 00000004"] {
        assert!(matches!(frame_len(&frame(other), 100), Err(Error::Malformed { offset: 0, .. })));
    }
}

#[test]
fn depth_and_number_of_items_are_bounded() {
    assert!(parse(&nested(32), &Limits::default()).is_ok());
    for levels in [33, 34, 10_000] {
        assert!(matches!(
            parse(&nested(levels), &Limits::default()),
            Err(Error::Malformed { offset: 256, what: "nested too deeply" })
        ));
    }
    let wide = |items| Value::Structure(vec![(Tag::Attribute, Value::Structure(vec![])); items]);
    let limits = Limits { items: 100, ..Limits::default() };
    assert!(parse(&encode(Tag::RequestMessage, &wide(99)), &limits).is_ok());
    assert!(parse(&encode(Tag::RequestMessage, &wide(100)), &limits).is_err());
    let small = Limits { frame: 64, ..Limits::default() };
    let long = encode(Tag::RequestMessage, &wide(8));
    assert_eq!(parse(&long, &small).err(), Some(Error::TooLong { length: 72, cap: 64 }));
}

/// A 1.2 request of one item with the given parts.
fn request(version: (i32, i32), count: i32, item: Vec<(Tag, Value)>) -> Vec<u8> {
    let version = Value::Structure(vec![
        (Tag::ProtocolVersionMajor, Value::Integer(version.0)),
        (Tag::ProtocolVersionMinor, Value::Integer(version.1)),
    ]);
    let header = vec![(Tag::ProtocolVersion, version), (Tag::BatchCount, Value::Integer(count))];
    let message = vec![
        (Tag::RequestHeader, Value::Structure(header)),
        (Tag::BatchItem, Value::Structure(item)),
    ];
    encode(Tag::RequestMessage, &Value::Structure(message))
}

fn item(code: OperationCode, payload: Vec<(Tag, Value)>) -> Vec<(Tag, Value)> {
    vec![
        (Tag::Operation, Value::Enumeration(code.number())),
        (Tag::RequestPayload, Value::Structure(payload)),
    ]
}

#[test]
fn a_bad_payload_fails_its_item_only() {
    let id = |value| vec![(Tag::UniqueIdentifier, value)];
    let text = || Value::TextString("a".into());
    let rows = [
        (OperationCode::Get, id(Value::Boolean(true)), ResultReason::InvalidField),
        (OperationCode::Get, [id(text()), id(text())].concat(), ResultReason::InvalidField),
        (OperationCode::Create, vec![], ResultReason::MissingData),
        (OperationCode::Revoke, id(text()), ResultReason::MissingData),
        (
            OperationCode::Locate,
            vec![(Tag::Attribute, Value::Structure(vec![]))],
            ResultReason::MissingData,
        ),
        (
            OperationCode::Register,
            vec![
                (Tag::ObjectType, Value::Enumeration(2)),
                (Tag::SymmetricKey, Value::Structure(vec![])),
            ],
            ResultReason::MissingData,
        ),
    ];
    for (code, payload, reason) in rows {
        let message = RequestMessage::decode(&request((1, 2), 1, item(code, payload))).unwrap();
        assert_eq!(message.version, Version::V1_2);
        assert_eq!(message.items[0].code, code);
        assert_eq!(message.items[0].operation.as_ref().unwrap_err().reason(), reason, "{code:?}");
    }
}

#[test]
fn unknown_operations_and_tags_pass() {
    let payload = vec![
        (Tag::new(0x54_0001), Value::Structure(vec![(Tag::Data, Value::Integer(1))])),
        (Tag::UniqueIdentifier, Value::TextString("a".into())),
        (Tag::Fresh, Value::Boolean(true)),
    ];
    let unknown = OperationCode::Other(0x8000_0001);
    for code in [OperationCode::ReProvision, unknown, OperationCode::Other(99)] {
        let frame = request((1, 4), 1, item(code, payload.clone()));
        let message = RequestMessage::decode(&frame).unwrap();
        assert_eq!(message.items[0].code, code);
        assert!(matches!(&message.items[0].operation, Ok(Operation::Raw(raw)) if raw.code == code));
    }
    let message =
        RequestMessage::decode(&request((1, 4), 1, item(OperationCode::Get, payload))).unwrap();
    let Ok(Operation::Get(get)) = &message.items[0].operation else { panic!("not Get") };
    assert_eq!(get.id, Some("a".into()));
}

#[test]
fn a_refused_message_says_in_which_version_to_answer() {
    let get = || item(OperationCode::Get, vec![]);
    for (number, answer) in [
        ((0, 9), Version::V1_0),
        ((1, 5), Version::V1_4),
        ((2, 2), Version::V2_1),
        ((3, 0), Version::V2_1),
    ] {
        let error = RequestMessage::decode(&request(number, 1, get())).unwrap_err();
        assert!(matches!(error, DecodeError::Version(_)), "{error}");
        assert_eq!(error.answer_version(), answer);
    }
    let mut broken = request((2, 0), 1, get());
    let last = broken.len() - 5;
    broken[last] = 0xEE;
    let error = RequestMessage::decode(&broken).unwrap_err();
    assert!(matches!(error, DecodeError::Frame { version: Some(Version::V2_0), .. }), "{error}");
    for count in [-1, 0, 2] {
        let error = RequestMessage::decode(&request((1, 3), count, get())).unwrap_err();
        assert_eq!(error.answer_version(), Version::V1_3);
    }
}

#[test]
fn a_field_of_another_type_is_named() {
    let payload = vec![(Tag::MaximumItems, Value::TextString("9".into()))];
    let frame = request((1, 0), 1, item(OperationCode::Locate, payload));
    let message = RequestMessage::decode(&frame).unwrap();
    let error = message.items[0].operation.as_ref().unwrap_err();
    assert!(
        matches!(error, Error::WrongType { tag: Tag::MaximumItems, expected: Type::Integer, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("MaximumItems"), "{error}");
}
