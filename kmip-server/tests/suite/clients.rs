//! What products of the field send, one flow each, in their versions and with their habits.

use kmip::{
    Answer, DateTime, Operation, SecretBytes, SecretText, Version,
    attribute::{
        AlternativeName, ApplicationSpecificInformation, Attribute, AttributeKind, Name,
        VendorAttribute,
    },
    client,
    enums::*,
    message::{
        Authentication, Credential, Outcome, RequestHeader, RequestItem, RequestMessage,
        ResponseMessage, UsernameAndPassword,
    },
    object::{KeyBlock, Object, OpaqueObject, SecretData},
    op,
    tag::Tag,
    ttlv::{Value, Writer},
};

use crate::common::{Client, Network, attribute};

const AES: CryptographicAlgorithm = CryptographicAlgorithm::Aes;

fn custom(name: &str, value: &str) -> Attribute {
    let (vendor, name) = ("x".to_owned(), name.to_owned());
    Attribute::Vendor(VendorAttribute { vendor, name, value: Value::TextString(value.to_owned()) })
}

fn name(text: &str) -> Attribute {
    Attribute::Name(Name::text(text))
}

/// Sends operations as one batch and expects every one to be done.
async fn batch(
    client: &mut Client,
    operations: impl IntoIterator<Item = Operation>,
    change: impl FnOnce(&mut RequestHeader),
) -> Vec<Answer> {
    let version = client.version;
    let mut header = RequestHeader::new(version);
    change(&mut header);
    let mut items: Vec<_> = operations.into_iter().map(RequestItem::new).collect();
    for (number, item) in (1u32..).zip(&mut items) {
        item.id = Some(number.to_be_bytes().to_vec());
    }
    let sent = items.len();
    let frame = RequestMessage { version, header, items }.encode().unwrap();
    done(&client.exchange(&frame).await, sent)
}

fn done(answer: &[u8], sent: usize) -> Vec<Answer> {
    let answer = ResponseMessage::decode(answer).unwrap();
    let answers: Vec<_> = answer
        .items
        .into_iter()
        .map(|item| match item.outcome {
            Outcome::Success(answer) => answer,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(answers.len(), sent);
    answers
}

fn login(header: &mut RequestHeader) {
    let password = UsernameAndPassword {
        username: "storage".into(),
        password: Some(SecretText::copy_from("whatever")),
    };
    header.authentication =
        Some(Authentication { credentials: vec![Credential::UsernameAndPassword(password)] });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vcenter_makes_a_key_labels_it_and_watches_its_state() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_1).await;
    let spoken = client.discover(client::discover_versions()).await.unwrap();
    assert!(spoken.versions.contains(&Version::V1_1.number()));
    let asked = [QueryFunction::QueryOperations, QueryFunction::QueryServerInformation];
    let told = client.query(client::query(asked)).await.unwrap();
    assert!(told.operations.contains(&OperationCode::AddAttribute));
    let id = client.aes([]).await.unwrap();
    for (label, value) in
        [("Product_Version", "8.0.2"), ("Vendor", "VMware"), ("Product", "vSphere")]
    {
        client.add(&id, custom(label, value)).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(client.state(&id).await, State::PreActive);
    }
    let all = client.get_attributes(client::get_attributes(&id, [])).await.unwrap();
    assert!(all.attributes.iter().any(|a| *a == custom("Product", "vSphere")));
    assert_eq!(client.key(&id).await.unwrap().len(), 32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mongocrypt_registers_a_seed_of_opaque_format_that_may_be_used_for_nothing() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_0).await;
    let seed = [0x5C; 96];
    let block = KeyBlock {
        format: KeyFormatType::Opaque,
        ..KeyBlock::raw(SecretBytes::copy_from(&seed), None, None)
    };
    let object = Object::SecretData(SecretData { kind: SecretDataType::Seed, block });
    let attributes = [Attribute::CryptographicUsageMask(0)].into_iter().collect();
    let id = client.register(op::register::Request::new(object, attributes)).await.unwrap().id;
    client.activate(client::activate(&id)).await.unwrap();
    let got = client.get(client::get(&id)).await.unwrap().object;
    let block = got.key_block().unwrap();
    assert_eq!(block.format, KeyFormatType::Opaque);
    assert_eq!(block.plain_bytes().unwrap().expose(<[u8]>::to_vec), seed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn percona_finds_its_keys_page_by_page() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let group = Attribute::ObjectGroup("mysql-keyring".into());
    let mut made = Vec::new();
    for number in 0..25u8 {
        let more = [name(&format!("INNODBKey-{number}")), group.clone()];
        let id = client.bring(&[number; 32], more).await.unwrap();
        client.activate(client::activate(&id)).await.unwrap();
        made.push(id);
    }
    client.bring(&[99; 32], [name("another group")]).await.unwrap();
    let mut found = Vec::new();
    loop {
        let page = op::locate::Request {
            maximum_items: Some(10),
            offset_items: Some(i32::try_from(found.len()).unwrap()),
            ..client::locate([group.clone(), Attribute::State(State::Active)])
        };
        let page = client.locate(page).await.unwrap();
        assert_eq!(page.located_items, Some(25));
        if page.ids.is_empty() {
            break;
        }
        found.extend(page.ids);
    }
    let mut sorted = found.clone();
    sorted.sort();
    sorted.dedup();
    made.sort();
    assert_eq!(sorted, made, "each once");
    for (id, expected) in found.iter().zip(0u8..).take(3) {
        let wanted = [AttributeKind::Name.into(), AttributeKind::State.into()];
        let told = client.get_attributes(client::get_attributes(id, wanted)).await.unwrap();
        assert!(attribute(&told, AttributeKind::Name).is_some(), "{expected}");
        client.key(id).await.unwrap();
    }
    client.revoke(client::revoke(&found[0], RevocationReasonCode::Superseded)).await.unwrap();
    client.destroy(client::destroy(&found[0])).await.unwrap();
    let left = client.locate(client::locate([group])).await.unwrap().ids;
    assert_eq!(left.len(), 24);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synology_renames_a_key_before_it_is_active() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_2).await;
    assert!(client.locate(client::locate_name("volume-1")).await.unwrap().ids.is_empty());
    let policy = Attribute::OperationPolicyName("default".into());
    let id = client.bring(&[3; 32], [name("tmp-1"), policy.clone()]).await.unwrap();
    assert_eq!(client.state(&id).await, State::PreActive);
    client.modify(&id, name("volume-1")).await.unwrap();
    client.activate(client::activate(&id)).await.unwrap();
    assert_eq!(client.locate(client::locate_name("volume-1")).await.unwrap().ids, [id.as_str()]);
    assert!(client.locate(client::locate_name("tmp-1")).await.unwrap().ids.is_empty());
    let list = client.get_attribute_list(client::get_attribute_list(&id)).await.unwrap().attributes;
    let told = client.get_attributes(client::get_attributes(&id, list)).await.unwrap();
    assert_eq!(attribute(&told, AttributeKind::OperationPolicyName), Some(policy));
    assert_eq!(attribute(&told, AttributeKind::Name), Some(name("volume-1")));
    assert_eq!(client.key(&id).await.unwrap(), [3; 32]);
    client.revoke(client::revoke(&id, RevocationReasonCode::CessationOfOperation)).await.unwrap();
    client.destroy(client::destroy(&id)).await.unwrap();
}

/// A Locate of 1.0 with its filters inside a Template-Attribute, which no library writes.
fn locate_in_a_template(name: &str) -> Vec<u8> {
    let text = |text: &str| Value::TextString(text.to_owned());
    let version = Value::Structure(vec![
        (Tag::ProtocolVersionMajor, Value::Integer(1)),
        (Tag::ProtocolVersionMinor, Value::Integer(0)),
    ]);
    let credential = Value::Structure(vec![
        (Tag::CredentialType, Value::Enumeration(1)),
        (
            Tag::CredentialValue,
            Value::Structure(vec![(Tag::Username, text("forti")), (Tag::Password, text("gate"))]),
        ),
    ]);
    let header = Value::Structure(vec![
        (Tag::ProtocolVersion, version),
        (Tag::Authentication, Value::Structure(vec![(Tag::Credential, credential)])),
        (Tag::BatchOrderOption, Value::Boolean(true)),
        (Tag::BatchCount, Value::Integer(2)),
    ]);
    let value = Value::Structure(vec![
        (Tag::NameValue, text(name)),
        (Tag::NameType, Value::Enumeration(1)),
    ]);
    let filter =
        Value::Structure(vec![(Tag::AttributeName, text("Name")), (Tag::AttributeValue, value)]);
    let payload = Value::Structure(vec![(
        Tag::TemplateAttribute,
        Value::Structure(vec![(Tag::Attribute, filter)]),
    )]);
    let item = |number: u8, operation: OperationCode, payload: Value| {
        Value::Structure(vec![
            (Tag::Operation, Value::Enumeration(operation.number())),
            (Tag::UniqueBatchItemID, Value::ByteString(vec![number])),
            (Tag::RequestPayload, payload),
        ])
    };
    let message = Value::Structure(vec![
        (Tag::RequestHeader, header),
        (Tag::BatchItem, item(1, OperationCode::Locate, payload)),
        (Tag::BatchItem, item(2, OperationCode::Get, Value::Structure(Vec::new()))),
    ]);
    let mut w = Writer::default();
    message.encode(&mut w, Tag::RequestMessage);
    w.finish().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fortios_locates_and_gets_in_one_batch_with_its_filter_in_a_template() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_0).await;
    let made = batch(
        &mut client,
        [
            client::create(AES, 256, 12, [name("forti-vpn")]).into(),
            op::activate::Request::default().into(),
        ],
        login,
    );
    let id = match made.await.remove(0) {
        Answer::Create(made) => made.id,
        other => panic!("{other:?}"),
    };
    client.aes([name("another")]).await.unwrap();
    let found = done(&client.exchange(&locate_in_a_template("forti-vpn")).await, 2);
    let [Answer::Locate(located), Answer::Get(got)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!((located.ids.as_slice(), &got.id), ([id.clone()].as_slice(), &id));
    client.revoke(client::revoke(&id, RevocationReasonCode::Superseded)).await.unwrap();
    client.destroy(client::destroy(&id)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn netapp_keeps_sixteen_attributes_of_its_own() {
    let network = Network::start().await;
    for version in [Version::V1_0, Version::V1_4] {
        let mut client = network.client("n1", version).await;
        let label =
            |number: u8| custom(&format!("NETAPP-{number}"), &format!("{version}-{number}"));
        let id = client.bring(&[8; 32], (0..16).map(label)).await.unwrap();
        client.bring(&[9; 32], [label(99)]).await.unwrap();
        let filters = client::locate([Attribute::ObjectType(ObjectType::SymmetricKey), label(7)]);
        assert_eq!(client.locate(filters).await.unwrap().ids, [id.as_str()]);
        let all = client.get_attributes(client::get_attributes(&id, [])).await.unwrap();
        for number in 0..16 {
            assert!(all.attributes.iter().any(|a| *a == label(number)), "{number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ceph_logs_in_by_name_and_stamps_its_requests() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_0).await;
    let stamped = |header: &mut RequestHeader| {
        login(header);
        header.time_stamp = Some(DateTime(1_700_000_000));
    };
    let create = client::create(AES, 256, 12, [name("rgw-bucket")]);
    batch(&mut client, [create.into()], stamped).await;
    let found = batch(&mut client, [client::locate_name("rgw-bucket").into()], stamped).await;
    let [Answer::Locate(found)] = found.as_slice() else { panic!("{found:?}") };
    let get = client::get(&found.ids[0]);
    let got = batch(&mut client, [get.into()], stamped).await;
    assert!(matches!(got.as_slice(), [Answer::Get(_)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_array_asks_everything_in_one_batch() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_0).await;
    let object = Object::OpaqueObject(OpaqueObject {
        kind: OpaqueDataType::VendorDefined,
        value: SecretBytes::copy_from(b"array state"),
    });
    let label = custom("array-serial", "0042");
    let attributes = [label.clone()].into_iter().collect();
    client.register(op::register::Request::new(object, attributes)).await.unwrap();
    let asked = client::query([QueryFunction::QueryOperations]);
    let answers = batch(
        &mut client,
        [
            asked.into(),
            client::locate([label]).into(),
            op::get::Request::default().into(),
            op::get_attributes::Request::default().into(),
        ],
        |_| {},
    )
    .await;
    let [Answer::Query(_), Answer::Locate(found), Answer::Get(got), Answer::GetAttributes(told)] =
        answers.as_slice()
    else {
        panic!("{answers:?}");
    };
    assert_eq!((found.ids.as_slice(), &told.id), ([got.id.clone()].as_slice(), &got.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tape_library_sends_32_items_in_order() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_2).await;
    let barcode = |number: usize| {
        Attribute::ApplicationSpecificInformation(ApplicationSpecificInformation {
            namespace: "LIBRARY-LTO".into(),
            data: Some(format!("TAPE{number:04}")),
        })
    };
    let labels = |number: usize| {
        let other = AlternativeName {
            value: format!("XXA{number:03}"),
            kind: AlternativeNameType::UninterpretedTextString,
        };
        (0..30)
            .map(|at| custom(&format!("Label{at}"), &format!("{number}")))
            .chain([barcode(number), Attribute::AlternativeName(other)])
            .collect::<Vec<_>>()
    };
    let create = |number| client::create(AES, 256, 12, labels(number)).into();
    let ordered = |header: &mut RequestHeader| header.batch_order = Some(true);
    let made = batch(&mut client, (0..32).map(create), ordered).await;
    let ids: Vec<String> = made
        .into_iter()
        .map(|answer| match answer {
            Answer::Create(made) => made.id,
            other => panic!("{other:?}"),
        })
        .collect();
    let each = (0..16).flat_map(|number| {
        let filters = [Attribute::ObjectType(ObjectType::SymmetricKey), barcode(number)];
        [client::locate(filters).into(), Operation::from(op::get::Request::default())]
    });
    let answers = batch(&mut client, each, ordered).await;
    for (pair, id) in answers.chunks(2).zip(&ids) {
        let [Answer::Locate(found), Answer::Get(got)] = pair else { panic!("{pair:?}") };
        assert_eq!((found.ids.as_slice(), &got.id), ([id.clone()].as_slice(), id));
    }
    let all = client.get_attributes(client::get_attributes(&ids[5], [])).await.unwrap();
    assert!(labels(5).iter().all(|label| all.attributes.iter().any(|found| found == label)));
}
