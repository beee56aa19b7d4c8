//! Notify and Put, to a real endpoint over mutual TLS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kmip::{
    DateTime, Operation, RequestMessage, ResponseWriter, Version,
    attribute::{Attribute, Attributes, Link, UniqueIdentifier},
    client,
    enums::*,
    message::{ResponseHeader, ResponseItem, error_response},
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
    batch::run,
    common::{Client, Network, SHARING, sae_id},
};

const WAIT: Duration = Duration::from_secs(20);

/// n1 and n2 are of one tenant, and n2 is told at `address`.
fn policies(address: SocketAddr, version: Version, sent: Sent) -> Policies {
    let bank = Policy { tenant: Some(sae_id("bank")), ..Policy::default() };
    let endpoint = Some(Endpoint { address: address.to_string(), version, sent });
    let told = Policy { endpoint, ..bank.clone() };
    [("n1", bank), ("n2", told)].into_iter().map(|(sae, policy)| (sae_id(sae), policy)).collect()
}

async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn network(address: SocketAddr, version: Version, sent: Sent) -> Network {
    let policies = policies(address, version, sent);
    Network::start_as(Limits::default(), policies, Default::default()).await
}

/// An endpoint of an application's: what it is sent. The first so many messages it refuses.
fn listen(listener: TcpListener, files: &TlsFiles, refused: usize) -> mpsc::Receiver<Operation> {
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
async fn state(inbox: &mut mpsc::Receiver<Operation>) -> (String, State) {
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
        Operation::Put(sent) => sent,
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
async fn what_a_date_brings_is_told_to_everybody() {
    let (listener, address) = bind().await;
    let network = network(address, Version::V1_4, Sent::Nothing).await;
    let mut inbox = listen(listener, &network.certificate_of_endpoint("n2"), 0);
    let mut own = network.client("n2", Version::V2_1).await;
    let now = i64::try_from(km_core::clock::now_ms() / 1000).unwrap();
    let dates = |from: i64, until: i64| {
        [
            Attribute::ActivationDate(DateTime(now + from)),
            Attribute::DeactivationDate(DateTime(now + until)),
        ]
    };
    let before = own.aes(dates(4, 1000)).await.unwrap();
    network.tell();
    let after = own.aes(dates(6, 8)).await.unwrap();
    assert_eq!(state(&mut inbox).await, (before, State::Active));
    assert_eq!(state(&mut inbox).await, (after.clone(), State::Active));
    assert_eq!(state(&mut inbox).await, (after, State::Deactivated));
    let told = network.north.server.counters().told.load(std::sync::atomic::Ordering::Relaxed);
    assert!(told >= 2, "{told}");
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
