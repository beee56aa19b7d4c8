//! What clients of the field send besides what the specification asks for.

use kmip::attribute::{Attribute, AttributeRef};
use kmip::enums::*;
use kmip::message::Credential;
use kmip::object::{KeyMaterial, KeyValue};
use kmip::tag::Tag;
use kmip::ttlv::Value;
use kmip::{Operation, RequestMessage};

use crate::tree::encode;

type Fields = Vec<(Tag, Value)>;

fn text(text: &str) -> Value {
    Value::TextString(text.into())
}

fn request(more_header: Fields, code: OperationCode, payload: Fields) -> RequestMessage {
    let version = Value::Structure(vec![
        (Tag::ProtocolVersionMajor, Value::Integer(1)),
        (Tag::ProtocolVersionMinor, Value::Integer(0)),
    ]);
    let mut header = vec![(Tag::ProtocolVersion, version)];
    header.extend(more_header);
    header.push((Tag::BatchCount, Value::Integer(1)));
    let item = vec![
        (Tag::Operation, Value::Enumeration(code.number())),
        (Tag::RequestPayload, Value::Structure(payload)),
    ];
    let message = vec![
        (Tag::RequestHeader, Value::Structure(header)),
        (Tag::BatchItem, Value::Structure(item)),
    ];
    RequestMessage::decode(&encode(Tag::RequestMessage, &Value::Structure(message))).unwrap()
}

fn attribute(name: &str, value: Value) -> (Tag, Value) {
    let fields = vec![(Tag::AttributeName, text(name)), (Tag::AttributeValue, value)];
    (Tag::Attribute, Value::Structure(fields))
}

#[test]
fn credentials_are_found_in_every_nesting() {
    let fields = vec![
        (Tag::CredentialType, Value::Enumeration(1)),
        (
            Tag::CredentialValue,
            Value::Structure(vec![(Tag::Username, text("forti")), (Tag::Password, text("pw"))]),
        ),
    ];
    let credential = (Tag::Credential, Value::Structure(fields.clone()));
    let inner = (Tag::Authentication, Value::Structure(vec![credential.clone()]));
    for content in [vec![credential], fields, vec![inner]] {
        let header = vec![(Tag::Authentication, Value::Structure(content))];
        let message = request(header, OperationCode::Query, vec![]);
        let authentication = message.header.authentication.unwrap();
        let [Credential::UsernameAndPassword(login)] = &authentication.credentials[..] else {
            panic!("{authentication:?}");
        };
        assert_eq!(login.username, "forti");
        assert!(login.password.as_ref().unwrap().expose(|password| password == "pw"));
        assert!(!format!("{authentication:?}").contains("pw"));
    }
}

#[test]
fn locate_takes_filters_inside_a_template_attribute() {
    let name = Value::Structure(vec![
        (Tag::NameValue, text("disk")),
        (Tag::NameType, Value::Enumeration(1)),
    ]);
    let template = Value::Structure(vec![attribute("Name", name)]);
    let message = request(vec![], OperationCode::Locate, vec![(Tag::TemplateAttribute, template)]);
    let Ok(Operation::Locate(locate)) = &message.items[0].operation else { panic!("not Locate") };
    let names: Vec<_> = locate.attributes.iter().collect();
    assert!(matches!(names[..], [Attribute::Name(name)] if name.value == "disk"));
}

/// Register of a symmetric key with the given Key Value.
fn register(key_value: Value) -> RequestMessage {
    let block = Value::Structure(vec![
        (Tag::KeyFormatType, Value::Enumeration(1)),
        (Tag::KeyValue, key_value),
    ]);
    let payload = vec![
        (Tag::ObjectType, Value::Enumeration(2)),
        (Tag::TemplateAttribute, Value::Structure(vec![])),
        (Tag::SymmetricKey, Value::Structure(vec![(Tag::KeyBlock, block)])),
    ];
    request(vec![], OperationCode::Register, payload)
}

#[test]
fn key_values_come_bare_and_with_attributes_inside() {
    let material = (Tag::KeyMaterial, Value::ByteString(vec![7; 32]));
    let mask = attribute("Cryptographic Usage Mask", Value::Integer(12));
    for (key_value, attributes) in [
        (Value::ByteString(vec![7; 32]), 0),
        (Value::Structure(vec![material.clone()]), 0),
        (Value::Structure(vec![mask, material]), 1),
    ] {
        let mut message = register(key_value);
        let Ok(Operation::Register(request)) = &mut message.items[0].operation else {
            panic!("not Register");
        };
        let block = request.object.as_ref().unwrap().key_block().unwrap();
        assert!(block.plain_bytes().unwrap().expose(|bytes| bytes == [7; 32]));
        if let Some(KeyValue::Plain { material, attributes: inside }) = &block.value {
            assert!(matches!(material, KeyMaterial::Bytes(_)));
            assert_eq!(inside.list.len(), attributes);
        }
        assert!(!format!("{request:?}").contains("7, 7"));
    }
}

#[test]
fn custom_and_unknown_attribute_names_are_kept_apart() {
    let template = Value::Structure(vec![
        attribute("x-Product_Version", text("7.0")),
        attribute("Cryptographic Usage Mask", Value::Integer(0)),
        attribute("Shoe Size", Value::Integer(44)),
    ]);
    let payload =
        vec![(Tag::ObjectType, Value::Enumeration(2)), (Tag::TemplateAttribute, template)];
    let message = request(vec![], OperationCode::Create, payload);
    let Ok(Operation::Create(create)) = &message.items[0].operation else { panic!("not Create") };
    let all: Vec<_> = create.attributes.iter().collect();
    assert!(
        matches!(all[0], Attribute::Vendor(v) if v.vendor == "x" && v.name == "Product_Version")
    );
    assert!(matches!(all[1], Attribute::CryptographicUsageMask(0)));
    assert!(matches!(all[2], Attribute::Unknown(_)));
    assert_eq!(all[2].key(), AttributeRef::UnknownName("Shoe Size".into()));
}

#[test]
fn a_mismatched_attribute_type_is_refused() {
    let template = Value::Structure(vec![attribute("State", Value::Integer(1))]);
    let payload =
        vec![(Tag::ObjectType, Value::Enumeration(2)), (Tag::TemplateAttribute, template)];
    let message = request(vec![], OperationCode::Create, payload);
    assert!(message.items[0].operation.is_err());
}
