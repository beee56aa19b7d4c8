//! What a version does not know is never written.

use kmip::attribute::{
    Attribute, AttributeKind, AttributeRef, Attributes, CryptographicParameters, Digest, Link,
    VendorAttribute,
};
use kmip::client;
use kmip::enums::*;
use kmip::message::{EncodeError, ResponseHeader, ResponseItem, ResponseWriter};
use kmip::object::{KeyBlock, Object};
use kmip::op::{self, Answer};
use kmip::tag::Tag;
use kmip::ttlv::Value;
use kmip::{DateTime, SecretBytes, Version};

use crate::tree::decode;

fn respond(version: Version, item: &ResponseItem) -> Value {
    let mut writer = ResponseWriter::new(version, ResponseHeader::new(version, DateTime(0)));
    writer.item(item);
    decode(&writer.finish()).1
}

fn tags(value: &Value, into: &mut Vec<Tag>) {
    if let Value::Structure(items) = value {
        for (tag, value) in items {
            into.push(*tag);
            tags(value, into);
        }
    }
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Structure(items) => items.iter().flat_map(|(_, value)| texts(value)).collect(),
        Value::TextString(text) => vec![text.clone()],
        _ => Vec::new(),
    }
}

fn attributes(list: impl IntoIterator<Item = Attribute>) -> ResponseItem {
    let attributes: Attributes = list.into_iter().collect();
    let answer = op::get_attributes::Response { id: "id".into(), attributes };
    ResponseItem::success(None, Answer::from(answer))
}

#[test]
fn attributes_appear_with_their_version() {
    let item = attributes([
        Attribute::State(State::Active),
        Attribute::Fresh(true),
        Attribute::OriginalCreationDate(DateTime(1)),
        Attribute::Sensitive(false),
        Attribute::OperationPolicyName("default".into()),
        Attribute::QuantumSafe(true),
        Attribute::RotateLatest(true),
    ]);
    let rows: &[(Version, &[&str])] = &[
        (Version::V1_0, &["State", "Operation Policy Name"]),
        (Version::V1_1, &["State", "Fresh", "Operation Policy Name"]),
        (Version::V1_2, &["State", "Fresh", "Original Creation Date", "Operation Policy Name"]),
        (Version::V1_3, &["State", "Fresh", "Original Creation Date", "Operation Policy Name"]),
        (
            Version::V1_4,
            &["State", "Fresh", "Original Creation Date", "Sensitive", "Operation Policy Name"],
        ),
    ];
    for (version, names) in rows {
        let mut seen = texts(&respond(*version, &item));
        seen.retain(|text| text != "id" && text != "default");
        assert_eq!(seen, *names, "{version}");
    }
    let rows: &[(Version, bool)] = &[(Version::V2_0, false), (Version::V2_1, true)];
    for (version, rotate) in rows {
        let mut seen = Vec::new();
        tags(&respond(*version, &item), &mut seen);
        assert!(seen.contains(&Tag::QuantumSafe) && seen.contains(&Tag::Sensitive), "{version}");
        assert!(!seen.contains(&Tag::OperationPolicyName) && !seen.contains(&Tag::AttributeName));
        assert_eq!(seen.contains(&Tag::RotateLatest), *rotate, "{version}");
    }
}

#[test]
fn attribute_lists_are_gated_too() {
    let list = AttributeKind::ALL.iter().copied().map(AttributeRef::Kind).collect();
    let answer = op::get_attribute_list::Response { id: "id".into(), attributes: list };
    let item = ResponseItem::success(None, Answer::from(answer));
    for version in Version::ALL {
        let expected = AttributeKind::ALL.iter().filter(|kind| kind.in_version(version)).count();
        let mut seen = Vec::new();
        tags(&respond(version, &item), &mut seen);
        let tag = if version.is_v2() { Tag::AttributeReference } else { Tag::AttributeName };
        assert_eq!(seen.iter().filter(|seen| **seen == tag).count(), expected, "{version}");
    }
}

#[test]
fn fields_and_values_inside_an_attribute_are_gated() {
    let item = attributes([
        Attribute::Digest(Digest {
            hashing_algorithm: HashingAlgorithm::Sha256,
            value: Some(vec![1; 32]),
            key_format_type: Some(KeyFormatType::Raw),
        }),
        Attribute::CryptographicParameters(CryptographicParameters {
            block_cipher_mode: Some(BlockCipherMode::Aead),
            random_iv: Some(true),
            salt_length: Some(8),
            ..Default::default()
        }),
        Attribute::CryptographicAlgorithm(CryptographicAlgorithm::ChaCha20),
        Attribute::Link(Link { kind: LinkType::NextLink, target: "other".into() }),
    ]);
    let has = |version, tag| {
        let mut seen = Vec::new();
        tags(&respond(version, &item), &mut seen);
        seen.contains(&tag)
    };
    for (tag, since) in [
        (Tag::KeyFormatType, Version::V1_1),
        (Tag::RandomIV, Version::V1_2),
        (Tag::LinkType, Version::V1_2),
        (Tag::BlockCipherMode, Version::V1_4),
        (Tag::SaltLength, Version::V1_4),
    ] {
        for version in Version::ALL {
            assert_eq!(has(version, tag), version >= since, "{tag} in {version}");
        }
    }
    assert!(!texts(&respond(Version::V1_3, &item)).contains(&"Cryptographic Algorithm".into()));
    assert!(texts(&respond(Version::V1_4, &item)).contains(&"Cryptographic Algorithm".into()));
}

#[test]
fn result_reasons_fall_back_to_what_the_version_has() {
    for (reason, version, written) in [
        (ResultReason::ObjectNotFound, Version::V1_0, ResultReason::ItemNotFound),
        (ResultReason::ObjectNotFound, Version::V2_0, ResultReason::ObjectNotFound),
        (ResultReason::NotExtractable, Version::V1_3, ResultReason::PermissionDenied),
        (ResultReason::NotExtractable, Version::V1_4, ResultReason::NotExtractable),
        (ResultReason::ConstraintViolation, Version::V2_0, ResultReason::PermissionDenied),
        (ResultReason::InternalServerError, Version::V1_4, ResultReason::GeneralFailure),
    ] {
        let item = ResponseItem::failed(Some(OperationCode::Get), None, reason, "no");
        let text = format!("{:?}", respond(version, &item));
        let number = format!("(ResultReason, Enumeration({}))", written.number());
        assert!(text.contains(&number), "{reason:?} in {version}: {text}");
    }
    for reason in ResultReason::ALL {
        for version in Version::ALL {
            assert!(reason.in_version(version).since().unwrap() <= version);
        }
    }
}

#[test]
fn an_object_that_cannot_be_said_becomes_a_refusal() {
    let mut block = KeyBlock::raw(SecretBytes::copy_from(&[9; 32]), None, None);
    block.format = KeyFormatType::Pkcs12;
    let answer = op::get::Response { id: "id".into(), object: Object::PrivateKey(block) };
    let item = ResponseItem::success(None, Answer::from(answer));
    let mut seen = Vec::new();
    tags(&respond(Version::V1_3, &item), &mut seen);
    assert!(seen.contains(&Tag::ResultReason) && !seen.contains(&Tag::ResponsePayload));
    seen.clear();
    tags(&respond(Version::V1_4, &item), &mut seen);
    assert!(!seen.contains(&Tag::ResultReason) && seen.contains(&Tag::ResponsePayload));
}

#[test]
fn a_client_is_told_what_its_version_lacks() {
    let error = client::Client::new(Version::V1_0).request(client::discover_versions());
    assert_eq!(
        error.err(),
        Some(EncodeError::NotInVersion {
            operation: OperationCode::DiscoverVersions,
            version: Version::V1_0
        })
    );
    let (old, new) = (client::Client::new(Version::V1_0), client::Client::new(Version::V1_1));
    assert!(
        old.request(client::locate_fresh("g")).is_err()
            && new.request(client::locate_fresh("g")).is_ok()
    );
    let sensitive =
        || client::create(CryptographicAlgorithm::Aes, 256, 12, [Attribute::Sensitive(true)]);
    assert!(new.request(sensitive()).is_err());
    assert!(client::Client::new(Version::V1_4).request(sensitive()).is_ok());
    let names = || client::get_attributes("id", [AttributeKind::Fresh.into()]);
    assert!(old.request(names()).is_err() && new.request(names()).is_ok());
    let vendor = AttributeRef::Vendor { vendor: "acme".into(), name: "n".into() };
    assert!(new.request(client::get_attributes("id", [vendor])).is_err());
}

#[test]
fn vendor_attributes_have_two_forms() {
    let vendor = |vendor: &str| {
        Attribute::Vendor(VendorAttribute {
            vendor: vendor.into(),
            name: "Barcode".into(),
            value: Value::Integer(7),
        })
    };
    let item = attributes([vendor("x"), vendor("acme")]);
    assert_eq!(texts(&respond(Version::V1_2, &item)), ["id", "x-Barcode"]);
    assert_eq!(texts(&respond(Version::V2_0, &item)), ["id", "x", "Barcode", "acme", "Barcode"]);
}

#[test]
fn every_attribute_has_one_name_and_one_tag() {
    for kind in AttributeKind::ALL {
        assert_eq!(AttributeKind::from_name(kind.name()), Some(*kind));
        assert_eq!(AttributeKind::from_tag(kind.tag()), Some(*kind));
        assert!(Version::ALL.into_iter().any(|version| kind.in_version(version)));
    }
}
