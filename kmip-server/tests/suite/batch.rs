//! Batches: order, the ID placeholder, what happens after a failed item, bounds.

use std::time::Duration;

use kmip::{
    Operation, Version,
    attribute::{Attribute, AttributeKind, Link, Name, UniqueIdentifier},
    client,
    enums::*,
    message::{
        Authentication, Credential, MessageExtension, Outcome, RequestHeader, RequestItem,
        RequestMessage, ResponseItem, ResponseMessage,
    },
    op,
    ttlv::Value,
};
use kmip_server::Limits;

use crate::common::{Client, Network, sae_id};

pub(crate) async fn run(
    client: &mut Client,
    operations: impl IntoIterator<Item = Operation>,
    change: impl FnOnce(&mut RequestMessage),
) -> Vec<ResponseItem> {
    let version = client.version;
    let mut items: Vec<_> = operations.into_iter().map(RequestItem::new).collect();
    for (number, item) in (1u8..).zip(&mut items) {
        item.id = Some(vec![number, 0xAB]);
    }
    let header = RequestHeader::new(version);
    let mut message = RequestMessage { version, header, items };
    change(&mut message);
    let frame = message.encode().unwrap();
    let answer = client.exchange(&frame).await;
    let message = ResponseMessage::decode(&answer).unwrap();
    assert_eq!(message.version, version, "answered in the version asked");
    message.items
}

pub(crate) fn reason(item: &ResponseItem) -> Option<ResultReason> {
    match &item.outcome {
        Outcome::Success(_) => None,
        Outcome::Failed(failure) => Some(failure.reason),
        other => panic!("not expected here: {other:?}"),
    }
}

fn create() -> Operation {
    client::create(CryptographicAlgorithm::Aes, 128, 12, []).into()
}

fn get(id: Option<UniqueIdentifier>) -> Operation {
    op::get::Request { id, ..Default::default() }.into()
}

fn activate() -> Operation {
    op::activate::Request { id: None }.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_placeholder_names_what_an_earlier_item_made() {
    let network = Network::start().await;
    for version in Version::ALL {
        let mut client = network.client("n1", version).await;
        let done = run(&mut client, [create(), activate(), get(None)], |_| {}).await;
        assert!(done.iter().all(|item| reason(item).is_none()), "{done:?}");
        let ids: Vec<_> = done.iter().map(|item| item.id.clone().unwrap()).collect();
        assert_eq!(ids, [vec![1, 0xAB], vec![2, 0xAB], vec![3, 0xAB]]);
        let codes: Vec<_> = done.iter().map(|item| item.code.unwrap()).collect();
        let expected = [OperationCode::Create, OperationCode::Activate, OperationCode::Get];
        assert_eq!(codes, expected);
        let unset = run(&mut client, [get(None)], |_| {}).await;
        let missing = ResultReason::ObjectNotFound.in_version(version);
        assert_eq!(reason(&unset[0]), Some(missing));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_of_kmip_2() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let reference = |code| get(Some(UniqueIdentifier::Reference(code)));
    let name = || Attribute::Name(Name::text("pair"));
    let first = client.aes([name()]).await.unwrap();
    let items = [
        create(),
        client::locate([name()]).into(),
        reference(UniqueIdentifierCode::Create),
        reference(UniqueIdentifierCode::Locate),
        reference(UniqueIdentifierCode::IdPlaceholder),
        get(Some(UniqueIdentifier::Index(0))),
        get(Some(UniqueIdentifier::Index(1))),
    ];
    let done = run(&mut client, items, |_| {}).await;
    let id = |item: &ResponseItem| match &item.outcome {
        Outcome::Success(kmip::Answer::Get(response)) => response.id.clone(),
        other => panic!("{other:?}"),
    };
    assert_ne!(id(&done[2]), first);
    assert_eq!([id(&done[3]), id(&done[4]), id(&done[5])], [(); 3].map(|()| first.clone()));
    assert_eq!(reason(&done[6]), Some(ResultReason::ObjectNotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_item() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_2).await;
    let items = || [create(), get(Some("nothing".into())), activate()];
    type Case = (Option<BatchErrorContinuationOption>, &'static [Option<ResultReason>]);
    let missing = Some(ResultReason::ItemNotFound);
    let table: [Case; 3] = [
        (None, &[None, Some(ResultReason::ItemNotFound)]),
        (Some(BatchErrorContinuationOption::Stop), &[None, Some(ResultReason::ItemNotFound)]),
        (
            Some(BatchErrorContinuationOption::Continue),
            &[None, Some(ResultReason::ItemNotFound), None],
        ),
    ];
    for (option, expected) in table {
        let set = |m: &mut RequestMessage| m.header.batch_error_continuation = option;
        let done = run(&mut client, items(), set).await;
        let found: Vec<_> = done.iter().map(reason).collect();
        assert_eq!(found, expected, "{option:?}");
    }
    let undo = |m: &mut RequestMessage| {
        m.header.batch_error_continuation = Some(BatchErrorContinuationOption::Undo);
    };
    assert_eq!(reason(&run(&mut client, [get(None)], undo).await[0]), missing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_keep_to_the_size_asked_for() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let id = client.aes([]).await.unwrap();
    let all = || Operation::from(client::get_attributes(&id, []));
    for bytes in [200, 0, -1] {
        let small = |m: &mut RequestMessage| m.header.maximum_response_size = Some(bytes);
        let done = run(&mut client, [all(), all()], small).await;
        let found: Vec<_> = done.iter().map(reason).collect();
        let expected =
            if bytes < 0 { vec![None; 2] } else { vec![Some(ResultReason::ResponseTooLarge)] };
        assert_eq!(found, expected, "a negative size is no bound");
    }
    let room = |m: &mut RequestMessage| {
        m.header.maximum_response_size = Some(600);
        m.header.batch_error_continuation = Some(BatchErrorContinuationOption::Continue);
    };
    let done = run(
        &mut client,
        [client::activate(&id).into(), all(), get(Some(id.as_str().into()))],
        room,
    )
    .await;
    let found: Vec<_> = done.iter().map(reason).collect();
    assert_eq!(found, [None, Some(ResultReason::ResponseTooLarge), None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_header_may_not_ask() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let many: Vec<_> = (0..129).map(|_| get(None)).collect();
    let done = run(&mut client, many, |_| {}).await;
    assert_eq!(done.len(), 1);
    assert_eq!(reason(&done[0]), Some(ResultReason::ServerLimitExceeded));
    let most: Vec<_> = (0..128).map(|_| create()).collect();
    assert_eq!(run(&mut client, most, |_| {}).await.len(), 128);
    for kind in [CredentialType::Device, CredentialType::Attestation] {
        let known = |m: &mut RequestMessage| {
            let content = kmip::SecretBytes::copy_from(&[]);
            let credentials = vec![Credential::Other { kind, content }];
            m.header.authentication = Some(Authentication { credentials });
        };
        let done = run(&mut client, [create()], known).await;
        assert_eq!(reason(&done[0]), Some(ResultReason::AuthenticationNotSuccessful));
    }
    let done = run(&mut client, [], |_| {}).await;
    assert_eq!(reason(&done[0]), Some(ResultReason::InvalidMessage));
    for critical in [true, false] {
        let extended = |m: &mut RequestMessage| {
            let content = Value::Structure(Vec::new());
            m.items[0].extensions =
                vec![MessageExtension { vendor: "acme".into(), critical, content }];
        };
        let done = run(&mut client, [create()], extended).await;
        let expected = critical.then_some(ResultReason::UnknownMessageExtension);
        assert_eq!(reason(&done[0]), expected);
    }
    let raw = |code| {
        let payload = kmip::SecretBytes::copy_from(&[]);
        Operation::Raw(op::Raw { code, payload })
    };
    for code in [OperationCode::Certify, OperationCode::Notify, OperationCode::Put] {
        let done = run(&mut client, [raw(code)], |_| {}).await;
        assert_eq!(reason(&done[0]), Some(ResultReason::OperationNotSupported));
        assert_eq!(done[0].code, Some(code));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_correlation_value_comes_back() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let mut message = RequestMessage {
        version: client.version,
        header: RequestHeader::new(client.version),
        items: vec![RequestItem::new(create())],
    };
    message.header.client_correlation_value = Some("my log, line 7".into());
    let answer = client.exchange(&message.encode().unwrap()).await;
    let header = ResponseMessage::decode(&answer).unwrap().header;
    assert_eq!(header.client_correlation_value.as_deref(), Some("my log, line 7"));
    assert!(header.time_stamp.is_some());
}

/// What a storage array sends in one go: questions, then an object found by a custom attribute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locate_feeds_the_items_after_it() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_0).await;
    let serial = |text: &str| {
        Attribute::Vendor(kmip::attribute::VendorAttribute {
            vendor: "x".into(),
            name: "serial".into(),
            value: Value::TextString(text.into()),
        })
    };
    let opaque = kmip::object::Object::OpaqueObject(kmip::object::OpaqueObject {
        kind: OpaqueDataType::VendorDefined,
        value: kmip::SecretBytes::copy_from(b"settings"),
    });
    let attributes = [serial("one")].into_iter().collect();
    client.register(op::register::Request::new(opaque, attributes)).await.unwrap();
    let items = |which: &str| {
        [
            client::query([QueryFunction::QueryOperations]).into(),
            client::locate([serial(which)]).into(),
            get(None),
            op::get_attributes::Request { id: None, attributes: Vec::new() }.into(),
        ]
    };
    let done = run(&mut client, items("one"), |_| {}).await;
    assert!(done.iter().all(|item| reason(item).is_none()), "{done:?}");
    let done = run(&mut client, items("two"), |_| {}).await;
    let found: Vec<_> = done.iter().map(reason).collect();
    assert_eq!(found, [None, None, Some(ResultReason::ItemNotFound)]);
}

/// What a request may look at is bounded for the request, not for each of its many items.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_locates_of_a_batch_share_one_bound() {
    let limits = Limits { scanned: 5, ..Limits::default() };
    let network = Network::start_with(limits).await;
    let mut client = network.client("n1", Version::V2_1).await;
    for _ in 0..3 {
        client.aes([]).await.unwrap();
    }
    let locate = || Operation::from(client::locate([]));
    assert_eq!(run(&mut client, [locate()], |_| {}).await.iter().filter_map(reason).count(), 0);
    let items = run(&mut client, [locate(), locate()], |_| {}).await;
    assert_eq!(reason(&items[0]), None);
    assert_eq!(reason(&items[1]), Some(ResultReason::ServerLimitExceeded));
}

/// Items that wait behind slow ones are refused, not begun: a request ends in bounded time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_takes_too_long_is_not_carried_on() {
    // Far less than that many keys take to be made durable one after the other.
    let request_time = Duration::from_millis(1);
    let network = Network::start_with(Limits { request_time, ..Limits::default() }).await;
    let owner = sae_id("n1");
    let mut made = 0;
    for version in [Version::V1_0, Version::V2_1] {
        let mut client = network.client("n1", version).await;
        let go_on = |m: &mut RequestMessage| {
            m.header.batch_error_continuation = Some(BatchErrorContinuationOption::Continue);
        };
        let done = run(&mut client, (0..128).map(|_| create()), go_on).await;
        assert_eq!(done.len(), 128, "every item is answered");
        let in_time = done.iter().take_while(|item| reason(item).is_none()).count();
        made += in_time;
        assert!(in_time < 128);
        for item in &done[in_time..] {
            assert_eq!(reason(item), Some(ResultReason::GeneralFailure), "{version}");
        }
        let there = network.north.objects.search(&owner, "type:2", 1000).await.unwrap();
        assert_eq!(there.len(), made, "what was refused was not done");
        let stopped = run(&mut client, (0..128).map(|_| create()), |_| {}).await;
        let (last, before) = stopped.split_last().unwrap();
        made += before.len();
        assert_eq!(reason(last), Some(ResultReason::GeneralFailure));
        assert!(before.iter().all(|item| reason(item).is_none()));
    }
}

/// What is stored are identifiers: a reference means nothing outside of its batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_to_what_the_batch_made_is_to_that_object() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let link = |code| {
        let target = UniqueIdentifier::Reference(code);
        Attribute::Link(Link { kind: LinkType::ParentLink, target })
    };
    let child = |code| -> Operation {
        client::create(CryptographicAlgorithm::Aes, 128, 12, [link(code)]).into()
    };
    let items = [create(), child(UniqueIdentifierCode::IdPlaceholder)];
    let done = run(&mut client, items, |_| {}).await;
    let id = |item: &ResponseItem| match &item.outcome {
        Outcome::Success(kmip::Answer::Create(made)) => made.id.clone(),
        other => panic!("{other:?}"),
    };
    let (parent, child_id) = (id(&done[0]), id(&done[1]));
    let expected = Link { kind: LinkType::ParentLink, target: parent.as_str().into() };
    let found = client.attribute(&child_id, AttributeKind::Link).await;
    assert_eq!(found, Some(Attribute::Link(expected)));
    let alone = run(&mut client, [child(UniqueIdentifierCode::Register)], |_| {}).await;
    assert_eq!(reason(&alone[0]), Some(ResultReason::ObjectNotFound));
}
