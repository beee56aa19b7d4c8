//! Any bytes end in an answer or a closed connection, within a bounded time.

use std::time::Duration;

use kmip::{
    Version, client,
    enums::ResultReason,
    message::{Outcome, ResponseMessage},
    tag::Tag,
    ttlv::Writer,
};
use kmip_server::Limits;

use crate::common::{Client, Network};

/// A request frame with a payload of `body`, in a version of any numbers.
fn frame(major: i32, minor: i32, count: i32, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    w.structure(Tag::RequestMessage, |w| {
        w.structure(Tag::RequestHeader, |w| {
            w.structure(Tag::ProtocolVersion, |w| {
                w.integer(Tag::ProtocolVersionMajor, major);
                w.integer(Tag::ProtocolVersionMinor, minor);
            });
            w.integer(Tag::BatchCount, count);
        });
        w.structure(Tag::BatchItem, |w| {
            w.enumeration(Tag::Operation, 0x0A);
            w.structure(Tag::RequestPayload, body);
        });
    });
    w.finish().to_vec()
}

fn nested(depth: usize) -> Vec<u8> {
    fn down(w: &mut Writer, depth: usize) {
        if depth > 0 {
            w.structure(Tag::Attributes, |w| down(w, depth - 1));
        }
    }
    frame(1, 4, 1, |w| down(w, depth))
}

/// The single refusal in `answer`, and the version it came in.
fn refused(answer: &[u8]) -> (ResultReason, Version) {
    let message = ResponseMessage::decode(answer).unwrap();
    assert_eq!(message.items.len(), 1);
    match &message.items[0].outcome {
        Outcome::Failed(failure) => (failure.reason, message.version),
        other => panic!("a refusal, not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_frames_that_make_no_sense_are_answered() {
    use ResultReason::{InvalidField, InvalidMessage, MissingData, UnsupportedProtocolVersion};
    let network = Network::start().await;
    let mut cut = frame(1, 2, 1, |_| {});
    let at = cut.len() - 4;
    cut[at..].copy_from_slice(&100u32.to_be_bytes());
    let table: Vec<(&str, Vec<u8>, ResultReason, Version)> = vec![
        ("nested too deeply", nested(40), InvalidMessage, Version::V1_4),
        ("a length past the end", cut, InvalidMessage, Version::V1_2),
        ("batch count differs", frame(1, 3, 2, |_| {}), InvalidMessage, Version::V1_3),
        ("negative batch count", frame(1, 3, -1, |_| {}), InvalidMessage, Version::V1_3),
        ("version 9.9", frame(9, 9, 1, |_| {}), UnsupportedProtocolVersion, Version::V2_1),
        ("version 3.0", frame(3, 0, 1, |_| {}), UnsupportedProtocolVersion, Version::V2_1),
        ("version 1.9", frame(1, 9, 1, |_| {}), InvalidMessage, Version::V1_4),
        ("version 0.0", frame(0, 0, 1, |_| {}), InvalidMessage, Version::V1_0),
        ("version -1.-1", frame(-1, -1, 1, |_| {}), InvalidMessage, Version::V1_0),
        (
            "an identifier that is a date",
            frame(1, 0, 1, |w| w.date_time(Tag::UniqueIdentifier, 1)),
            InvalidField,
            Version::V1_0,
        ),
        (
            "two identifiers",
            frame(2, 1, 1, |w| {
                w.text(Tag::UniqueIdentifier, "a");
                w.text(Tag::UniqueIdentifier, "b");
            }),
            InvalidField,
            Version::V2_1,
        ),
        (
            "wrapping without a method",
            frame(2, 0, 1, |w| w.structure(Tag::KeyWrappingSpecification, |_| {})),
            MissingData,
            Version::V2_0,
        ),
    ];
    let mut client = network.client("n1", Version::V1_4).await;
    for (name, bytes, reason, version) in table {
        assert_eq!(refused(&client.exchange(&bytes).await), (reason, version), "{name}");
    }
    client.aes([]).await.expect("the connection goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identifiers_of_any_text_are_only_not_found() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    for id in [
        "",
        "\0",
        "../../etc/passwd",
        "ä".repeat(5000).as_str(),
        "00000000-0000-8000-8000-000000000000",
    ] {
        let reason = crate::common::refusal(client.key(id).await);
        assert_eq!(reason, ResultReason::ObjectNotFound, "{id:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_frame_closes_the_connection() {
    let network = Network::start().await;
    let header_of = |length: u32| {
        let mut bytes = frame(1, 4, 1, |_| {});
        bytes[4..8].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    type Case = (&'static str, Vec<u8>, Option<(ResultReason, Version)>);
    let table: Vec<Case> = vec![
        ("HTTP", b"GET / HTTP/1.1\r\nHost: kme\r\n\r\n".to_vec(), None),
        ("zeros", vec![0; 64], None),
        ("only a tag", b"\x42\x00\x78\x01\x00\x00\x00\x00".to_vec(), None),
        ("4 GiB", header_of(u32::MAX), Some((ResultReason::InvalidMessage, Version::V1_4))),
        (
            "one word more than 1 MiB",
            header_of((1 << 20) - 7),
            Some((ResultReason::InvalidMessage, Version::V1_4)),
        ),
    ];
    for (name, bytes, expected) in table {
        let mut client = network.client("n1", Version::V1_4).await;
        client.send(&bytes).await;
        let answer = client.receive().await;
        assert_eq!(answer.as_deref().map(refused), expected, "{name}");
        if answer.is_some() {
            assert!(client.receive().await.is_none(), "{name}: closed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_after_a_frame_does_not_touch_its_answer() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let mut bytes = client.kmip.request(client::discover_versions()).unwrap().to_vec();
    bytes.extend_from_slice(b"garbage after the frame");
    client.send(&bytes).await;
    let answer = client.receive().await.unwrap();
    client.kmip.answer(&answer).unwrap();
    assert!(client.receive().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_cut_and_idle_ones_too() {
    let limits = Limits {
        idle: Duration::from_millis(400),
        frame_time: Duration::from_millis(300),
        ..Limits::default()
    };
    let network = Network::start_with(limits).await;
    let mut idle = network.client("n1", Version::V1_4).await;
    assert!(idle.receive().await.is_none());
    let mut slow = network.client("n1", Version::V1_4).await;
    let frame = slow.kmip.request(client::discover_versions()).unwrap().to_vec();
    // A byte now and then, often enough to look alive, never a whole frame.
    for byte in &frame[..frame.len() - 1] {
        if !slow.try_send(std::slice::from_ref(byte)).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(slow.receive().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_and_split_requests_are_answered_in_order() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(client.aes([]).await.unwrap());
    }
    let all: Vec<u8> =
        ids.iter().flat_map(|id| client.kmip.request(client::get(id)).unwrap().to_vec()).collect();
    for chunk in [all.len(), 100, 7] {
        for part in all.chunks(chunk) {
            client.send(part).await;
        }
        for id in &ids {
            let frame = client.receive().await.unwrap();
            let kmip::Answer::Get(response) = client.kmip.answer(&frame).unwrap() else {
                panic!("the answer to Get")
            };
            assert_eq!(response.id, *id);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_frames_pass_up_to_the_limit() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let big = vec![7u8; 900_000];
    let secret = client::register_secret(
        kmip::enums::SecretDataType::Seed,
        kmip::SecretBytes::copy_from(&big),
        [],
    );
    // One store record holds at most 1 MiB; the object either comes back whole or is refused.
    match client.register(secret).await {
        Ok(made) => {
            let object = client.get(client::get(&made.id)).await.unwrap().object;
            let block = object.key_block().unwrap();
            assert!(block.plain_bytes().unwrap().expose(|bytes| bytes == big));
        }
        refused => {
            crate::common::refusal(refused);
        }
    }
    client.aes([]).await.expect("the connection goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_one_refusal_and_no_connection() {
    let network = Network::start().await;
    for (name, version) in [("ghost", Version::V1_0), ("ghost", Version::V2_1)] {
        let mut client = network.client(name, version).await;
        let frame = client.kmip.request(client::get("anything")).unwrap().to_vec();
        let answer = client.exchange(&frame).await;
        assert_eq!(refused(&answer), (ResultReason::AuthenticationNotSuccessful, version));
        assert!(client.receive().await.is_none());
    }
    // s1 is registered, but at the other cluster.
    let files = network.certificate("s1");
    let mut away = Client::connect(&network.north.address, &files, Version::V1_4).await;
    let reason = crate::common::refusal(away.aes([]).await);
    assert_eq!(reason, ResultReason::AuthenticationNotSuccessful);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_closes_waiting_connections() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    client.aes([]).await.unwrap();
    network.north.stop();
    assert!(client.receive().await.is_none());
}
