//! Login, Delegated Login, Logout; the operation PKCS#11.

use std::{num::NonZeroU32, sync::atomic::Ordering::Relaxed, time::Duration};

use kmip::{
    Answer, DateTime, Operation, RequestMessage, ResponseMessage, SecretBytes, Version,
    attribute::{Attribute, UniqueIdentifier},
    client,
    enums::*,
    message::{Asynchronous, Authentication, Credential, Outcome, RequestHeader, RequestItem},
    op::{
        self,
        delegated_login::{Objects, Right, Rights},
        login::Ticket,
        query_asynchronous_requests::Operations,
    },
    tag::Tag,
    ttlv::Writer,
};

use kmip_server::{Limits, policy::Policy};

use crate::common::{Client, Network, refusal, sae_id};

/// Encrypt and Decrypt.
const USAGE: i32 = 12;

/// A copy of a ticket.
fn copy(ticket: &Ticket) -> Ticket {
    let value = ticket.value.expose(SecretBytes::copy_from);
    Ticket { kind: ticket.kind, value }
}

/// What is answered to `operation` in a request that carries `ticket`.
async fn with(client: &mut Client, ticket: &Ticket, operation: impl Into<Operation>) -> Outcome {
    ask(client, ticket, None, operation.into()).await
}

async fn ask(
    client: &mut Client,
    ticket: &Ticket,
    asynchronous: Option<AsynchronousIndicator>,
    operation: Operation,
) -> Outcome {
    let mut content = Writer::default();
    content.enumeration(Tag::TicketType, ticket.kind.number());
    ticket.value.expose(|value| content.bytes(Tag::TicketValue, value));
    let credential = Credential::Other {
        kind: CredentialType::Ticket,
        content: SecretBytes::new(content.finish()),
    };
    let mut header = RequestHeader::new(client.version);
    header.authentication = Some(Authentication { credentials: vec![credential] });
    header.asynchronous = asynchronous.map(Asynchronous);
    let version = client.version;
    let items = vec![RequestItem::new(operation)];
    let frame = RequestMessage { version, header, items }.encode().unwrap();
    let answer = client.exchange(&frame).await;
    ResponseMessage::decode(&answer).unwrap().items.remove(0).outcome
}

fn reason(outcome: &Outcome) -> ResultReason {
    match outcome {
        Outcome::Failed(failure) => failure.reason,
        other => panic!("a refusal, not {other:?}"),
    }
}

async fn login(client: &mut Client, requests: Option<i32>) -> Ticket {
    let request = op::login::Request { request_count: requests, ..Default::default() };
    match client.call(request).await.unwrap() {
        Answer::Login(answer) => answer.ticket,
        other => panic!("{other:?}"),
    }
}

async fn delegate(client: &mut Client, rights: Vec<Right>) -> Result<Ticket, ResultReason> {
    let rights = Rights { list: rights };
    let request = op::delegated_login::Request {
        lease_time: None,
        request_count: None,
        usage_limits: None,
        rights,
    };
    match client.call(request).await {
        Ok(Answer::DelegatedLogin(answer)) => Ok(answer.ticket),
        refused => Err(refusal(refused)),
    }
}

fn right(objects: Option<&str>, operations: &[OperationCode]) -> Right {
    Right {
        operations: Some(Operations { list: operations.to_vec() }),
        objects: objects.map(|id| Objects { list: vec![UniqueIdentifier::from(id)] }),
        ..Default::default()
    }
}

async fn network<const N: usize>(policies: [(&str, Policy); N]) -> Network {
    let policies = policies.into_iter().map(|(sae, policy)| (sae_id(sae), policy)).collect();
    Network::start_as(Limits::default(), policies, Default::default()).await
}

/// Its tickets hold in other tenants too.
fn delegating() -> Policy {
    Policy { operations: Some(OperationCode::ALL.iter().copied().collect()), ..Policy::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_serves_its_client_until_it_is_used_up_or_logged_out() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let id = client.aes([]).await.unwrap();
    let get = || client::get(id.as_str());
    let ticket = login(&mut client, Some(2)).await;
    for _ in 0..2 {
        assert!(matches!(with(&mut client, &ticket, get()).await, Outcome::Success(_)));
    }
    let gone = with(&mut client, &ticket, get()).await;
    assert_eq!(reason(&gone), ResultReason::InvalidTicket);

    let mut client = network.client("n1", Version::V2_1).await;
    let ticket = login(&mut client, None).await;
    // It proves nothing for anybody else.
    let mut other = network.client("n2", Version::V2_1).await;
    let stolen = with(&mut other, &ticket, get()).await;
    assert_eq!(reason(&stolen), ResultReason::InvalidTicket);
    let mut other = network.client("n2", Version::V2_1).await;
    let logout = op::logout::Request { ticket: copy(&ticket) };
    assert_eq!(refusal(other.call(logout).await), ResultReason::InvalidTicket);
    let logout = op::logout::Request { ticket: copy(&ticket) };
    client.call(logout).await.unwrap();
    let gone = with(&mut client, &ticket, get()).await;
    assert_eq!(reason(&gone), ResultReason::InvalidTicket);
    let mut client = network.client("n1", Version::V2_0).await;
    let none = op::login::Request { request_count: Some(0), ..Default::default() };
    assert_eq!(refusal(client.call(none).await), ResultReason::InvalidAttributeValue);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delegate_does_what_the_rights_say_and_nothing_else() {
    let network = network([("n1", delegating())]).await;
    let mut owner = network.client("n1", Version::V2_1).await;
    let shared = owner.aes([]).await.unwrap();
    let private = owner.aes([]).await.unwrap();
    let rights = vec![
        right(Some(&shared), &[OperationCode::Get]),
        right(None, &[OperationCode::GetAttributes, OperationCode::Query]),
    ];
    let ticket = delegate(&mut owner, rights).await.unwrap();

    let mut holder = network.client("n2", Version::V2_1).await;
    let own = holder.aes([]).await.unwrap();
    let given = with(&mut holder, &ticket, client::get(shared.as_str())).await;
    assert!(matches!(given, Outcome::Success(Answer::Get(_))), "{given:?}");
    for hidden in [&private, &own] {
        let refused = with(&mut holder, &ticket, client::get(hidden.as_str())).await;
        assert_eq!(reason(&refused), ResultReason::ObjectNotFound);
    }
    let told = with(&mut holder, &ticket, client::get_attributes(private.as_str(), [])).await;
    assert!(matches!(told, Outcome::Success(_)), "{told:?}");
    let create = client::create(CryptographicAlgorithm::Aes, 256, USAGE, []);
    let refused = with(&mut holder, &ticket, create).await;
    assert_eq!(reason(&refused), ResultReason::PermissionDenied);
    let again = op::login::Request::default();
    let refused = with(&mut holder, &ticket, again).await;
    assert_eq!(reason(&refused), ResultReason::PermissionDenied);
    // Without the ticket the holder is itself again.
    assert_eq!(refusal(holder.get(client::get(&shared)).await), ResultReason::ObjectNotFound);

    // Rights that would not hold are not given.
    let locate = vec![right(Some(&shared), &[OperationCode::Locate])];
    assert_eq!(
        delegate(&mut owner, locate).await.unwrap_err(),
        ResultReason::InvalidAttributeValue
    );
    let unbounded = Right { operations: None, ..right(Some(&shared), &[]) };
    let refused = delegate(&mut owner, vec![unbounded]).await.unwrap_err();
    assert_eq!(refused, ResultReason::InvalidAttributeValue);
    // What names no object would only take memory.
    let long = right(Some(&"x".repeat(65)), &[OperationCode::Get]);
    let refused = delegate(&mut owner, vec![long]).await.unwrap_err();
    assert_eq!(refused, ResultReason::InvalidAttributeValue);
    assert_eq!(delegate(&mut owner, vec![]).await.unwrap_err(), ResultReason::MissingData);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_gives_its_holder_nothing_beyond_the_holders_own_entry() {
    let reader = Policy {
        operations: Some([OperationCode::Get].into()),
        operations_per_s: NonZeroU32::new(1),
        ..Policy::default()
    };
    let network = network([("n1", delegating()), ("n2", reader)]).await;
    let mut owner = network.client("n1", Version::V2_1).await;
    let id = owner.aes([]).await.unwrap();
    let rights = || vec![right(None, &[OperationCode::Get, OperationCode::Destroy])];
    let ticket = delegate(&mut owner, rights()).await.unwrap();
    let mut holder = network.client("n2", Version::V2_1).await;
    let get = || client::get(id.as_str());
    assert!(matches!(with(&mut holder, &ticket, get()).await, Outcome::Success(_)));
    let refused = with(&mut holder, &ticket, client::destroy(&id)).await;
    assert_eq!(reason(&refused), ResultReason::PermissionDenied);
    // The pace is the holder's too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let queries = (0..100).map(|_| client::query([QueryFunction::QueryOperations]).into());
    let frame = holder.kmip.batch(queries).unwrap();
    holder.exchange(&frame).await;
    let refused = with(&mut holder, &ticket, get()).await;
    assert_eq!(reason(&refused), ResultReason::ServerLimitExceeded);
    assert_eq!(owner.key(&id).await.unwrap().len(), 32);

    // An entry that does not name Delegated Login passes nothing on to other tenants.
    let mut other = network.client("n3", Version::V2_1).await;
    let ticket = delegate(&mut other, rights()).await.unwrap();
    let refused = with(&mut owner, &ticket, get()).await;
    assert_eq!(reason(&refused), ResultReason::InvalidTicket);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_gives_no_certificates_to_a_holder_that_may_have_none() {
    let bank = || Policy { tenant: Some(sae_id("bank")), ..Policy::default() };
    let network = network([("n1", bank()), ("n2", bank()), ("n3", bank())]).await;
    network.north.hsm.pairs.store(true, Relaxed);
    network.north.certify_for(&["n1", "n3"]).await;
    let mut owner = network.client("n1", Version::V2_1).await;
    let common = [
        Attribute::CryptographicAlgorithm(CryptographicAlgorithm::Ecdsa),
        Attribute::CryptographicLength(256),
        Attribute::CryptographicUsageMask(3),
    ];
    let common = common.into_iter().collect();
    let pair = op::create_key_pair::Request { common, ..Default::default() };
    let key = owner.create_key_pair(pair).await.unwrap().public_id;
    let certify = || op::certify::Request {
        id: Some(key.as_str().into()),
        attributes: [Attribute::CertificateSubjectCn("gate".to_owned())].into_iter().collect(),
        ..Default::default()
    };
    let rights = vec![right(None, &[OperationCode::Certify])];
    let ticket = delegate(&mut owner, rights).await.unwrap();
    let mut holder = network.client("n3", Version::V2_1).await;
    let issued = with(&mut holder, &ticket, certify()).await;
    assert!(matches!(issued, Outcome::Success(Answer::Certify(_))), "{issued:?}");
    let mut holder = network.client("n2", Version::V2_1).await;
    let refused = with(&mut holder, &ticket, certify()).await;
    assert_eq!(reason(&refused), ResultReason::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delegate_polls_what_it_began_and_nothing_else() {
    let bank = || Policy { tenant: Some(sae_id("bank")), ..Policy::default() };
    let network = network([("n1", bank()), ("n2", bank())]).await;
    let mut owner = network.client("n1", Version::V2_1).await;
    let operations = [
        OperationCode::Create,
        OperationCode::Poll,
        OperationCode::Process,
        OperationCode::Cancel,
        OperationCode::QueryAsynchronousRequests,
    ];
    let ticket = delegate(&mut owner, vec![right(None, &operations)]).await.unwrap();
    let own = login(&mut owner, None).await;
    let later = Some(AsynchronousIndicator::Mandatory);
    let create = || Operation::from(client::create(CryptographicAlgorithm::Aes, 256, USAGE, []));
    let begun = ask(&mut owner, &own, later, create()).await;
    let Outcome::Pending(owners) = begun else { panic!("{begun:?}") };

    let mut holder = network.client("n2", Version::V2_1).await;
    let refused = ResultReason::InvalidAsynchronousCorrelationValue;
    let poll = |value: &[u8]| op::poll::Request { correlation_value: value.to_vec() };
    let process = |value: &[u8]| op::process::Request { correlation_value: value.to_vec() };
    assert_eq!(reason(&with(&mut holder, &ticket, poll(&owners)).await), refused);
    assert_eq!(reason(&with(&mut holder, &ticket, process(&owners)).await), refused);
    let cancel = op::cancel::Request { correlation_value: owners.clone() };
    match with(&mut holder, &ticket, cancel).await {
        Outcome::Success(Answer::Cancel(answer)) => {
            assert_eq!(answer.result, CancellationResult::Unavailable);
        }
        other => panic!("{other:?}"),
    }
    let begun = ask(&mut holder, &ticket, later, create()).await;
    let Outcome::Pending(holders) = begun else { panic!("{begun:?}") };
    let all = op::query_asynchronous_requests::Request::default();
    match with(&mut holder, &ticket, all).await {
        Outcome::Success(Answer::QueryAsynchronousRequests(found)) => {
            let found: Vec<_> = found.requests.into_iter().map(|r| r.correlation_value).collect();
            assert_eq!(found, std::slice::from_ref(&holders));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(refusal(owner.call(poll(&holders)).await), refused);
    let done = with(&mut holder, &ticket, process(&holders)).await;
    assert!(matches!(done, Outcome::Success(Answer::Create(_))), "{done:?}");
    let done = owner.call(process(&owners)).await.unwrap();
    assert!(matches!(done, Answer::Create(_)), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_for_a_delegate_takes_its_own_room() {
    let bank = || Policy { tenant: Some(sae_id("bank")), ..Policy::default() };
    let network = network([("n1", bank()), ("n2", bank())]).await;
    let mut owner = network.client("n1", Version::V2_1).await;
    let id = owner.aes([Attribute::ActivationDate(DateTime(1))]).await.unwrap();
    let rights = vec![right(None, &[OperationCode::Create, OperationCode::Encrypt])];
    let ticket = delegate(&mut owner, rights).await.unwrap();
    let mut holder = network.client("n2", Version::V2_1).await;
    let full = ResultReason::ServerLimitExceeded;

    let later = Some(AsynchronousIndicator::Mandatory);
    let create = || Operation::from(client::create(CryptographicAlgorithm::Aes, 256, USAGE, []));
    for _ in 0..64 {
        let begun = ask(&mut holder, &ticket, later, create()).await;
        assert!(matches!(begun, Outcome::Pending(_)), "{begun:?}");
    }
    assert_eq!(reason(&ask(&mut holder, &ticket, later, create()).await), full);
    let own = login(&mut owner, None).await;
    let begun = ask(&mut owner, &own, later, create()).await;
    assert!(matches!(begun, Outcome::Pending(_)), "{begun:?}");

    let part = || op::encrypt::Request {
        id: Some(id.as_str().into()),
        parameters: Some(kmip::attribute::CryptographicParameters {
            block_cipher_mode: Some(BlockCipherMode::Ctr),
            ..Default::default()
        }),
        iv: Some(vec![0; 16]),
        data: Some(SecretBytes::copy_from(&[0; 16])),
        init: Some(true),
        ..Default::default()
    };
    let mut stream = None;
    for _ in 0..8 {
        match with(&mut holder, &ticket, part()).await {
            Outcome::Success(Answer::Encrypt(answer)) => stream = answer.correlation_value,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(reason(&with(&mut holder, &ticket, part()).await), full);
    let own = owner.encrypt(part()).await.unwrap().correlation_value;
    // A stream belongs to whoever began it, and in whose name.
    let next = |stream| op::encrypt::Request {
        correlation_value: stream,
        init: None,
        last: Some(true),
        ..part()
    };
    let strange = ResultReason::InvalidCorrelationValue;
    assert_eq!(refusal(owner.encrypt(next(stream.clone())).await), strange);
    assert_eq!(refusal(holder.encrypt(next(stream.clone())).await), strange);
    assert_eq!(reason(&with(&mut holder, &ticket, next(own)).await), strange);
    let ended = with(&mut holder, &ticket, next(stream)).await;
    assert!(matches!(ended, Outcome::Success(_)), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pkcs11_tells_what_it_is_and_what_it_has_not() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let ask = |function, correlation_value| op::pkcs11::Request {
        interface: None,
        function,
        correlation_value,
        input: None,
    };
    let answer = async |client: &mut Client, request: op::pkcs11::Request| match client
        .call(request)
        .await
        .unwrap()
    {
        Answer::Pkcs11(answer) => answer,
        other => panic!("{other:?}"),
    };
    let begun = answer(&mut client, ask(Pkcs11Function::Initialize, None)).await;
    assert_eq!(begun.code, Pkcs11ReturnCode::Ok);
    let value = begun.correlation_value;
    assert!(value.is_some());
    let info = answer(&mut client, ask(Pkcs11Function::GetInfo, value.clone())).await;
    assert!(info.output.unwrap().expose(|info| info.starts_with(&[2, 40]) && info.len() == 76));
    let other = answer(&mut client, ask(Pkcs11Function::Other(0x8000_0001), value)).await;
    assert_eq!(other.code, Pkcs11ReturnCode::FunctionNotSupported);
    let lost = answer(&mut client, ask(Pkcs11Function::GetInfo, Some(vec![1]))).await;
    assert_eq!(lost.code, Pkcs11ReturnCode::CryptokiNotInitialized);
    let named = op::pkcs11::Request {
        interface: Some("Vendor".to_owned()),
        ..ask(Pkcs11Function::Initialize, None)
    };
    assert_eq!(refusal(client.call(named).await), ResultReason::Pkcs11InvalidInterface);
}
