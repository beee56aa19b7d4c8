//! Every operation in every version.

use kmip::{
    SecretBytes, Version,
    attribute::{
        ApplicationSpecificInformation, Attribute, AttributeKind, AttributeRef, Attributes, Name,
        VendorAttribute,
    },
    client,
    enums::*,
    object::{Certificate, KeyBlock, Object, OpaqueObject},
    op,
    ttlv::Value,
};

use crate::common::{Network, attribute, refusal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_in_every_version() {
    let network = Network::start().await;
    for version in Version::ALL {
        every_operation(&network, version).await;
    }
}

async fn every_operation(network: &Network, version: Version) {
    let mut client = network.client("n1", version).await;
    if version >= Version::V1_1 {
        let found = client.discover(client::discover_versions()).await.unwrap();
        assert_eq!(found.versions, Version::ALL.map(Version::number));
    }
    let asked = [QueryFunction::QueryOperations, QueryFunction::QueryObjects];
    let can = client.query(client::query(asked)).await.unwrap();
    assert!(can.operations.contains(&OperationCode::Get));
    let discovers = can.operations.contains(&OperationCode::DiscoverVersions);
    assert_eq!(discovers, version >= Version::V1_1);

    let name = format!("key of {version}");
    let id = client.aes([Attribute::Name(Name::text(&name))]).await.unwrap();
    assert_eq!(client.locate(client::locate_name(&name)).await.unwrap().ids, [id.as_str()]);
    let key = client.key(&id).await.unwrap();
    assert_eq!(key.len(), 32);
    assert_eq!(client.key(&id).await.unwrap(), key, "Get may be repeated");

    let all = client.get_attributes(client::get_attributes(&id, [])).await.unwrap();
    let has = |kind| attribute(&all, kind).is_some();
    assert_eq!(attribute(&all, AttributeKind::State), Some(Attribute::State(State::PreActive)));
    assert_eq!(
        attribute(&all, AttributeKind::CryptographicLength),
        Some(Attribute::CryptographicLength(256))
    );
    assert!(has(AttributeKind::InitialDate) && has(AttributeKind::Digest));
    assert!(has(AttributeKind::LeaseTime));
    assert_eq!(has(AttributeKind::Fresh), version >= Version::V1_1);
    assert_eq!(has(AttributeKind::OriginalCreationDate), version >= Version::V1_2);
    assert_eq!(has(AttributeKind::Sensitive), version >= Version::V1_4);
    assert_eq!(has(AttributeKind::KeyFormatType), version.is_v2());
    let list = client.get_attribute_list(client::get_attribute_list(&id)).await.unwrap();
    let named: Vec<AttributeRef> = all.attributes.iter().map(Attribute::key).collect();
    assert_eq!(list.attributes, named, "the list names what there is");

    client.activate(client::activate(&id)).await.unwrap();
    let wrong = if version.is_v2() {
        ResultReason::WrongKeyLifecycleState
    } else {
        ResultReason::PermissionDenied
    };
    assert_eq!(refusal(client.destroy(client::destroy(&id)).await), wrong);
    client.revoke(client::revoke(&id, RevocationReasonCode::Superseded)).await.unwrap();
    client.destroy(client::destroy(&id)).await.unwrap();
    let gone =
        if version.is_v2() { ResultReason::ObjectDestroyed } else { ResultReason::ItemNotFound };
    assert_eq!(refusal(client.key(&id).await), gone);
    assert!(client.locate(client::locate_name(&name)).await.unwrap().ids.is_empty());
    let missing =
        if version.is_v2() { ResultReason::ObjectNotFound } else { ResultReason::ItemNotFound };
    assert_eq!(refusal(client.key("no such object").await), missing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_type_comes_back_as_it_was_registered() {
    let network = Network::start().await;
    let bytes = || SecretBytes::copy_from(b"some bytes that stand for DER");
    let block = |format, algorithm| KeyBlock {
        format,
        length: Some(2048),
        ..KeyBlock::raw(bytes(), Some(algorithm), None)
    };
    for version in [Version::V1_0, Version::V1_4, Version::V2_0, Version::V2_1] {
        let objects = [
            Object::PublicKey(block(KeyFormatType::Pkcs1, CryptographicAlgorithm::Rsa)),
            Object::PrivateKey(block(KeyFormatType::Pkcs8, CryptographicAlgorithm::Rsa)),
            Object::OpaqueObject(OpaqueObject {
                kind: OpaqueDataType::VendorDefined,
                value: bytes(),
            }),
            Object::Certificate(Certificate {
                kind: CertificateType::X509,
                value: bytes().expose(<[u8]>::to_vec),
            }),
        ];
        let mut client = network.client("n1", version).await;
        for object in objects {
            let kind = object.kind();
            let request = op::register::Request::new(object, Attributes::default());
            let id = client.register(request).await.unwrap().id;
            let got = client.get(client::get(&id)).await.unwrap().object;
            assert_eq!(got.kind(), kind);
            let found = match &got {
                Object::OpaqueObject(opaque) => opaque.value.expose(<[u8]>::to_vec),
                Object::Certificate(certificate) => certificate.value.clone(),
                other => other.key_block().unwrap().plain_bytes().unwrap().expose(<[u8]>::to_vec),
            };
            assert_eq!(found, bytes().expose(<[u8]>::to_vec), "{kind:?}");
        }
        let secret = client::register_secret(SecretDataType::Password, bytes(), []);
        let id = client.register(secret).await.unwrap().id;
        let Object::SecretData(secret) = client.get(client::get(&id)).await.unwrap().object else {
            panic!("secret data")
        };
        assert_eq!(secret.kind, SecretDataType::Password);
        assert_eq!(secret.block.format, KeyFormatType::Opaque);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_are_kept_and_numbered() {
    let network = Network::start().await;
    let vendor = |name: &str| {
        Attribute::Vendor(VendorAttribute {
            vendor: "x".into(),
            name: name.into(),
            value: Value::TextString("value".into()),
        })
    };
    let info = ApplicationSpecificInformation { namespace: "ns".into(), data: Some("d".into()) };
    let given = [
        Attribute::Name(Name::text("one")),
        Attribute::Name(Name::text("two")),
        Attribute::ObjectGroup("group".into()),
        Attribute::ApplicationSpecificInformation(info),
        Attribute::ContactInformation("somebody".into()),
        vendor("Product"),
    ];
    let mut client = network.client("n1", Version::V1_4).await;
    let with_policy = given.iter().cloned().chain([Attribute::OperationPolicyName("p".into())]);
    let id = client.aes(with_policy).await.unwrap();
    let all = client.get_attributes(client::get_attributes(&id, [])).await.unwrap();
    for attribute in &given {
        assert!(all.attributes.iter().any(|found| found == attribute), "{attribute:?}");
    }
    assert!(attribute(&all, AttributeKind::OperationPolicyName).is_some());
    let names = |instance: &&kmip::attribute::Instance| {
        instance.attribute.kind() == Some(AttributeKind::Name)
    };
    let indices: Vec<_> = all.attributes.list.iter().filter(names).map(|i| i.index).collect();
    assert_eq!(indices, [Some(0), Some(1)]);
    let mut newer = network.client("n1", Version::V2_1).await;
    let all = newer.get_attributes(client::get_attributes(&id, [])).await.unwrap();
    assert!(given.iter().all(|attribute| all.attributes.iter().any(|found| found == attribute)));
    assert!(attribute(&all, AttributeKind::OperationPolicyName).is_none(), "gone since 2.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_object_say_why() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let mut old = network.client("n1", Version::V1_2).await;
    client.aes([Attribute::Name(Name::text("taken"))]).await.unwrap();
    let taken = || [Attribute::Name(Name::text("taken"))];
    assert_eq!(refusal(client.aes(taken()).await), ResultReason::NonUniqueNameAttribute);
    assert_eq!(refusal(old.aes(taken()).await), ResultReason::InvalidField);
    assert_eq!(
        refusal(client.bring(&[1; 16], taken()).await),
        ResultReason::NonUniqueNameAttribute
    );
    let mut other = network.client("n2", Version::V2_1).await;
    other.aes(taken()).await.expect("names are each owner's own");

    let aes = |bits| client::create(CryptographicAlgorithm::Aes, bits, 12, []);
    for bits in [0, 100, 255, 512, -128] {
        let reason = refusal(client.create(aes(bits)).await);
        assert_eq!(reason, ResultReason::InvalidAttributeValue, "{bits}");
        assert_eq!(refusal(old.create(aes(bits)).await), ResultReason::InvalidField);
    }
    let state = [Attribute::State(State::Active)];
    assert_eq!(refusal(client.aes(state.clone()).await), ResultReason::ReadOnlyAttribute);
    assert_eq!(refusal(old.aes(state).await), ResultReason::InvalidField);
    let twice = [Attribute::CryptographicLength(128)];
    assert_eq!(refusal(client.aes(twice).await), ResultReason::AttributeSingleValued);
    let rsa = client::create(CryptographicAlgorithm::Rsa, 2048, 12, []);
    assert_eq!(refusal(client.create(rsa).await), ResultReason::InvalidAttributeValue);
    let mut nothing = aes(256);
    nothing.attributes = Attributes::default();
    assert_eq!(refusal(client.create(nothing).await), ResultReason::MissingData);
    let mut certificate = aes(256);
    certificate.object_type = ObjectType::Certificate;
    assert_eq!(refusal(client.create(certificate).await), ResultReason::InvalidObjectType);
    let long = client.bring(&[1; 16], [Attribute::Comment("x".repeat(70_000))]).await;
    assert_eq!(refusal(long), ResultReason::ServerLimitExceeded);
    let mut short =
        client::register_key(SecretBytes::copy_from(&[1; 16]), CryptographicAlgorithm::Aes, 12, []);
    if let Some(Object::SymmetricKey(block)) = &mut short.object {
        block.length = Some(256);
    }
    assert_eq!(refusal(client.register(short).await), ResultReason::InvalidAttributeValue);
    assert!(client.locate(client::locate([])).await.unwrap().ids.len() == 1, "nothing was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_refuses_what_it_cannot_do() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let id = client.aes([]).await.unwrap();
    let ask = |change: fn(&mut op::get::Request)| {
        let mut request = client::get(&id);
        change(&mut request);
        request
    };
    let raw = ask(|r| r.key_format_type = Some(KeyFormatType::Raw));
    client.get(raw).await.unwrap();
    let other = ask(|r| r.key_format_type = Some(KeyFormatType::Pkcs8));
    assert_eq!(refusal(client.get(other).await), ResultReason::KeyFormatTypeNotSupported);
    let point = ask(|r| r.key_compression_type = Some(KeyCompressionType::Uncompressed));
    assert_eq!(refusal(client.get(point).await), ResultReason::KeyCompressionTypeNotSupported);
    let sensitive = client.aes([Attribute::Sensitive(true)]).await.unwrap();
    assert_eq!(refusal(client.key(&sensitive).await), ResultReason::Sensitive);
    let kept = client.aes([Attribute::Extractable(false)]).await.unwrap();
    assert_eq!(refusal(client.key(&kept).await), ResultReason::NotExtractable);
    let mut other = network.client("n2", Version::V2_1).await;
    assert_eq!(refusal(other.key(&id).await), ResultReason::ObjectNotFound);
    assert_eq!(refusal(other.destroy(client::destroy(&id)).await), ResultReason::ObjectNotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_creates_gets_a_name() {
    let network = std::sync::Arc::new(Network::start().await);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let network = network.clone();
            tokio::spawn(async move {
                let mut client = network.client("n1", Version::V2_1).await;
                client.aes([Attribute::Name(Name::text("one only"))]).await.is_ok()
            })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += usize::from(task.await.unwrap());
    }
    assert_eq!(made, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_away_makes_a_refusal_and_comes_back() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let id = client.aes([]).await.unwrap();
    network.north.hsm.up.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(refusal(client.key(&id).await), ResultReason::GeneralFailure);
    network.north.hsm.up.store(true, std::sync::atomic::Ordering::Relaxed);
    client.key(&id).await.unwrap();
    assert!(
        network.north.server.counters().refused.load(std::sync::atomic::Ordering::Relaxed) == 1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_on_disk_tells_a_key_or_a_password() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let password = b"correct horse battery staple";
    let secret = client::register_secret(
        SecretDataType::Password,
        SecretBytes::copy_from(password),
        [Attribute::Comment("a remark in clear".into())],
    );
    let id = client.register(secret).await.unwrap().id;
    let Some(Attribute::Digest(digest)) = client.attribute(&id, AttributeKind::Digest).await else {
        panic!("every object has a digest")
    };
    let list = client.get_attribute_list(client::get_attribute_list(&id)).await.unwrap();
    assert!(list.attributes.contains(&AttributeKind::Digest.into()));
    let key = client.aes([]).await.unwrap();
    let key = client.key(&key).await.unwrap();
    assert!(network.is_on_disk(b"a remark in clear"), "the search finds what is there");
    assert!(!network.is_on_disk(password) && !network.is_on_disk(&key));
    assert!(!network.is_on_disk(&digest.value.unwrap()), "a password can be guessed from its hash");
}
