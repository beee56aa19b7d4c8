//! Operations in the background: Asynchronous Indicator, Poll, Cancel, Process.

use std::time::Duration;

use kmip::{
    Answer, Operation, RequestMessage, ResponseMessage, Version,
    client::{self, ClientError},
    enums::*,
    message::{Asynchronous, Outcome, RequestHeader, RequestItem, ResponseItem},
    op,
};

use crate::common::{Client, Network, refusal};

/// Encrypt and Decrypt.
const USAGE: i32 = 12;

const WAIT: Duration = Duration::from_secs(20);

/// One request with these items.
async fn send(
    client: &mut Client,
    asynchronous: AsynchronousIndicator,
    after_error: Option<BatchErrorContinuationOption>,
    operations: Vec<Operation>,
) -> Vec<ResponseItem> {
    let version = client.version;
    let mut header = RequestHeader::new(version);
    header.asynchronous = Some(Asynchronous(asynchronous));
    header.batch_error_continuation = after_error;
    let numbered = |(at, operation): (usize, Operation)| RequestItem {
        id: Some(vec![at as u8]),
        ..RequestItem::new(operation)
    };
    let items = operations.into_iter().enumerate().map(numbered).collect();
    let frame = RequestMessage { version, header, items }.encode().unwrap();
    let answer = client.exchange(&frame).await;
    ResponseMessage::decode(&answer).unwrap().items
}

fn aes() -> Operation {
    client::create(CryptographicAlgorithm::Aes, 256, USAGE, []).into()
}

fn pending(item: &ResponseItem) -> Vec<u8> {
    match &item.outcome {
        Outcome::Pending(value) => value.clone(),
        other => panic!("pending, not {other:?}"),
    }
}

/// Asks until it is done.
async fn polled(client: &mut Client, value: &[u8]) -> ResponseItem {
    let until = tokio::time::Instant::now() + WAIT;
    loop {
        let poll = op::poll::Request { correlation_value: value.to_vec() };
        let never = AsynchronousIndicator::Prohibited;
        let mut items = send(client, never, None, vec![poll.into()]).await;
        let item = items.remove(0);
        if !matches!(item.outcome, Outcome::Pending(_)) {
            return item;
        }
        assert!(tokio::time::Instant::now() < until, "it is never done");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn poll(client: &mut Client, value: &[u8]) -> Result<Answer, ClientError> {
    client.call(op::poll::Request { correlation_value: value.to_vec() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_demanded_later_is_told_once_as_if_it_had_been_told_at_once() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let items = send(&mut client, AsynchronousIndicator::Mandatory, None, vec![aes()]).await;
    assert_eq!(items[0].code, Some(OperationCode::Create));
    assert_eq!(items[0].id.as_deref(), Some(&[0][..]));
    let value = pending(&items[0]);
    // Nobody else can ask for it.
    let mut other = network.client("n2", Version::V2_1).await;
    let refused = ResultReason::InvalidAsynchronousCorrelationValue;
    assert_eq!(refusal(poll(&mut other, &value).await), refused);
    let done = polled(&mut client, &value).await;
    assert_eq!(done.code, Some(OperationCode::Create));
    let Outcome::Success(Answer::Create(made)) = done.outcome else { panic!("{done:?}") };
    client.key(&made.id).await.unwrap();
    assert_eq!(refusal(poll(&mut client, &value).await), refused, "told once");
    assert_eq!(refusal(poll(&mut client, &[1; 16]).await), refused);
    assert_eq!(refusal(poll(&mut client, b"short").await), refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_the_answer_to_a_poll_waits_for_another() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let items = send(&mut client, AsynchronousIndicator::Mandatory, None, vec![aes()]).await;
    let value = pending(&items[0]);
    let process = || op::process::Request { correlation_value: value.clone() };
    for maximum in [100, 100] {
        let version = client.version;
        let mut header = RequestHeader::new(version);
        header.maximum_response_size = Some(maximum);
        let items = vec![RequestItem::new(process().into())];
        let frame = RequestMessage { version, header, items }.encode().unwrap();
        let answer = ResponseMessage::decode(&client.exchange(&frame).await).unwrap();
        let Outcome::Failed(failure) = &answer.items[0].outcome else { panic!("{answer:?}") };
        assert_eq!(failure.reason, ResultReason::ResponseTooLarge);
    }
    // What was told could not be untold.
    let (never, undo) = (AsynchronousIndicator::Prohibited, BatchErrorContinuationOption::Undo);
    let items = send(&mut client, never, Some(undo), vec![process().into(), aes()]).await;
    let Outcome::Failed(failure) = &items[0].outcome else { panic!("{items:?}") };
    assert_eq!(failure.reason, ResultReason::FeatureNotSupported);
    let answer = client.call(process()).await.unwrap();
    assert!(matches!(answer, Answer::Create(_)), "{answer:?}");
    let refused = ResultReason::InvalidAsynchronousCorrelationValue;
    assert_eq!(refusal(poll(&mut client, &value).await), refused, "told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_keeps_its_order_and_stops_where_it_would_stop() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let get = || Operation::from(op::get::Request::default());
    let gone: Operation = client::get("nothing").into();
    let batch = vec![aes(), get(), gone, aes()];
    let items = send(&mut client, AsynchronousIndicator::Mandatory, None, batch).await;
    let values: Vec<_> = items.iter().map(pending).collect();
    assert_eq!(values.len(), 4);
    let mut outcomes = Vec::new();
    for value in &values {
        outcomes.push(polled(&mut client, value).await.outcome);
    }
    assert!(matches!(&outcomes[0], Outcome::Success(Answer::Create(_))));
    assert!(matches!(&outcomes[1], Outcome::Success(Answer::Get(_))), "by the ID placeholder");
    let reason = |outcome: &Outcome| match outcome {
        Outcome::Failed(failure) => failure.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(&outcomes[2]), ResultReason::ObjectNotFound);
    assert_eq!(reason(&outcomes[3]), ResultReason::OperationCanceledByRequester);

    // What cannot be had is refused before anything is done.
    let undo = Some(BatchErrorContinuationOption::Undo);
    let items = send(&mut client, AsynchronousIndicator::Mandatory, undo, vec![aes(), aes()]).await;
    assert_eq!(reason(&items[0].outcome), ResultReason::FeatureNotSupported);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_are_listed_waited_for_and_canceled() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let list = async |client: &mut Client, request: op::query_asynchronous_requests::Request| {
        let answer = client.call(request).await;
        match answer.unwrap() {
            Answer::QueryAsynchronousRequests(found) => found.requests,
            other => panic!("{other:?}"),
        }
    };
    let all = op::query_asynchronous_requests::Request::default;
    assert!(list(&mut client, all()).await.is_empty());
    let items = send(&mut client, AsynchronousIndicator::Mandatory, None, vec![aes(), aes()]).await;
    let values: Vec<_> = items.iter().map(pending).collect();
    let found = list(&mut client, all()).await;
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|request| request.operation == OperationCode::Create));
    let one = op::query_asynchronous_requests::Request {
        values: Some(op::query_asynchronous_requests::Values { list: vec![values[1].clone()] }),
        operations: None,
    };
    assert_eq!(list(&mut client, one).await.len(), 1);
    let process = op::process::Request { correlation_value: values[1].clone() };
    let answer = client.call(process).await.unwrap();
    assert!(matches!(answer, Answer::Create(_)), "{answer:?}");
    let cancel = |value: &Vec<u8>| op::cancel::Request { correlation_value: value.clone() };
    let result = async |client: &mut Client, value: &Vec<u8>| match client
        .call(cancel(value))
        .await
        .unwrap()
    {
        Answer::Cancel(answer) => {
            assert_eq!(answer.correlation_value, *value);
            answer.result
        }
        other => panic!("{other:?}"),
    };
    // The second was done after the first.
    assert_eq!(result(&mut client, &values[0]).await, CancellationResult::Completed);
    assert_eq!(result(&mut client, &values[1]).await, CancellationResult::Unavailable);
    polled(&mut client, &values[0]).await;
    assert!(list(&mut client, all()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_begun_can_be_canceled_and_is_not_done() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    // The first takes a while, so the last waits.
    let mut pair = op::create_key_pair::Request::default();
    for attribute in [
        kmip::attribute::Attribute::CryptographicAlgorithm(CryptographicAlgorithm::Rsa),
        kmip::attribute::Attribute::CryptographicLength(4096),
        kmip::attribute::Attribute::CryptographicUsageMask(3),
    ] {
        pair.common.push(attribute);
    }
    let named = client::create(
        CryptographicAlgorithm::Aes,
        256,
        USAGE,
        [kmip::attribute::Attribute::Name(kmip::attribute::Name::text("late"))],
    );
    let batch = vec![pair.into(), named.into()];
    let items = send(&mut client, AsynchronousIndicator::Mandatory, None, batch).await;
    let last = pending(&items[1]);
    let cancel = op::cancel::Request { correlation_value: last.clone() };
    match client.call(cancel).await.unwrap() {
        Answer::Cancel(answer) => assert_eq!(answer.result, CancellationResult::Canceled),
        other => panic!("{other:?}"),
    }
    let refused = ResultReason::InvalidAsynchronousCorrelationValue;
    assert_eq!(refusal(poll(&mut client, &last).await), refused);
    let done = polled(&mut client, &pending(&items[0])).await;
    assert!(matches!(done.outcome, Outcome::Success(Answer::CreateKeyPair(_))), "{done:?}");
    assert!(client.locate(client::locate_name("late")).await.unwrap().ids.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_have_bounded_room() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let pair = || op::create_key_pair::Request {
        common: [
            kmip::attribute::Attribute::CryptographicAlgorithm(CryptographicAlgorithm::Rsa),
            kmip::attribute::Attribute::CryptographicLength(4096),
            kmip::attribute::Attribute::CryptographicUsageMask(3),
        ]
        .into_iter()
        .collect(),
        ..Default::default()
    };
    // What waits until a pair is there.
    let large = || op::hash::Request {
        parameters: kmip::attribute::CryptographicParameters {
            hashing_algorithm: Some(HashingAlgorithm::Sha256),
            ..Default::default()
        },
        data: Some(kmip::SecretBytes::copy_from(&vec![0; 900 << 10])),
        correlation_value: None,
        init: None,
        last: None,
    };
    let demanded = AsynchronousIndicator::Mandatory;
    let batch = || (0..12).map(|_| pair().into()).chain([large().into()]).collect::<Vec<_>>();
    for _ in 0..2 {
        pending(&send(&mut client, demanded, None, batch()).await[0]);
    }
    let refused = send(&mut client, demanded, None, batch()).await;
    let Outcome::Failed(failure) = &refused[0].outcome else { panic!("{refused:?}") };
    assert_eq!(failure.reason, ResultReason::ServerLimitExceeded);
    // Short ones still go, and others have room of their own.
    pending(&send(&mut client, demanded, None, vec![aes()]).await[0]);
    let mut other = network.client("n2", Version::V2_1).await;
    pending(&send(&mut other, demanded, None, batch()).await[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_clients_that_allow_it_wait_for_pairs_alone() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_0).await;
    let may = AsynchronousIndicator::Optional;
    let items = send(&mut client, may, None, vec![aes()]).await;
    assert!(matches!(&items[0].outcome, Outcome::Success(Answer::Create(_))));
    let mut pair = op::create_key_pair::Request::default();
    for attribute in [
        kmip::attribute::Attribute::CryptographicAlgorithm(CryptographicAlgorithm::Rsa),
        kmip::attribute::Attribute::CryptographicLength(2048),
        kmip::attribute::Attribute::CryptographicUsageMask(3),
    ] {
        pair.common.push(attribute);
    }
    let items = send(&mut client, may, None, vec![pair.into()]).await;
    let value = pending(&items[0]);
    let done = polled(&mut client, &value).await;
    assert!(matches!(done.outcome, Outcome::Success(Answer::CreateKeyPair(_))), "{done:?}");
    assert_eq!(refusal(poll(&mut client, &value).await), ResultReason::InvalidField);
}
