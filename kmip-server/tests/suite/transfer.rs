//! Export and Import, Archive and Recover, Templates, and objects of rare types.

use kmip::{
    DateTime, SecretBytes, Version,
    attribute::{Attribute, AttributeKind, Attributes, Name, UsageLimits},
    client,
    enums::*,
    object::{CertificateRequest, KeyBlock, Object, PgpKey, SecretData},
    op,
};

use crate::common::{Network, attribute, refusal};

fn export(id: &str) -> op::export::Request {
    op::export::Request { id: Some(id.into()), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_is_the_same_where_it_is_imported() {
    let network = Network::start().await;
    for version in [Version::V1_4, Version::V2_0, Version::V2_1] {
        let mut here = network.client("n1", version).await;
        let mut there = network.client("s1", version).await;
        let name = format!("wanderer {version}");
        let past = Attribute::ActivationDate(DateTime(1_000));
        let limits = UsageLimits { total: 9, count: None, unit: UsageLimitsUnit::Object };
        let more = [Attribute::Name(Name::text(&name)), past, Attribute::UsageLimits(limits)];
        let id = here.aes(more).await.unwrap();
        let part = op::get_usage_allocation::Request {
            id: Some(id.as_str().into()),
            usage_limits_count: 4,
        };
        here.get_usage_allocation(part).await.unwrap();
        here.revoke(client::revoke(&id, RevocationReasonCode::Superseded)).await.unwrap();
        let key = here.key(&id).await.unwrap();
        let bag = here.export(export(&id)).await.unwrap();
        assert_eq!(bag.id, id);
        let carry = |bag: op::export::Response, replace_existing| op::import::Request {
            id: bag.id,
            object_type: ObjectType::SymmetricKey,
            replace_existing,
            key_wrap_type: None,
            attributes: bag.attributes,
            object: bag.object,
        };
        assert_eq!(there.import(carry(bag, None)).await.unwrap().id, id);
        assert_eq!(there.key(&id).await.unwrap(), key);
        let (one, other) = (
            here.get_attributes(client::get_attributes(&id, [])).await.unwrap(),
            there.get_attributes(client::get_attributes(&id, [])).await.unwrap(),
        );
        for kind in [
            AttributeKind::State,
            AttributeKind::InitialDate,
            AttributeKind::ActivationDate,
            AttributeKind::DeactivationDate,
            AttributeKind::RevocationReason,
            AttributeKind::Name,
            AttributeKind::UsageLimits,
            AttributeKind::CryptographicUsageMask,
            AttributeKind::Digest,
        ] {
            let found = attribute(&one, kind);
            assert!(found.is_some(), "{kind:?}");
            assert_eq!(found, attribute(&other, kind), "{kind:?}");
        }
        let again = here.export(export(&id)).await.unwrap();
        let exists = refusal(there.import(carry(again, Some(false))).await);
        assert_eq!(exists, ResultReason::ObjectAlreadyExists);
        let mut again = here.export(export(&id)).await.unwrap();
        again.attributes = Attributes::from_iter([Attribute::CryptographicUsageMask(1)]);
        there.import(carry(again, Some(true))).await.unwrap();
        let mask = there.attribute(&id, AttributeKind::CryptographicUsageMask).await;
        assert_eq!(mask, Some(Attribute::CryptographicUsageMask(1)));
        assert_eq!(there.key(&id).await.unwrap(), key);
        assert!(there.locate(client::locate_name(&name)).await.unwrap().ids.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_keeps_the_rules_of_get_and_import_takes_no_identifier_of_a_pool_key() {
    let network = Network::stocked().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let kept = client.bring(&[1; 32], [Attribute::Extractable(false)]).await.unwrap();
    assert_eq!(refusal(client.export(export(&kept)).await), ResultReason::NotExtractable);
    let sensitive = client.bring(&[1; 32], [Attribute::Sensitive(true)]).await.unwrap();
    assert_eq!(refusal(client.export(export(&sensitive)).await), ResultReason::Sensitive);
    let mut other = network.client("n2", Version::V2_1).await;
    assert_eq!(refusal(other.export(export(&kept)).await), ResultReason::ObjectNotFound);

    let drawn = client.aes([Attribute::ObjectGroup("qkd/south/s1".into())]).await.unwrap();
    let bag = client.export(export(&drawn)).await.unwrap();
    let request = op::import::Request {
        id: drawn,
        object_type: ObjectType::SymmetricKey,
        replace_existing: Some(true),
        key_wrap_type: None,
        attributes: Attributes::default(),
        object: bag.object,
    };
    let mut there = network.client("s1", Version::V2_1).await;
    assert_eq!(refusal(there.import(request).await), ResultReason::PermissionDenied);
}

/// KMIP 1.4, 3.3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_destroyed_object_is_replaced_by_one_of_another_type() {
    let network = Network::start().await;
    for (version, reason) in [
        (Version::V1_4, ResultReason::InvalidField),
        (Version::V2_1, ResultReason::InvalidObjectType),
    ] {
        let mut client = network.client("n1", version).await;
        let id = client.aes([]).await.unwrap();
        let key = client.key(&id).await.unwrap();
        let secret = || op::import::Request {
            id: id.clone(),
            object_type: ObjectType::SecretData,
            replace_existing: Some(true),
            key_wrap_type: None,
            attributes: Attributes::default(),
            object: Object::SecretData(SecretData {
                kind: SecretDataType::Password,
                block: KeyBlock {
                    format: KeyFormatType::Opaque,
                    ..KeyBlock::raw(SecretBytes::copy_from(b"hunter2"), None, None)
                },
            }),
        };
        assert_eq!(refusal(client.import(secret()).await), reason);
        assert_eq!(client.key(&id).await.unwrap(), key, "nothing changed");
        client.destroy(client::destroy(&id)).await.unwrap();
        client.import(secret()).await.unwrap();
        let of_type = |kind| client::locate([Attribute::ObjectType(kind)]);
        let keys = client.locate(of_type(ObjectType::SymmetricKey)).await.unwrap().ids;
        let secrets = client.locate(of_type(ObjectType::SecretData)).await.unwrap().ids;
        assert_eq!((keys, secrets), (vec![], vec![id.clone()]), "it is there again, and new");
        client.destroy(client::destroy(&id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archived_object_is_seen_and_not_used_until_it_is_recovered() {
    let network = Network::start().await;
    for version in Version::ALL {
        let mut client = network.client("n1", version).await;
        let id = client.aes([Attribute::Name(Name::text("shelved"))]).await.unwrap();
        let named = || Some(id.as_str().into());
        client.archive(op::archive::Request { id: named() }).await.unwrap();
        let date = client.attribute(&id, AttributeKind::ArchiveDate).await;
        assert!(date.is_some());
        let archived = ResultReason::ObjectArchived;
        assert_eq!(refusal(client.key(&id).await), archived);
        assert_eq!(refusal(client.activate(client::activate(&id)).await), archived);
        assert_eq!(refusal(client.destroy(client::destroy(&id)).await), archived);
        assert_eq!(refusal(client.archive(op::archive::Request { id: named() }).await), archived);
        let mut search = client::locate_name("shelved");
        assert!(client.locate(search.clone()).await.unwrap().ids.is_empty());
        search.storage_status_mask = Some(2);
        assert_eq!(client.locate(search.clone()).await.unwrap().ids, [id.as_str()]);
        for _ in 0..2 {
            client.recover(op::recover::Request { id: named() }).await.unwrap();
        }
        assert!(client.locate(search).await.unwrap().ids.is_empty());
        assert_eq!(client.attribute(&id, AttributeKind::ArchiveDate).await, None);
        assert_eq!(client.key(&id).await.unwrap().len(), 32);
        client.destroy(client::destroy(&id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_gives_what_the_request_does_not_say() {
    let network = Network::start().await;
    for version in Version::ALL.into_iter().filter(|version| !version.is_v2()) {
        let mut client = network.client("n1", version).await;
        let name = format!("template of {version}");
        let content = Attributes::from_iter([
            Attribute::CryptographicAlgorithm(CryptographicAlgorithm::Aes),
            Attribute::CryptographicLength(128),
            Attribute::CryptographicUsageMask(4),
            Attribute::ObjectGroup("shelf".into()),
        ]);
        let own = Attributes::from_iter([Attribute::Name(Name::text(&name))]);
        let request = op::register::Request::new(Object::Template(content.clone()), own);
        let id = client.register(request).await.unwrap().id;
        match client.get(client::get(&id)).await.unwrap().object {
            Object::Template(found) => assert_eq!(found, content),
            other => panic!("{other:?}"),
        }
        let mut request = client::create(CryptographicAlgorithm::Aes, 256, 12, []);
        request.attributes = Attributes::from_iter([Attribute::CryptographicUsageMask(12)]);
        request.attributes.templates.push(Name::text(&name));
        let made = client.create(request).await.unwrap().id;
        assert_eq!(client.key(&made).await.unwrap().len(), 16);
        for expected in
            [Attribute::CryptographicUsageMask(12), Attribute::ObjectGroup("shelf".into())]
        {
            let kind = expected.kind().unwrap();
            assert_eq!(client.attribute(&made, kind).await, Some(expected));
        }
        assert_eq!(client.attribute(&made, AttributeKind::Name).await, None);
        let mut request = client::create(CryptographicAlgorithm::Aes, 256, 12, []);
        request.attributes.templates.push(Name::text("nobody's"));
        assert_eq!(refusal(client.create(request).await), ResultReason::ItemNotFound);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgp_keys_and_certificate_requests_come_back_as_they_were() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let block = KeyBlock::raw(SecretBytes::copy_from(b"armor"), None, None);
    let key = Object::PgpKey(PgpKey { version: 4, block });
    let request = op::register::Request::new(key, Attributes::default());
    let id = client.register(request).await.unwrap().id;
    match client.get(client::get(&id)).await.unwrap().object {
        Object::PgpKey(key) => {
            assert_eq!(key.version, 4);
            assert!(key.block.plain_bytes().unwrap().expose(|bytes| bytes == b"armor"));
        }
        other => panic!("{other:?}"),
    }
    let wish =
        CertificateRequest { kind: CertificateRequestType::Pkcs10, value: b"request".to_vec() };
    let object = Object::CertificateRequest(wish.clone());
    let request = op::register::Request::new(object, Attributes::default());
    let id = client.register(request).await.unwrap().id;
    match client.get(client::get(&id)).await.unwrap().object {
        Object::CertificateRequest(found) => assert_eq!(found, wish),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_object_is_found_first() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.insert(0, client.aes([Attribute::ObjectGroup("shelf".into())]).await.unwrap());
    }
    let shelf = || client::locate([Attribute::ObjectGroup("shelf".into())]);
    assert_eq!(client.locate(shelf()).await.unwrap().ids, made);
    let mut page = shelf();
    (page.offset_items, page.maximum_items) = (Some(1), Some(2));
    assert_eq!(client.locate(page).await.unwrap().ids, made[1..3]);
    let policy = |name: &str| client::locate([Attribute::OperationPolicyName(name.to_owned())]);
    assert_eq!(client.locate(policy("default")).await.unwrap().ids, made);
    assert!(client.locate(policy("other")).await.unwrap().ids.is_empty());
}
