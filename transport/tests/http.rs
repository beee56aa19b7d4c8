//! HTTP over mutual TLS: limits, deadlines, keep-alive.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use common::{PATIENCE, Pki, Server, eventually};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use transport::{
    IdentityRule, ListenerLimits, Profile, TlsClientStream, client_config,
    http::{
        BodyError, ClientError, ClientLimits, HttpClient, HttpLimits, peer, read_body, secret_body,
        serve_http,
    },
};
use wiped::Wiped;

const MAX_BODY: usize = 64 * 1024;

/// `/who` names the peer, `/hang` never answers, `/long` is 2 MiB, anything else echoes its body.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let who = peer(&request).expect("always present").to_string();
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/who" => Response::new(secret_body(Wiped::new(who.into_bytes()))),
        "/hang" => std::future::pending().await,
        "/long" => Response::new(secret_body(Wiped::new(vec![b'x'; 2 << 20]))),
        _ => match read_body(request.into_body(), MAX_BODY, PATIENCE).await {
            Ok(body) => Response::new(secret_body(body)),
            Err(BodyError::TooLarge { .. }) => status(413),
            Err(_) => status(408),
        },
    })
}

fn status(code: u16) -> Response<Full<Bytes>> {
    Response::builder().status(code).body(Full::default()).unwrap()
}

async fn start(pki: &Pki, limits: HttpLimits) -> Server {
    Server::start(pki, Profile::Front, ListenerLimits::default(), move |stream, peer, shutdown| {
        serve_http(stream, peer, service_fn(answer), limits.clone(), shutdown)
    })
    .await
}

fn client(server: &Server, pki: &Pki, limits: ClientLimits) -> HttpClient {
    let config = client_config(&pki.client, Profile::Front).unwrap();
    HttpClient::new(&server.address, None, config, limits).unwrap()
}

/// Sends bytes as they are and reads until the server closes.
async fn raw(stream: &mut TlsClientStream, bytes: &[u8]) -> String {
    // The server may refuse and close before it has taken everything.
    let _ = stream.write_all(bytes).await;
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed in time");
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn requests_share_a_connection_and_carry_the_identity() {
    let pki = Pki::new();
    let server = start(&pki, HttpLimits::default()).await;
    let client = client(&server, &pki, ClientLimits::default());
    for _ in 0..3 {
        let (status, body) = client.get("/who").await.unwrap();
        assert_eq!(status, 200);
        assert!(body.starts_with(b"ada sha256:"));
    }
    let sent = vec![0xAA; 50_000];
    let (_, echoed) = client.post("/", Wiped::new(sent.clone())).await.unwrap();
    assert_eq!(*echoed, sent);
    assert_eq!(server.stats.handshakes.load(Relaxed), 1);
}

#[tokio::test]
async fn close_drops_the_connection_and_the_next_request_connects_again() {
    let pki = Pki::new();
    let server = start(&pki, HttpLimits::default()).await;
    let client = client(&server, &pki, ClientLimits::default());
    client.get("/who").await.unwrap();
    client.close().await;
    eventually(|| server.stats.active.load(Relaxed) == 0).await;
    client.get("/who").await.unwrap();
    assert_eq!(server.stats.handshakes.load(Relaxed), 2);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_the_client_recovers() {
    let pki = Pki::new();
    let limits = HttpLimits { idle: Duration::from_millis(100), ..Default::default() };
    let server = start(&pki, limits).await;
    let client = client(&server, &pki, ClientLimits::default());
    for expected in 1..=3 {
        assert_eq!(client.get("/who").await.unwrap().0, 200);
        assert_eq!(server.stats.handshakes.load(Relaxed), expected);
        eventually(|| server.stats.active.load(Relaxed) == 0).await;
        // The client's side must hear of it too.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn the_client_does_not_reuse_what_lay_idle_too_long() {
    let pki = Pki::new();
    let server = start(&pki, HttpLimits::default()).await;
    let client = client(&server, &pki, ClientLimits { idle: Duration::ZERO, ..Default::default() });
    client.get("/who").await.unwrap();
    client.get("/who").await.unwrap();
    assert_eq!(server.stats.handshakes.load(Relaxed), 2);
}

#[tokio::test]
async fn an_open_connection_outlives_the_head_and_request_deadlines() {
    let pki = Pki::new();
    let short = Duration::from_millis(400);
    let limits = HttpLimits { head: short, request: short, idle: PATIENCE, ..Default::default() };
    let server = start(&pki, limits).await;
    let client = client(&server, &pki, ClientLimits::default());
    for _ in 0..2 {
        client.get("/who").await.unwrap();
        tokio::time::sleep(2 * short).await;
    }
    assert_eq!(server.stats.handshakes.load(Relaxed), 1);
}

#[tokio::test]
async fn slow_loris_is_closed_in_head_and_body() {
    let pki = Pki::new();
    let short = Duration::from_millis(200);
    let limits = HttpLimits { head: short, request: short, ..Default::default() };
    let server = start(&pki, limits).await;
    let starts: [&[u8]; 4] = [
        b"",
        b"GET /who HT",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n123",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    ];
    for start in starts {
        let mut stream = server.connect(&pki.client, Profile::Front).await;
        let answer = raw(&mut stream, start).await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    let mut dripping = server.connect(&pki.client, Profile::Front).await;
    let drip = async {
        while dripping.write_all(b"x").await.is_ok() && dripping.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, drip).await.expect("one byte now and then does not keep a head open");
}

#[tokio::test]
async fn a_request_that_hangs_is_cut() {
    let pki = Pki::new();
    let limits = HttpLimits { request: Duration::from_millis(500), ..Default::default() };
    let server = start(&pki, limits).await;
    let client = client(&server, &pki, ClientLimits::default());
    assert!(matches!(client.get("/hang").await, Err(ClientError::Broken { .. })));
    assert_eq!(client.get("/who").await.unwrap().0, 200);
}

#[tokio::test]
async fn large_heads_and_bodies_are_refused() {
    let pki = Pki::new();
    let server = start(&pki, HttpLimits::default()).await;
    let long = "a".repeat(40_000);
    let heads = [
        format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(200)),
    ];
    for head in heads {
        let mut stream = server.connect(&pki.client, Profile::Front).await;
        let answer = raw(&mut stream, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4") || answer.is_empty(), "{answer}");
    }
    let mut stream = server.connect(&pki.client, Profile::Front).await;
    let announced = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999\r\n\r\n";
    assert!(raw(&mut stream, announced).await.starts_with("HTTP/1.1 413"));

    let mut stream = server.connect(&pki.client, Profile::Front).await;
    let mut chunked = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..5 {
        chunked.extend_from_slice(b"4000\r\n");
        chunked.extend_from_slice(&[b'x'; 0x4000]);
        chunked.extend_from_slice(b"\r\n");
    }
    assert!(raw(&mut stream, &chunked).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn the_client_bounds_answers_time_and_servers() {
    let pki = Pki::new();
    let server = start(&pki, HttpLimits::default()).await;
    let limits = ClientLimits { request: Duration::from_millis(300), ..Default::default() };
    let impatient = client(&server, &pki, limits);
    assert!(matches!(impatient.get("/hang").await, Err(ClientError::Timeout { .. })));
    assert!(matches!(
        client(&server, &pki, ClientLimits::default()).get("/long").await,
        Err(ClientError::Answer { source: BodyError::TooLarge { .. }, .. })
    ));
    let rule: IdentityRule = "cn:another".parse().unwrap();
    let wary = client(&server, &pki, ClientLimits::default()).expecting(rule);
    assert!(matches!(wary.get("/who").await, Err(ClientError::WrongServer { .. })));
    let nobody = HttpClient::new(
        "127.0.0.1:1",
        None,
        client_config(&pki.client, Profile::Front).unwrap(),
        ClientLimits::default(),
    );
    assert!(matches!(nobody.unwrap().get("/").await, Err(ClientError::Connect(_))));
}

#[tokio::test]
async fn shutdown_answers_the_request_under_way_then_closes() {
    let pki = Pki::new();
    let begun = Arc::new(AtomicBool::new(false));
    let seen = begun.clone();
    let handler = move |stream, peer, shutdown| {
        let seen = seen.clone();
        let service = service_fn(move |request| {
            seen.store(true, Relaxed);
            answer(request)
        });
        serve_http(stream, peer, service, HttpLimits::default(), shutdown)
    };
    let server = Server::start(&pki, Profile::Front, ListenerLimits::default(), handler).await;
    let mut stream = server.connect(&pki.client, Profile::Front).await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
    eventually(|| begun.load(Relaxed)).await;
    server.stop.start();
    let answer = raw(&mut stream, b"cd").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("abcd"), "{answer}");
    timeout(PATIENCE, server.ended).await.expect("ended in time").unwrap();
}
