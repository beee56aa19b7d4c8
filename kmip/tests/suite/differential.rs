//! Our codec against the low-level types of the crate `kmip-ttlv`, which know neither Interval nor
//! Date-Time Extended.

use std::io::Cursor;

use kmip::tag::Tag;
use kmip::ttlv::Value;
use kmip_ttlv::types::{
    SerializableTtlvType, TtlvBigInteger, TtlvBoolean, TtlvByteString, TtlvDateTime,
    TtlvEnumeration, TtlvInteger, TtlvLength, TtlvLongInteger, TtlvTag, TtlvTextString, TtlvType,
};
use proptest::prelude::*;

use crate::tree::{encode, structure};

fn their_encode(out: &mut Vec<u8>, tag: Tag, value: &Value) {
    let [_, a, b, c] = tag.number().to_be_bytes();
    TtlvTag::from([a, b, c]).write(out).unwrap();
    match value {
        Value::Structure(items) => {
            let mut body = Vec::new();
            for (tag, value) in items {
                their_encode(&mut body, *tag, value);
            }
            TtlvType::Structure.write(out).unwrap();
            TtlvLength::new(body.len() as u32).write(out).unwrap();
            out.extend(body);
        }
        Value::Integer(v) => TtlvInteger(*v).write(out).unwrap(),
        Value::LongInteger(v) => TtlvLongInteger(*v).write(out).unwrap(),
        Value::BigInteger(v) => TtlvBigInteger(v.clone()).write(out).unwrap(),
        Value::Enumeration(v) => TtlvEnumeration(*v).write(out).unwrap(),
        Value::Boolean(v) => TtlvBoolean(*v).write(out).unwrap(),
        Value::TextString(v) => TtlvTextString(v.clone()).write(out).unwrap(),
        Value::ByteString(v) => TtlvByteString(v.clone()).write(out).unwrap(),
        Value::DateTime(v) => TtlvDateTime(*v).write(out).unwrap(),
        Value::Interval(_) | Value::DateTimeExtended(_) => unreachable!("not generated"),
    }
}

fn their_decode(src: &mut Cursor<&[u8]>) -> (Tag, Value) {
    let tag = Tag::new(*TtlvTag::read(src).unwrap());
    let value = match TtlvType::read(src).unwrap() {
        TtlvType::Structure => {
            let end = u64::from(*TtlvLength::read(src).unwrap()) + src.position();
            let mut items = Vec::new();
            while src.position() < end {
                items.push(their_decode(src));
            }
            Value::Structure(items)
        }
        TtlvType::Integer => Value::Integer(TtlvInteger::read(src).unwrap().0),
        TtlvType::LongInteger => Value::LongInteger(TtlvLongInteger::read(src).unwrap().0),
        TtlvType::BigInteger => Value::BigInteger(TtlvBigInteger::read(src).unwrap().0),
        TtlvType::Enumeration => Value::Enumeration(TtlvEnumeration::read(src).unwrap().0),
        TtlvType::Boolean => Value::Boolean(TtlvBoolean::read(src).unwrap().0),
        TtlvType::TextString => Value::TextString(TtlvTextString::read(src).unwrap().0),
        TtlvType::ByteString => Value::ByteString(TtlvByteString::read(src).unwrap().0),
        TtlvType::DateTime => Value::DateTime(TtlvDateTime::read(src).unwrap().0),
    };
    (tag, value)
}

proptest! {
    #[test]
    fn both_codecs_write_and_read_the_same(value in structure(false)) {
        let ours = encode(Tag::ResponseMessage, &value);
        let mut theirs = Vec::new();
        their_encode(&mut theirs, Tag::ResponseMessage, &value);
        prop_assert_eq!(&ours, &theirs);
        let mut src = Cursor::new(ours.as_slice());
        prop_assert_eq!(their_decode(&mut src), (Tag::ResponseMessage, value));
        prop_assert_eq!(src.position(), ours.len() as u64);
    }
}
