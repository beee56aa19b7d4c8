//! Notify and Put, to a real endpoint over mutual TLS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kmip::{
    Answer, DateTime, Operation, RequestMessage, ResponseWriter, Version,
    attribute::{Attribute, Attributes, Link, UniqueIdentifier},
    client::{self, ClientError},
    enums::*,
    message::{Asynchronous, ResponseHeader, ResponseItem, error_response},
    object::Object,
    op,
    ttlv::frame_len,
};
use kmip_server::{
    Limits,
    policy::{Endpoint, Policies, Policy, Sent},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};
use transport::{ListenerLimits, Profile, ServerStream, Shutdown, TlsFiles, serve, server_config};

use crate::{
    batch::{reason, run},
    common::{Client, Network, SHARING, refusal, sae_id},
};

const WAIT: Duration = Duration::from_secs(20);

/// n1 and n2 are of one tenant, and n2 is told at `address`.
pub(crate) fn policies(address: SocketAddr, version: Version, sent: Sent) -> Policies {
    let bank = Policy { tenant: Some(sae_id("bank")), ..Policy::default() };
    let endpoint = Some(Endpoint { address: Some(address.to_string()), version, sent });
    let told = Policy { endpoint, ..bank.clone() };
    [("n1", bank), ("n2", told)].into_iter().map(|(sae, policy)| (sae_id(sae), policy)).collect()
}

pub(crate) async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) async fn network(address: SocketAddr, version: Version, sent: Sent) -> Network {
    let policies = policies(address, version, sent);
    Network::start_as(Limits::default(), policies, Default::default()).await
}

/// An endpoint of an application's: what it is sent. The first so many messages it refuses.
pub(crate) fn listen(
    listener: TcpListener,
    files: &TlsFiles,
    refused: usize,
) -> mpsc::Receiver<Operation> {
    let (heard, inbox) = mpsc::channel(64);
    let (stop, shutdown) = Shutdown::pair();
    std::mem::forget(stop); // it listens as long as the test runs
    let tls = server_config(files, Profile::Front).unwrap();
    let refused = Arc::new(std::sync::atomic::AtomicUsize::new(refused));
    let handler = move |stream, _| answer(stream, heard.clone(), refused.clone());
    let (limits, stats) = (ListenerLimits::default(), Arc::default());
    tokio::spawn(serve(listener, tls, limits, stats, handler, shutdown));
    inbox
}

async fn answer(
    mut stream: ServerStream,
    heard: mpsc::Sender<Operation>,
    refused: Arc<std::sync::atomic::AtomicUsize>,
) {
    use std::sync::atomic::Ordering::Relaxed;
    loop {
        let mut frame = vec![0; 8];
        if stream.read_exact(&mut frame).await.is_err() {
            return;
        }
        frame.resize(frame_len(&frame, 1 << 20).unwrap().unwrap(), 0);
        stream.read_exact(&mut frame[8..]).await.unwrap();
        let mut message = RequestMessage::decode(&frame).unwrap();
        let header = &message.header;
        assert!(header.asynchronous.is_none() && header.maximum_response_size.is_none());
        let (version, time) = (message.version, DateTime(0));
        let answer = if refused.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            error_response(version, time, ResultReason::GeneralFailure, "not now").to_vec()
        } else {
            let operation = message.items.remove(0).operation.unwrap();
            let said = match &operation {
                Operation::Notify(_) => op::notify::Response {}.into(),
                Operation::Put(_) => op::put::Response {}.into(),
                other => panic!("{other:?}"),
            };
            heard.send(operation).await.unwrap();
            let mut answer = ResponseWriter::new(version, ResponseHeader::new(version, time));
            answer.item(&ResponseItem::success(None, said));
            answer.finish().to_vec()
        };
        stream.write_all(&answer).await.unwrap();
        stream.flush().await.unwrap();
    }
}

async fn next(inbox: &mut mpsc::Receiver<Operation>) -> Operation {
    timeout(WAIT, inbox.recv()).await.expect("it is told in time").unwrap()
}

async fn notify(inbox: &mut mpsc::Receiver<Operation>) -> (String, Attributes) {
    match next(inbox).await {
        Operation::Notify(told) => (told.id, told.attributes),
        other => panic!("Notify, not {other:?}"),
    }
}

/// The object of a Notify, and the state it tells.
pub(crate) async fn state(inbox: &mut mpsc::Receiver<Operation>) -> (String, State) {
    let (id, attributes) = notify(inbox).await;
    let changed = |a: &Attribute| matches!(a, Attribute::LastChangeDate(_));
    assert!(attributes.iter().any(changed), "{attributes:?}");
    let state = attributes.iter().find_map(|attribute| match attribute {
        Attribute::State(state) => Some(*state),
        _ => None,
    });
    (id, state.expect("a state"))
}

async fn put(inbox: &mut mpsc::Receiver<Operation>) -> op::put::Request {
    match next(inbox).await {
        Operation::Put(sent) => *sent,
        other => panic!("Put, not {other:?}"),
    }
}

fn bytes(object: &Object) -> Vec<u8> {
    match object {
        Object::SymmetricKey(block) => block.plain_bytes().unwrap().expose(<[u8]>::to_vec),
        other => panic!("a key, not {other:?}"),
    }
}

async fn revoke(client: &mut Client, id: &str) {
    client.revoke(client::revoke(id, RevocationReasonCode::Superseded)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_is_told_what_others_did_and_sent_what_they_made() {
    for version in Version::ALL {
        let (listener, address) = bind().await;
        let network = network(address, version, Sent::All).await;
        let mut inbox = listen(listener, &network.certificate_of_endpoint("n2"), 0);
        network.tell();
        let mut other = network.client("n1", Version::V2_1).await;
        let mut own = network.client("n2", Version::V2_1).await;

        let id = other.aes([]).await.unwrap();
        let sent = put(&mut inbox).await;
        assert_eq!((&sent.id, sent.function, &sent.replaced), (&id, PutFunction::New, &None));
        assert_eq!(bytes(&sent.object), other.key(&id).await.unwrap());
        let length = Attribute::CryptographicLength(256);
        assert!(sent.attributes.iter().any(|a| *a == length), "{version}: {sent:?}");
        // What it does itself it knows.
        own.activate(client::activate(&id)).await.unwrap();
        let contact = Attribute::ContactInformation("ann".to_owned());
        other.add(&id, contact.clone()).await.unwrap();
        let (told, attributes) = notify(&mut inbox).await;
        assert_eq!(told, id);
        assert!(attributes.iter().any(|a| *a == contact), "{version}: {attributes:?}");

        let rekey = op::rekey::Request { id: Some(id.as_str().into()), ..Default::default() };
        let new = other.rekey(rekey).await.unwrap().id;
        let (told, attributes) = notify(&mut inbox).await;
        let link = Link {
            kind: LinkType::ReplacementObjectLink,
            target: UniqueIdentifier::from(new.as_str()),
        };
        assert_eq!(told, id);
        assert!(attributes.iter().any(|a| *a == Attribute::Link(link.clone())), "{attributes:?}");
        let sent = put(&mut inbox).await;
        assert_eq!(sent.function, PutFunction::Replace);
        assert_eq!((sent.id, sent.replaced), (new.clone(), Some(id.clone())));
        assert_eq!(bytes(&sent.object), own.key(&new).await.unwrap());

        revoke(&mut other, &id).await;
        assert_eq!(state(&mut inbox).await, (id.clone(), State::Deactivated));
        other.destroy(client::destroy(&id)).await.unwrap();
        assert_eq!(state(&mut inbox).await, (id, State::Destroyed));
        // A key that never leaves does not leave so either, and its changes are told.
        let inside = other.aes([Attribute::Sensitive(true)]).await.unwrap();
        other.activate(client::activate(&inside)).await.unwrap();
        assert_eq!(state(&mut inbox).await, (inside, State::Active));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_is_told_and_it_is_tried_again() {
    let (listener, address) = bind().await;
    let network = network(address, Version::V2_1, Sent::Successors).await;
    // A certificate of the network that is not the application's.
    let mut stranger = listen(listener, &network.certificate_of_endpoint("n3"), 0);
    network.tell();
    let mut other = network.client("n1", Version::V2_1).await;
    let id = other.aes([]).await.unwrap();
    other.activate(client::activate(&id)).await.unwrap();
    let heard = timeout(Duration::from_secs(3), stranger.recv()).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_several_applications_is_told_nothing() {
    let (listener, address) = bind().await;
    let mut policies = policies(address, Version::V2_1, Sent::All);
    let told = policies.remove(&sae_id("n2")).unwrap();
    policies.insert(sae_id(SHARING[0]), told);
    let network = Network::start_as(Limits::default(), policies, Default::default()).await;
    let mut both = listen(listener, &network.certificate_of_endpoint("shared"), 0);
    network.tell();
    network.client("n1", Version::V2_1).await.aes([]).await.unwrap();
    let heard = timeout(Duration::from_secs(3), both.recv()).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_waits_for_an_endpoint_that_is_away_or_refuses() {
    let (listener, address) = bind().await;
    let network = network(address, Version::V2_1, Sent::Successors).await;
    drop(listener);
    network.tell();
    let mut other = network.client("n1", Version::V2_1).await;
    let id = other.aes([]).await.unwrap();
    other.activate(client::activate(&id)).await.unwrap();
    revoke(&mut other, &id).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let listener = TcpListener::bind(address).await.unwrap();
    let mut inbox = listen(listener, &network.certificate_of_endpoint("n2"), 1);
    // In order, each as the object is by now.
    assert_eq!(state(&mut inbox).await, (id.clone(), State::Deactivated));
    assert_eq!(state(&mut inbox).await, (id.clone(), State::Deactivated));

    // Of a batch that is taken back nothing is told, of one that is done all of it.
    let undo = |m: &mut RequestMessage| {
        m.header.batch_error_continuation = Some(BatchErrorContinuationOption::Undo);
    };
    let (first, second) = (other.aes([]).await.unwrap(), other.aes([]).await.unwrap());
    let (one, two) = (client::activate(&first), client::activate(&second));
    run(&mut other, [one.clone().into(), client::activate("none").into()], undo).await;
    assert_eq!(other.state(&first).await, State::PreActive);
    run(&mut other, [two.into(), one.into()], undo).await;
    assert_eq!(state(&mut inbox).await, (second, State::Active));
    assert_eq!(state(&mut inbox).await, (first, State::Active));
}

/// n2 of the tenant of n1, told over its own connections alone.
async fn listening(limits: Limits, sent: Sent) -> Network {
    let mut policies = policies(([127, 0, 0, 1], 1).into(), Version::V1_0, sent);
    let told = policies.get_mut(&sae_id("n2")).unwrap();
    told.endpoint.as_mut().unwrap().address = None;
    let network = Network::start_as(limits, policies, Default::default()).await;
    network.tell();
    network
}

fn role(role: EndpointRole) -> op::set_endpoint_role::Request {
    op::set_endpoint_role::Request { role }
}

/// Whether the server gives the client's role back.
fn is_back(asked: &Operation) -> bool {
    matches!(asked, Operation::SetEndpointRole(given) if given.role == EndpointRole::Client)
}

async fn turn(client: &mut Client) -> Result<EndpointRole, ClientError> {
    match client.call(role(EndpointRole::Client)).await? {
        Answer::SetEndpointRole(done) => Ok(done.role),
        other => panic!("{other:?}"),
    }
}

/// What the server asks on the connection of a client.
async fn asked(client: &mut Client) -> Operation {
    let mut message = RequestMessage::decode(&client.receive().await.unwrap()).unwrap();
    assert_eq!((message.version, message.items.len()), (client.version, 1));
    message.items.remove(0).operation.unwrap()
}

async fn say(client: &mut Client, said: impl Into<Answer>) {
    let header = ResponseHeader::new(client.version, DateTime(0));
    let mut answer = ResponseWriter::new(client.version, header);
    answer.item(&ResponseItem::success(None, said.into()));
    client.send(&answer.finish()).await;
}

async fn told(client: &mut Client) -> String {
    let Operation::Notify(told) = asked(client).await else { panic!("no Notify") };
    say(client, op::notify::Response {}).await;
    told.id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_change_on_a_connection_and_change_back() {
    let limits = Limits { idle: Duration::from_secs(3), ..Limits::default() };
    let network = listening(limits, Sent::All).await;
    for version in [Version::V2_0, Version::V2_1] {
        let mut other = network.client("n1", Version::V1_4).await;
        // What happened before waits.
        let id = other.aes([]).await.unwrap();
        let mut own = network.client("n2", version).await;
        assert_eq!(turn(&mut own).await.unwrap(), EndpointRole::Client);
        let Operation::Put(sent) = asked(&mut own).await else { panic!("no Put") };
        assert_eq!((&sent.id, bytes(&sent.object)), (&id, other.key(&id).await.unwrap()));
        say(&mut own, op::put::Response {}).await;
        other.activate(client::activate(&id)).await.unwrap();
        assert_eq!(told(&mut own).await, id);
        // Nothing more is to be said: the client has its role again, and asks.
        let given = asked(&mut own).await;
        assert!(is_back(&given), "{given:?}");
        say(&mut own, op::set_endpoint_role::Response { role: EndpointRole::Client }).await;
        assert_eq!(own.state(&id).await, State::Active);
        // It turns again, and what came meanwhile is there. That other connection waited too long.
        let mut other = network.client("n1", Version::V1_4).await;
        revoke(&mut other, &id).await;
        turn(&mut own).await.unwrap();
        assert_eq!(told(&mut own).await, id);
        // It may take its role back by asking, between two notices.
        let back = own.call(role(EndpointRole::Server)).await.unwrap();
        let Answer::SetEndpointRole(back) = back else { panic!("{back:?}") };
        assert_eq!(back.role, EndpointRole::Server);
        assert_eq!(own.state(&id).await, State::Deactivated);
        // What it answers late, or not at all, is told on its next connection.
        turn(&mut own).await.unwrap();
        other.destroy(client::destroy(&id)).await.unwrap();
        let Operation::Notify(lost) = asked(&mut own).await else { panic!("no Notify") };
        drop(own);
        let mut next = network.client("n2", version).await;
        turn(&mut next).await.unwrap();
        assert_eq!((told(&mut next).await, lost.id), (id.clone(), id));
    }
    // The last answer is on its way.
    let told = || network.north.server.counters().told.load(std::sync::atomic::Ordering::Relaxed);
    let all = async {
        while told() != 8 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(WAIT, all).await.expect("each notice counts once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_connection_is_told_and_bad_answers_end_one() {
    let network = listening(Limits::default(), Sent::Nothing).await;
    let mut other = network.client("n1", Version::V2_1).await;
    let mut first = network.client("n2", Version::V2_1).await;
    turn(&mut first).await.unwrap();
    let mut second = network.client("n2", Version::V2_1).await;
    turn(&mut second).await.unwrap();
    let given = asked(&mut first).await;
    assert!(is_back(&given), "{given:?}");
    // It does not want its role back: the connection ends.
    first
        .send(&error_response(Version::V2_1, DateTime(0), ResultReason::GeneralFailure, "no"))
        .await;
    assert!(first.receive().await.is_none());
    let id = other.aes([]).await.unwrap();
    other.activate(client::activate(&id)).await.unwrap();
    let Operation::Notify(_) = asked(&mut second).await else { panic!("no Notify") };
    // Longer than any answer may be.
    second.send(&[0x42, 0x00, 0x7B, 0x01, 0x7F, 0xFF, 0xFF, 0xFF]).await;
    assert!(second.receive().await.is_none());
    let mut third = network.client("n2", Version::V2_1).await;
    turn(&mut third).await.unwrap();
    assert_eq!(told(&mut third).await, id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_change_only_for_those_that_are_told_and_by_a_request_of_its_own() {
    let network = listening(Limits::default(), Sent::Nothing).await;
    let mut other = network.client("n1", Version::V2_1).await;
    let refused = turn(&mut other).await;
    assert_eq!(refusal(refused.map(drop)), ResultReason::PermissionDenied);
    let mut own = network.client("n2", Version::V2_1).await;
    let two = [role(EndpointRole::Client).into(), op::ping::Request {}.into()];
    let items = run(&mut own, two, |_| {}).await;
    assert_eq!(reason(&items[0]), Some(ResultReason::FeatureNotSupported));
    let later = |m: &mut RequestMessage| {
        m.header.asynchronous = Some(Asynchronous(AsynchronousIndicator::Mandatory));
    };
    run(&mut own, [role(EndpointRole::Client).into()], later).await;
    // Nothing changed: it asks still.
    own.aes([]).await.unwrap();
    let mut old = network.client("n2", Version::V1_4).await;
    let request = client::query([QueryFunction::QueryOperations]);
    let said = old.query(request.clone()).await.unwrap().operations;
    assert!(!said.contains(&OperationCode::SetEndpointRole));
    let said = own.query(request).await.unwrap().operations;
    assert!(said.contains(&OperationCode::SetEndpointRole));
}
