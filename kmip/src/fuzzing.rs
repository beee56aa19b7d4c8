//! The door for fuzzers: any bytes in, a panic when an invariant breaks.

use crate::encoding::{from_json, from_xml, to_json, to_xml};
use crate::message::{RequestMessage, ResponseMessage, ResponseWriter};
use crate::ttlv::{Limits, Value, Writer, parse};

/// Reads `data` as JSON and as XML; what is accepted comes back from both.
///
/// # Panics
/// When a frame is another after it went through a text.
pub fn encodings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let limits = Limits::default();
    for frame in [from_json(text), from_xml(text)].into_iter().flatten() {
        if let Ok(json) = to_json(&frame, &limits) {
            assert_eq!(from_json(&json).as_ref(), Ok(&frame), "JSON is not stable");
        }
        if let Ok(xml) = to_xml(&frame, &limits) {
            assert_eq!(from_xml(&xml).as_ref(), Ok(&frame), "XML is not stable");
        }
    }
}

/// Decodes `data` as a tree, as a request and as a response.
///
/// # Panics
/// When an accepted frame is not what its tree encodes to, or when writing what was read is not
/// stable.
pub fn decode_any(data: &[u8]) {
    tree(data);
    if let Ok(request) = RequestMessage::decode(data)
        && let Ok(frame) = request.encode()
        && let Ok(again) = RequestMessage::decode(&frame)
    {
        assert_eq!(again.encode().as_ref(), Ok(&frame), "request is not stable");
    }
    if let Ok(response) = ResponseMessage::decode(data) {
        let frame = rewrite(response);
        if let Ok(again) = ResponseMessage::decode(&frame) {
            assert_eq!(rewrite(again), frame, "response is not stable");
        }
    }
}

fn tree(data: &[u8]) {
    let Ok(root) = parse(data, &Limits::default()) else { return };
    let mut w = Writer::default();
    if let Ok(value) = Value::from_item(&root) {
        value.encode(&mut w, root.tag());
    }
    assert!(*w.finish() == *data, "an accepted frame is not canonical");
}

fn rewrite(message: ResponseMessage) -> wiped::Wiped {
    let mut w = ResponseWriter::new(message.version, message.header);
    for item in &message.items {
        w.item(item);
    }
    w.finish()
}
