//! Hostile clients at every port of a running KM. Each ends in the documented answer or in a
//! closed connection, within a bounded time; memory stays bounded; service goes on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use qkm_tests::{
    load::cpu::resident_mib,
    network::{End, Network, Options},
};
use rustls::{ClientConfig, RootCertStore, pki_types::pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use transport::{
    Profile, TlsFiles, client_config,
    pki::{DemoCa, San, Validity},
};

/// Nothing hostile may hold a connection longer than this while it says nothing useful.
const PATIENCE: Duration = Duration::from_secs(45);
/// What the whole table may add to a KM's resident memory.
const GROWTH_MIB: f64 = 96.0;

/// What a client got.
#[derive(Debug, PartialEq)]
enum Got {
    /// The handshake failed, or the connection was closed without a byte.
    Closed,
    /// Bytes, before the connection was closed or the answer was whole.
    Answer(Vec<u8>),
}

impl Got {
    fn http_status(&self) -> Option<u16> {
        let Got::Answer(bytes) = self else { return None };
        std::str::from_utf8(bytes.get(9..12)?).ok()?.parse().ok()
    }

    /// A KMIP response message whose one status is Operation Failed.
    fn is_kmip_refusal(&self) -> bool {
        const FAILED: [u8; 12] = [0x42, 0, 0x7F, 5, 0, 0, 0, 4, 0, 0, 0, 1];
        let Got::Answer(bytes) = self else { return false };
        bytes.starts_with(&[0x42, 0x00, 0x7B]) && bytes.windows(12).any(|w| w == FAILED)
    }
}

async fn connect(address: &str, config: Arc<ClientConfig>) -> Option<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await.ok()?;
    socket.set_nodelay(true).ok()?;
    let name = "127.0.0.1".try_into().unwrap();
    TlsConnector::from(config).connect(name, socket).await.ok()
}

/// Sends `bytes` and reads until the server closes or has been silent for a second after answering.
async fn send(address: &str, config: Arc<ClientConfig>, bytes: &[u8]) -> Got {
    let Some(mut stream) = connect(address, config).await else { return Got::Closed };
    // A server that has heard enough may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut part = [0; 4096];
        let wait =
            if answer.is_empty() { deadline - Instant::now() } else { Duration::from_secs(1) };
        match tokio::time::timeout(wait, stream.read(&mut part)).await {
            Ok(Ok(count)) if count > 0 => answer.extend_from_slice(&part[..count]),
            Err(_) if answer.is_empty() => panic!("{address} kept a hostile connection open"),
            _ => break,
        }
    }
    if answer.is_empty() { Got::Closed } else { Got::Answer(answer) }
}

fn front(files: &TlsFiles) -> Arc<ClientConfig> {
    client_config(files, Profile::Front).unwrap()
}

fn anonymous(ca: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// Every port that speaks TLS at one KM.
fn ports(network: &Network, end: End) -> [(&'static str, String); 4] {
    let site = network.site(end);
    [
        ("etsi014", site.etsi014.to_string()),
        ("kmip", site.kmip.to_string()),
        ("km_link", site.km_link.to_string()),
        ("admin", site.admin.to_string()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_missing_foreign_expired_or_unregistered() {
    let network = Network::start(Options::default()).await;
    let scratch = tempfile::tempdir().unwrap();
    let foreign = DemoCa::create(scratch.path()).unwrap();
    let name = [San::Uri("urn:qkm:sae:sae-n1".into())];
    let mut other_ca = foreign.issue("sae-n1", &name, Validity::days(1)).unwrap();
    other_ca.ca = network.layout().ca.clone();
    let ca = DemoCa::open(network.layout().ca.parent().unwrap()).unwrap();
    let expired = ca.issue("late-sae", &name, Validity::expired()).unwrap();
    let stranger = ca.issue("stranger", &[San::Uri("urn:who".into())], Validity::days(1)).unwrap();
    let get = b"GET /api/v1/keys/sae-s1/status HTTP/1.1\r\nHost: km\r\n\r\n";
    for (port, address) in ports(&network, End::South) {
        for (who, config) in [
            ("no certificate", anonymous(&network.layout().ca)),
            ("another CA", front(&other_ca)),
            ("expired", front(&expired)),
        ] {
            assert_eq!(send(&address, config, get).await, Got::Closed, "{who} at {port}");
        }
    }
    let site = network.site(End::South);
    let unregistered = send(&site.etsi014.to_string(), front(&stranger), get).await;
    assert_eq!(unregistered.http_status(), Some(401));
    let pools = b"GET /v1/pools HTTP/1.1\r\nHost: km\r\n\r\n";
    let admin = send(&site.admin.to_string(), front(&stranger), pools).await;
    assert!([Some(401), Some(403)].contains(&admin.http_status()));
    let query = kmip::client::Client::new(kmip::Version::V1_4)
        .request(kmip::client::get("00000000-0000-8000-8000-000000000000"))
        .unwrap();
    assert!(send(&site.kmip.to_string(), front(&stranger), &query).await.is_kmip_refusal());
    let link = client_config(&stranger, Profile::KmLink).unwrap();
    assert_eq!(send(&site.km_link.to_string(), link, b"").await, Got::Closed);
    let reasons = network.metrics_text(End::South).await;
    assert!(reasons.contains("qkm_front_handshake_failures_total"), "refusals are counted");
}

/// A frame of the KM link: length, version, body.
fn link_frame(length: u32, rest: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes(), rest].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bytes_at_every_port_end_in_an_answer_or_a_close_and_memory_stays_bounded() {
    let network = Network::start(Options::default()).await;
    network.stocked(End::South, 1000).await;
    // What the process needs for ordinary work is not counted.
    let south = network.etsi(End::South, "sae-s1");
    south.enc("sae-n1", 1).await.unwrap();
    let before = resident_mib(network.pid(End::South));
    let site = network.site(End::South);
    let sae = network.tls("sae-s1");

    http_table(&site.etsi014.to_string(), &sae).await;
    kmip_table(&site.kmip.to_string(), &sae).await;
    link_table(&site.km_link.to_string(), &network.tls("km-north")).await;
    half_open_and_slow(&network).await;

    let grown = resident_mib(network.pid(End::South)) - before;
    assert!(grown < GROWTH_MIB, "resident memory grew by {grown:.0} MiB");
    network
        .until("the link heals and service goes on", || async {
            south.enc("sae-n1", 1).await.is_ok_and(|said| said.status == 200)
        })
        .await;
}

async fn http_table(address: &str, files: &TlsFiles) {
    let post = |body: &str, length: usize| {
        let head = "POST /api/v1/keys/sae-n1/enc_keys HTTP/1.1\r\nHost: km\r\nContent-Length: ";
        format!("{head}{length}\r\n\r\n{body}").into_bytes()
    };
    let whole = |body: &str| post(body, body.len());
    let deep = "[".repeat(20_000);
    let long_uri = format!("GET /{} HTTP/1.1\r\nHost: km\r\n\r\n", "a".repeat(100_000));
    let many_heads = "X-A: b\r\n".repeat(5_000);
    let table: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("no HTTP", b"\x00\x01\x02\x03\r\n\r\n".to_vec(), &[400]),
        ("long URI", long_uri.into_bytes(), &[414, 431, 400]),
        ("many fields", format!("GET / HTTP/1.1\r\n{many_heads}\r\n").into_bytes(), &[431]),
        ("wrong path", b"GET /api/v1/nothing HTTP/1.1\r\nHost: km\r\n\r\n".to_vec(), &[404]),
        (
            "method",
            b"DELETE /api/v1/keys/sae-n1/status HTTP/1.1\r\nHost: km\r\n\r\n".to_vec(),
            &[405],
        ),
        ("no JSON", whole("{number: 1}"), &[400]),
        ("deep JSON", whole(&deep), &[400]),
        ("wrong types", whole(r#"{"number":"one"}"#), &[400]),
        ("negative", whole(r#"{"number":-1}"#), &[400]),
        ("huge number", whole(r#"{"number":99999999999999999999}"#), &[400]),
        ("too many keys", whole(r#"{"number":1000000}"#), &[400]),
        ("size 7", whole(r#"{"size":7}"#), &[400]),
        ("huge size", whole(r#"{"size":4294967288}"#), &[400]),
        ("huge body", post("{", 1 << 40), &[413, 400]),
        ("not UTF-8", [post("", 2), vec![0xFF, 0xFE]].concat(), &[400]),
    ];
    for (what, bytes, statuses) in table {
        let got = send(address, front(files), &bytes).await;
        let status = got.http_status();
        assert!(
            status.is_some_and(|status| statuses.contains(&status)),
            "{what}: expected {statuses:?}, got {status:?} {got:?}"
        );
    }
}

async fn kmip_table(address: &str, files: &TlsFiles) {
    let good = kmip::client::Client::new(kmip::Version::V1_4)
        .request(kmip::client::get("no-such-object"))
        .unwrap();
    let changed = |at: usize, byte: u8| {
        let mut frame = good.to_vec();
        frame[at] = byte;
        frame
    };
    let mut nested = Vec::new();
    for depth in (0..200u32).rev() {
        nested.splice(0..0, [&[0x42, 0, 0x78, 1][..], &(depth * 8).to_be_bytes()].concat());
    }
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("not found", good.to_vec()),
        ("wrong outer tag", changed(2, 0x79)),
        ("wrong outer type", changed(3, 2)),
        ("length beyond the cap", [&[0x42, 0, 0x78, 1][..], &[0x7F, 0xFF, 0xFF, 0xF0]].concat()),
        ("header only", [&[0x42, 0, 0x78, 1][..], &[0; 4]].concat()),
        ("deep nesting", nested),
        ("wrong inner type", changed(11, 7)),
        ("inner length too long", changed(15, 0xF0)),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("noise", (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
    ];
    for (what, bytes) in table {
        let got = send(address, front(files), &bytes).await;
        assert!(got == Got::Closed || got.is_kmip_refusal(), "{what}: {got:?}");
    }
}

/// With the certificate of the true peer: even that may not break the KM.
async fn link_table(address: &str, peer: &TlsFiles) {
    let config = client_config(peer, Profile::KmLink).unwrap();
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("oversize length", link_frame(u32::MAX, b"")),
        ("length zero", link_frame(0, b"")),
        ("another version", link_frame(2, &[99, 0])),
        ("unknown message", link_frame(3, &[1, 250, 0])),
        (
            "a list of 2^40 items",
            link_frame(12, &[1, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x1F, 0, 0, 0, 0]),
        ),
        ("a ping before the greeting", link_frame(3, &[1, 11, 1])),
        ("silence", Vec::new()),
    ];
    for (what, bytes) in table {
        // The KM greets first; then it must close by itself.
        let Some(mut stream) = connect(address, config.clone()).await else { continue };
        let _ = stream.write_all(&bytes).await;
        let _ = stream.flush().await;
        let mut sink = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut sink)).await;
        assert!(closed.is_ok(), "{what}: the link stayed open");
        assert!(sink.len() < 1 << 20, "{what}: {} bytes came back", sink.len());
    }
}

/// Connections that never get to the point, many at once.
async fn half_open_and_slow(network: &Network) {
    let sae = network.tls("sae-s1");
    let mut waiting = tokio::task::JoinSet::new();
    for (port, address) in ports(network, End::South) {
        if port == "admin" || port == "km_link" {
            continue;
        }
        for _ in 0..100 {
            // TCP only: the handshake never comes.
            let address = address.clone();
            waiting.spawn(async move {
                let mut socket = TcpStream::connect(&address).await.unwrap();
                let closed = tokio::time::timeout(PATIENCE, socket.read(&mut [0; 64])).await;
                assert!(closed.is_ok(), "{port}: a silent socket was kept");
            });
        }
        for _ in 0..20 {
            // The beginning of a request, then a byte now and then, and never the end.
            let (address, config) = (address.clone(), front(&sae));
            let start: &[u8] = if port == "kmip" { &[0x42, 0, 0x78, 1, 0, 0] } else { b"GET /api" };
            waiting.spawn(async move {
                let mut stream = connect(&address, config).await.unwrap();
                stream.write_all(start).await.unwrap();
                let since = Instant::now();
                let mut closed = false;
                while !closed && since.elapsed() < PATIENCE {
                    let mut part = [0; 512];
                    let read = stream.read(&mut part);
                    closed = match tokio::time::timeout(Duration::from_secs(2), read).await {
                        Ok(Ok(count)) => count == 0,
                        Ok(Err(_)) => true,
                        Err(_) => stream.write_all(b"0").await.is_err(),
                    };
                }
                assert!(closed, "{port}: a slow sender was kept");
            });
        }
    }
    while let Some(done) = waiting.join_next().await {
        done.unwrap();
    }
}
