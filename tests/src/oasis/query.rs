//! Answers to Query, of which a case says no more than what a server may be able to do.

use kmip::{enums::OperationCode, tag::Tag, ttlv::Value};

use super::{
    compare::{child, children},
    xml::Template,
};

/// What every server has (KMIP Profiles, "Baseline Server").
const BASELINE: [OperationCode; 13] = [
    OperationCode::Locate,
    OperationCode::Check,
    OperationCode::Get,
    OperationCode::GetAttributes,
    OperationCode::GetAttributeList,
    OperationCode::AddAttribute,
    OperationCode::ModifyAttribute,
    OperationCode::DeleteAttribute,
    OperationCode::Activate,
    OperationCode::Revoke,
    OperationCode::Destroy,
    OperationCode::Query,
    OperationCode::DiscoverVersions,
];
/// What a server can do is its own; but it answers what was asked, and has what every server has.
pub(super) fn query(expected: &Template, found: &Value) -> Result<(), String> {
    let Template::Structure(parts) = expected else { return Err("no structure".into()) };
    let wanted = parts.iter().find(|(tag, _)| *tag == Tag::ResponsePayload);
    let Some((_, Template::Structure(wanted))) = wanted else { return Ok(()) };
    let payload = child(found, Tag::ResponsePayload).ok_or("no Response Payload")?;
    for tag in [Tag::Operation, Tag::ObjectType, Tag::VendorIdentification] {
        let (asked, told) = (wanted.iter().any(|(t, _)| *t == tag), child(payload, tag).is_some());
        if asked != told {
            return Err(format!("{tag}: told {told}, asked {asked}"));
        }
    }
    let told: Vec<&Value> = children(payload, Tag::Operation).collect();
    let lacking = BASELINE.iter().find(|code| {
        let code = Value::Enumeration(code.number());
        let asked = wanted.contains(&(Tag::Operation, Template::Value(code.clone())));
        asked && !told.contains(&&code)
    });
    lacking.map_or(Ok(()), |code| Err(format!("Query lacks {code:?}")))
}
