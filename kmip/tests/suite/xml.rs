//! The messages of the OASIS test cases with fixed values in place of their variables.

#[path = "../../../testkit/oasis.rs"]
mod oasis;

use kmip::tag::Tag;
use kmip::ttlv::Value;
use oasis::Variable;

const NOW: i64 = 1_600_000_000;

/// Every message of a test case file, in order.
pub(crate) fn messages(text: &str) -> Vec<(Tag, Value)> {
    let fill = |(tag, template): (Tag, oasis::Template)| (tag, template.fill(&mut fixed).unwrap());
    oasis::messages(text).unwrap().into_iter().map(fill).collect()
}

fn fixed(variable: &Variable) -> Result<Value, String> {
    Ok(match variable.kind.as_str() {
        "DateTime" => Value::DateTime(NOW + variable.seconds_from_now().unwrap()),
        "TextString" => Value::TextString(format!("${}", variable.name)),
        "ByteString" => Value::ByteString(vec![0x5A; 16]),
        other => panic!("a variable of type {other}"),
    })
}
