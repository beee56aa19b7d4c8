//! The text encodings: forth and back, by hand and for every random tree; and what is refused.

use std::time::{Duration, Instant};

use kmip::{
    encoding::{Error, from_json, from_xml, to_json, to_xml},
    tag::Tag,
    ttlv::{Limits, Value},
};
use proptest::prelude::*;

use crate::tree::{decode, encode, structure};

const QUERY_JSON: &str = r#"{"tag":"RequestMessage","value":[
    {"tag":"RequestHeader","value":[
        {"tag":"ProtocolVersion","type":"Structure","value":[
            {"tag":"ProtocolVersionMajor","type":"Integer","value":2},
            {"tag":"0x42006b","type":"Integer","value":"0x00000001"}]},
        {"tag":"BatchCount","type":"Integer","value":1}]},
    {"tag":"BatchItem","value":[
        {"tag":"Operation","type":"Enumeration","value":"Query"},
        {"tag":"RequestPayload","value":[
            {"value":"0x00000001","type":"Enumeration","tag":"QueryFunction"}]}]}]}"#;
const QUERY_XML: &str = r#"<?xml version="1.0"?>
<RequestMessage>
  <RequestHeader>
    <ProtocolVersion type="Structure">
      <ProtocolVersionMajor type="Integer" value="2"/>
      <TTLV tag="0x42006b" name="ProtocolVersionMinor" type="Integer" value="0x00000001"/>
    </ProtocolVersion>
    <BatchCount type="Integer" value="1"/>
  </RequestHeader>
  <BatchItem>
    <Operation type="Enumeration" value="0x00000018"/>
    <RequestPayload><QueryFunction type="Enumeration" value="QueryOperations"/></RequestPayload>
  </BatchItem>
</RequestMessage>"#;

#[test]
fn both_say_the_same_message() {
    let frame = from_json(QUERY_JSON).unwrap();
    assert_eq!(frame, from_xml(QUERY_XML).unwrap());
    let limits = Limits::default();
    let json = to_json(&frame, &limits).unwrap();
    assert!(
        json.contains(r#"{"tag":"Operation","type":"Enumeration","value":"Query"}"#),
        "{}",
        *json
    );
    let xml = to_xml(&frame, &limits).unwrap();
    assert!(xml.contains(r#"<Operation type="Enumeration" value="Query"/>"#), "{}", *xml);
}

#[test]
fn masks_dates_and_long_numbers_have_their_words() {
    for (json, value) in [
        (r#""type":"Integer","value":"Sign|Verify""#, Value::Integer(3)),
        (r#""type":"Integer","value":"Encrypt Decrypt""#, Value::Integer(12)),
        (r#""type":"Integer","value":"Sign|0x00000004""#, Value::Integer(5)),
        (r#""type":"LongInteger","value":"0xffffffffffffffff""#, Value::LongInteger(-1)),
        (
            r#""type":"BigInteger","value":"0x80""#,
            Value::BigInteger([[0xFF; 7].as_slice(), &[0x80]].concat()),
        ),
        (r#""type":"DateTime","value":"2001-01-01T10:00:00+10:00""#, Value::DateTime(978_307_200)),
        (r#""type":"DateTime","value":"0x000000003a4fc880""#, Value::DateTime(978_307_200)),
    ] {
        let text = format!(r#"{{"tag":"CryptographicUsageMask",{json}}}"#);
        let frame = from_json(&text).unwrap();
        assert_eq!(decode_any(&frame), value, "{text}");
    }
}

/// A frame that is one item of any type.
fn decode_any(item: &[u8]) -> Value {
    let mut frame = vec![0x42, 0x00, 0x78, 0x01, 0, 0, 0, item.len() as u8];
    frame.extend_from_slice(item);
    match decode(&frame).1 {
        Value::Structure(mut parts) => parts.remove(0).1,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_attribute_value_is_read_by_its_name() {
    let text = r#"<Attribute><AttributeName type="TextString" value="Cryptographic Algorithm"/>
        <AttributeValue type="Enumeration" value="AES"/></Attribute>"#;
    let frame = from_xml(text).unwrap();
    let json = to_json(&frame, &Limits::default()).unwrap();
    assert!(json.contains(r#""value":"AES""#), "{}", *json);
    assert_eq!(from_json(&json).unwrap(), frame);
}

#[test]
fn what_is_no_message_is_refused_without_its_values() {
    for text in [
        "",
        "[]",
        "{",
        r#"{"tag":"NoSuch","value":[]}"#,
        r#"{"tag":"0x1000000","value":[]}"#,
        r#"{"tag":"Data","type":"Secret","value":"70617373"}"#,
        r#"{"tag":"Data","type":"ByteString","value":"passw0rd"}"#,
        r#"{"tag":"Data","type":"ByteString","value":70617373}"#,
        r#"{"tag":"Data","type":"TextString","value":["passw0rd"]}"#,
        r#"{"tag":"Data","type":"Integer","value":"passw0rd"}"#,
        r#"{"tag":"Data","type":"Integer","value":4294967296}"#,
        r#"{"tag":"Operation","type":"Enumeration","value":"Passw0rd"}"#,
    ] {
        let error = from_json(text).unwrap_err().to_string();
        assert!(!error.contains("assw0rd") && !error.contains("70617373"), "{error}");
    }
    for text in [
        "",
        "<RequestMessage>",
        "<NoSuch/>",
        r#"<Data type="ByteString" value="passw0rd"/>"#,
        r#"<Data type="Integer" value="passw0rd"/>"#,
        r#"<Data type="Integer"/>"#,
        r#"<!DOCTYPE a [<!ENTITY e "passw0rd">]><Data type="TextString" value="&e;"/>"#,
    ] {
        let error = from_xml(text).unwrap_err().to_string();
        assert!(!error.contains("assw0rd"), "{error}");
    }
}

#[test]
fn depth_is_bounded() {
    for levels in [40, 100_000] {
        let open = r#"{"tag":"BatchItem","value":["#.repeat(levels);
        assert!(from_json(&(open + &"]}".repeat(levels))).is_err());
        let open = "<BatchItem>".repeat(levels);
        let error = from_xml(&(open + &"</BatchItem>".repeat(levels))).unwrap_err();
        assert_eq!(error, Error::TooDeep);
    }
}

#[test]
fn what_parsers_are_slow_at_is_refused_before_they_see_it() {
    let began = Instant::now();
    let many: String = (0..500_000).map(|n| format!(" a{n}='>'")).collect();
    let nine: String = (0..9).map(|n| format!(" a{n}=\"/>\"")).collect();
    let spaces: String = (0..9).map(|n| format!("<A xmlns:a{n}='b'>")).collect();
    for text in [format!("<A{many}/>"), format!("<A><B{many}"), format!("<A{nine}/>"), spaces] {
        let error = from_xml(&text).unwrap_err();
        assert!(matches!(&error, Error::Syntax(why) if why.contains("at most 8")), "{error}");
    }
    // What looks like the end of an element inside a value ends none.
    let deep = "<A v='/></A>'>".repeat(100_000);
    assert_eq!(from_xml(&deep).unwrap_err(), Error::TooDeep);
    for text in ["<!DOCTYPE a><A/>", "<A", "<A b='", "<!-- <A/>", "<![CDATA[", "<?xml", "</A"] {
        assert!(matches!(from_xml(text), Err(Error::Syntax(_))), "{text}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let said = QUERY_XML.replace("<BatchItem>", "<!-- <A> <A 'it --><BatchItem x:y='<>' >");
    assert!(from_xml(&said).is_err(), "no '<' inside values");
    let said = QUERY_XML.replace("<BatchItem>", "<!-- <A> <A 'it --><BatchItem y='/>' >");
    assert_eq!(from_xml(&said).unwrap(), from_xml(QUERY_XML).unwrap());
}

proptest! {
    #[test]
    fn every_tree_comes_back_from_json(value in structure(true)) {
        let frame = encode(Tag::RequestMessage, &value);
        let text = to_json(&frame, &Limits::default()).unwrap();
        prop_assert_eq!(from_json(&text).unwrap().to_vec(), frame);
    }

    #[test]
    fn every_tree_comes_back_from_xml_unless_xml_cannot_say_it(value in structure(true)) {
        let frame = encode(Tag::RequestMessage, &value);
        match to_xml(&frame, &Limits::default()) {
            Ok(text) => prop_assert_eq!(from_xml(&text).unwrap().to_vec(), frame),
            Err(error) => prop_assert!(matches!(error, Error::Unsayable(_))),
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}", at in 0usize..600, with in "\\PC{0,3}") {
        let _ = (from_json(&text), from_xml(&text));
        for whole in [QUERY_JSON, QUERY_XML] {
            let at = (0..=at.min(whole.len())).rev().find(|at| whole.is_char_boundary(*at)).unwrap();
            let (start, end) = whole.split_at(at);
            let changed = format!("{start}{with}{end}");
            let _ = (from_json(&changed), from_xml(&changed), from_json(start), from_xml(start));
        }
    }
}
