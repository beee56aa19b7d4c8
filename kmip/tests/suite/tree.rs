//! Random TTLV trees and their bytes, shared by the property tests.

use kmip::tag::Tag;
use kmip::ttlv::{Limits, Value, Writer, parse};
use proptest::prelude::*;

/// A leaf of any type but those of `without_new`: Interval and Date-Time Extended.
pub(crate) fn leaf(with_new: bool) -> BoxedStrategy<Value> {
    let old = prop_oneof![
        any::<i32>().prop_map(Value::Integer),
        any::<i64>().prop_map(Value::LongInteger),
        proptest::collection::vec(any::<[u8; 8]>(), 1..4)
            .prop_map(|words| Value::BigInteger(words.concat())),
        any::<u32>().prop_map(Value::Enumeration),
        any::<bool>().prop_map(Value::Boolean),
        ".{0,20}".prop_map(Value::TextString),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::ByteString),
        any::<i64>().prop_map(Value::DateTime),
    ];
    if !with_new {
        return old.boxed();
    }
    prop_oneof![
        old,
        any::<u32>().prop_map(Value::Interval),
        any::<i64>().prop_map(Value::DateTimeExtended),
    ]
    .boxed()
}

/// A structure of bounded depth and size.
pub(crate) fn structure(with_new: bool) -> impl Strategy<Value = Value> {
    let inner = leaf(with_new).prop_recursive(5, 40, 6, |inner| {
        proptest::collection::vec((tag(), inner), 0..6).prop_map(Value::Structure)
    });
    proptest::collection::vec((tag(), inner), 0..6).prop_map(Value::Structure)
}

fn tag() -> impl Strategy<Value = Tag> {
    (0x42_0001u32..0x42_0177).prop_map(Tag::new)
}

pub(crate) fn encode(tag: Tag, value: &Value) -> Vec<u8> {
    let mut w = Writer::default();
    value.encode(&mut w, tag);
    w.finish().to_vec()
}

pub(crate) fn decode(frame: &[u8]) -> (Tag, Value) {
    let root = parse(frame, &Limits::default()).expect("well-formed");
    (root.tag(), Value::from_item(&root).expect("typed"))
}
