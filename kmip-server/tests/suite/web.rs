//! KMIP over HTTPS: TTLV, JSON and XML.

use std::time::Duration;

use kmip::{
    Answer, Version,
    client::{self, Client},
    encoding,
    enums::{CryptographicAlgorithm, ResultReason},
    ttlv::Limits,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::{
    Profile, TlsClient, client_config,
    http::{ClientLimits, HttpClient},
};
use wiped::Wiped;

use crate::common::Network;

const TTLV: &str = "application/octet-stream";
const JSON: &str = "application/json";
const XML: &str = "text/xml";

async fn http(network: &Network, name: &str) -> HttpClient {
    let config = client_config(&network.certificate(name), Profile::Front).unwrap();
    let address = network.web().await;
    HttpClient::new(&address, None, config, ClientLimits::default()).unwrap()
}

fn body(bytes: &[u8]) -> Wiped {
    Wiped::copy_of(bytes)
}

/// Says `frame` in a form and reads the answer.
async fn ask(http: &HttpClient, kind: &'static str, frame: &[u8]) -> (u16, Vec<u8>) {
    let limits = Limits::default();
    let request = match kind {
        JSON => encoding::to_json(frame, &limits).unwrap().as_bytes().to_vec(),
        XML => encoding::to_xml(frame, &limits).unwrap().as_bytes().to_vec(),
        _ => frame.to_vec(),
    };
    let (status, answer) = http.post_as("/kmip", kind, body(&request)).await.unwrap();
    let text = || std::str::from_utf8(&answer).unwrap();
    let answer = match kind {
        JSON => encoding::from_json(text()).unwrap().to_vec(),
        XML => encoding::from_xml(text()).unwrap().to_vec(),
        _ => answer.to_vec(),
    };
    (status, answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_reaches_the_same_objects() {
    let network = Network::start().await;
    let http = http(&network, "n1").await;
    let mut socket = network.client("n1", Version::V2_1).await;
    for kind in [TTLV, JSON, XML] {
        for version in Version::ALL {
            let client = Client::new(version);
            let request = client::create(CryptographicAlgorithm::Aes, 256, 12, []);
            let (status, answer) = ask(&http, kind, &client.request(request).unwrap()).await;
            assert_eq!(status, 200, "{kind} {version}");
            let Ok(Answer::Create(made)) = client.answer(&answer) else { panic!("{kind}") };
            let (_, answer) =
                ask(&http, kind, &client.request(client::get(&made.id)).unwrap()).await;
            let Ok(Answer::Get(got)) = client.answer(&answer) else { panic!("{kind}") };
            let bytes = got.object.key_block().unwrap().plain_bytes().unwrap();
            let bytes = bytes.expose(<[u8]>::to_vec);
            assert_eq!(socket.key(&made.id).await.unwrap(), bytes);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_is_refused_by_http() {
    let network = Network::start().await;
    let http = http(&network, "n1").await;
    for (path, kind, text, status) in [
        ("/", JSON, "{}", 404),
        ("/kmip", "text/plain", "{}", 415),
        ("/kmip", JSON, "{}", 400),
        ("/kmip", JSON, r#"{"tag":"RequestMessage","value":[]}"#, 400),
        ("/kmip", XML, "<NoSuch/>", 400),
        ("/kmip", XML, "\u{FFFD}", 400),
        ("/kmip", TTLV, "no frame", 400),
    ] {
        let (found, _) = http.post_as(path, kind, body(text.as_bytes())).await.unwrap();
        assert_eq!(found, status, "{path} {kind} {text}");
    }
    assert_eq!(http.get("/kmip").await.unwrap().0, 405);
    let (status, _) = http.post_as("/kmip", TTLV, body(&vec![0; 2 << 20])).await.unwrap();
    assert_eq!(status, 413);
}

/// The whole answer of a connection to which `bytes` are posted twice, until it ends.
async fn raw(network: &Network, address: &str, name: &str, bytes: &[u8]) -> String {
    let config = client_config(&network.certificate(name), Profile::Front).unwrap();
    let tls = TlsClient::new(address, None, config).unwrap();
    let mut stream = tls.connect(Duration::from_secs(20)).await.unwrap().0;
    let head = format!(
        "POST /kmip HTTP/1.1\r\nhost: km\r\ncontent-type: {TTLV}\r\ncontent-length: {}\r\n\r\n",
        bytes.len()
    );
    let one = [head.as_bytes(), bytes].concat();
    stream.write_all(&one.repeat(2)).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_strangers_end_with_the_first_answer() {
    let network = Network::start().await;
    let client = Client::new(Version::V1_4);
    let request = client.request(client::get("an-id")).unwrap();
    let address = network.web().await;
    for (name, bytes) in [("nobody", &*request), ("n1", b"no frame")] {
        let answer = raw(&network, &address, name, bytes).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_in_their_form() {
    let network = Network::start().await;
    let http = http(&network, "nobody").await;
    let client = Client::new(Version::V1_4);
    for kind in [TTLV, JSON, XML] {
        let (_, answer) = ask(&http, kind, &client.request(client::get("an-id")).unwrap()).await;
        let reason = crate::common::refusal(client.answer(&answer));
        assert_eq!(reason, ResultReason::AuthenticationNotSuccessful, "{kind}");
    }
}
