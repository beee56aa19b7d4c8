//! Batches with Undo: all of it or nothing, for every kind of change.

use kmip::{
    Answer, Operation, Version,
    attribute::{Attribute, AttributeKind, Name, UniqueIdentifier, VendorAttribute},
    client,
    enums::*,
    message::{Outcome, RequestHeader, RequestItem, RequestMessage, ResponseItem, ResponseMessage},
    op,
    ttlv::Value,
};

use crate::common::{Client, Network};

fn name(text: &str) -> Attribute {
    Attribute::Name(Name::text(text))
}

fn label(name: &str) -> Attribute {
    let value = Value::Boolean(true);
    Attribute::Vendor(VendorAttribute { vendor: "x".into(), name: name.into(), value })
}

fn create(more: impl IntoIterator<Item = Attribute>) -> Operation {
    client::create(CryptographicAlgorithm::Aes, 256, 12, more).into()
}

fn add(id: &str, attribute: Attribute) -> Operation {
    let attribute = kmip::attribute::Instance { index: None, attribute };
    op::add_attribute::Request { id: Some(UniqueIdentifier::from(id)), attribute }.into()
}

/// Fails: there is no such object.
fn failing() -> Operation {
    client::activate("no such object").into()
}

async fn exchange(
    client: &mut Client,
    operations: impl IntoIterator<Item = Operation>,
) -> (Vec<u8>, Vec<ResponseItem>) {
    let version = client.version;
    let mut header = RequestHeader::new(version);
    header.batch_error_continuation = Some(BatchErrorContinuationOption::Undo);
    let mut items: Vec<_> = operations.into_iter().map(RequestItem::new).collect();
    for (number, item) in (1u8..).zip(&mut items) {
        item.id = Some(vec![number]);
    }
    let frame = RequestMessage { version, header, items }.encode().unwrap();
    let answer = client.exchange(&frame).await;
    let items = ResponseMessage::decode(&answer).unwrap().items;
    for (number, item) in (1u8..).zip(&items) {
        assert_eq!(item.id, Some(vec![number]), "answered in order, by its own ID");
    }
    (answer, items)
}

async fn run(
    client: &mut Client,
    operations: impl IntoIterator<Item = Operation>,
) -> Vec<ResponseItem> {
    exchange(client, operations).await.1
}

fn all_undone_but_the_last(items: &[ResponseItem]) {
    let (last, before) = items.split_last().unwrap();
    assert!(matches!(last.outcome, Outcome::Failed(_)), "{last:?}");
    for item in before {
        assert!(matches!(item.outcome, Outcome::Undone { .. }), "{item:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_batch_leaves_no_trace_of_any_change() {
    let network = Network::start().await;
    for version in [Version::V1_0, Version::V1_4, Version::V2_1] {
        let mut client = network.client("n1", version).await;
        let kept = client.aes([name("kept")]).await.unwrap();
        let doomed = client.aes([name("doomed")]).await.unwrap();
        let key = client.key(&doomed).await.unwrap();
        let before = client.get_attributes(client::get_attributes(&kept, [])).await.unwrap();
        let items = run(
            &mut client,
            [
                create([name("made")]),
                client::activate(&kept).into(),
                add(&kept, label("mark")),
                client::destroy(&doomed).into(),
                create([name("doomed")]),
                client::revoke(&kept, RevocationReasonCode::KeyCompromise).into(),
                failing(),
                create([]),
            ],
        )
        .await;
        assert_eq!(items.len(), 7, "what comes after the failed item is not begun");
        all_undone_but_the_last(&items);
        let after = client.get_attributes(client::get_attributes(&kept, [])).await.unwrap();
        assert_eq!(before, after, "{version}");
        assert_eq!(client.state(&doomed).await, State::PreActive);
        assert_eq!(client.key(&doomed).await.unwrap(), key);
        let all = client.locate(client::locate([])).await.unwrap().ids;
        assert_eq!(all.len(), 2, "nothing was made");
        // The names that the batch took are free, and the one it freed is taken.
        client.aes([name("made")]).await.unwrap();
        assert!(client.aes([name("doomed")]).await.is_err());
        for id in client.locate(client::locate([])).await.unwrap().ids {
            client.destroy(client::destroy(&id)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_may_be_undone_is_done_when_nothing_fails() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let items = run(
        &mut client,
        [
            create([name("new")]),
            op::activate::Request::default().into(),
            client::locate_name("new").into(),
            op::get::Request::default().into(),
            client::revoke("", RevocationReasonCode::Superseded).into_placeholder(),
            op::destroy::Request::default().into(),
            create([name("new")]),
        ],
    )
    .await;
    let done = |item: &ResponseItem| matches!(item.outcome, Outcome::Success(_));
    assert!(items.iter().all(done), "{items:?}");
    let Outcome::Success(Answer::Locate(located)) = &items[2].outcome else { panic!() };
    assert_eq!(located.ids.len(), 1, "later items see what earlier ones did");
    let Outcome::Success(Answer::Create(last)) = &items[6].outcome else { panic!() };
    let found = client.locate(client::locate_name("new")).await.unwrap().ids;
    assert_eq!(found, [last.id.as_str()]);
    assert_eq!(client.state(&located.ids[0]).await, State::Destroyed);
}

/// A request about the object the batch made before.
trait IntoPlaceholder {
    fn into_placeholder(self) -> Operation;
}

impl IntoPlaceholder for op::revoke::Request {
    fn into_placeholder(self) -> Operation {
        op::revoke::Request { id: None, ..self }.into()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_of_an_undone_batch_leaves() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_2).await;
    let secret = [0xA7; 32];
    let id = client.bring(&secret, []).await.unwrap();
    let (answer, items) = exchange(&mut client, [client::get(&id).into(), failing()]).await;
    all_undone_but_the_last(&items);
    assert!(!answer.windows(16).any(|part| part == &secret[..16]));
    assert_eq!(
        client.attribute(&id, AttributeKind::Fresh).await,
        Some(Attribute::Fresh(true)),
        "it was never given"
    );
    // Too long an answer is a failure like any other.
    let version = client.version;
    let mut header = RequestHeader::new(version);
    header.batch_error_continuation = Some(BatchErrorContinuationOption::Undo);
    header.maximum_response_size = Some(400);
    let gets = (0..8).map(|_| client::get(&id).into());
    let items = std::iter::once(client::activate(&id).into()).chain(gets);
    let items = items.map(RequestItem::new).collect();
    let frame = RequestMessage { version, header, items }.encode().unwrap();
    let answer = client.exchange(&frame).await;
    let items = ResponseMessage::decode(&answer).unwrap().items;
    assert!(matches!(items[0].outcome, Outcome::Undone { .. }), "{items:?}");
    let Some(Outcome::Failed(failure)) = items.last().map(|item| &item.outcome) else { panic!() };
    assert_eq!(failure.reason, ResultReason::ResponseTooLarge);
    assert_eq!(client.state(&id).await, State::PreActive);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_on_the_same_objects_are_done_wholly_or_not_at_all() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let (one, two) = (client.aes([]).await.unwrap(), client.aes([]).await.unwrap());
    let mut sending = tokio::task::JoinSet::new();
    for number in 0..8 {
        let mut client = network.client("n1", Version::V2_1).await;
        let (one, two) = (one.clone(), two.clone());
        sending.spawn(async move {
            let mark = label(&format!("mark-{number}"));
            let items = run(&mut client, [add(&one, mark.clone()), add(&two, mark.clone())]).await;
            let done = items.iter().all(|item| matches!(item.outcome, Outcome::Success(_)));
            (mark, done)
        });
    }
    let sent = sending.join_all().await;
    assert!(sent.iter().any(|(_, done)| *done));
    for id in [&one, &two] {
        let all = client.get_attributes(client::get_attributes(id, [])).await.unwrap().attributes;
        for (mark, done) in &sent {
            assert_eq!(all.iter().any(|found| found == mark), *done, "{mark:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_key_of_an_undone_batch_is_burned() {
    let network = Network::stocked().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let group = || Attribute::ObjectGroup("qkd/south".into());
    let items = run(&mut client, [create([group()]), failing()]).await;
    all_undone_but_the_last(&items);
    assert!(client.locate(client::locate([])).await.unwrap().ids.is_empty());
    let items = run(&mut client, [create([group()]), op::get::Request::default().into()]).await;
    let Outcome::Success(Answer::Create(made)) = &items[0].outcome else { panic!("{items:?}") };
    let mut slave = network.client("s1", Version::V2_1).await;
    assert_eq!(slave.key(&made.id).await.unwrap(), client.key(&made.id).await.unwrap());
    network.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_too_big_for_one_commit_is_refused_before_it_is_done() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let items = run(&mut client, (0..100).map(|_| create([]))).await;
    all_undone_but_the_last(&items);
    assert!(client.locate(client::locate([])).await.unwrap().ids.is_empty());
}
