//! Who is let in, who is not, and that the accept loop stays bounded.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    os::unix::fs::PermissionsExt, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration,
};

use common::{PATIENCE, Pki, Server, eventually};
use rustls::{ClientConfig, ProtocolVersion, crypto::aws_lc_rs, version::TLS12};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use transport::{
    HandshakeFailure, IdentityRule, ListenerLimits, PeerIdentity, Profile, ServerStream, Shutdown,
    TlsError, TlsFiles, client_config, pki::Validity, server_config,
};

async fn greet(mut stream: ServerStream, peer: PeerIdentity, _: Shutdown) {
    let rules = ["uri:urn:qkm:sae:ada", "dns:ADA.example", "cn:ada", "uri:urn:qkm:sae:eve", "cn:a"];
    let matches = rules.map(|r| peer.matches(&r.parse::<IdentityRule>().unwrap()));
    stream.write_all(format!("{matches:?}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

async fn front(pki: &Pki) -> Server {
    Server::start(pki, Profile::Front, ListenerLimits::default(), greet).await
}

/// Connects with any configuration and reads to the end; TLS 1.3 clients learn of a refusal here.
async fn talk(server: &Server, config: Arc<ClientConfig>) -> std::io::Result<String> {
    let tcp = TcpStream::connect(&server.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let talk = async {
        let mut stream = TlsConnector::from(config).connect(name, tcp).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    };
    timeout(PATIENCE, talk).await.expect("refused or served in time")
}

/// Unlike [`client_config`], with any versions and optionally without a certificate.
fn custom(pki: &Pki, certificate: bool, tls12: bool) -> Arc<ClientConfig> {
    custom_with(pki, certificate, tls12, aws_lc_rs::ALL_KX_GROUPS)
}

fn custom_with(
    pki: &Pki,
    certificate: bool,
    tls12: bool,
    groups: &[&'static dyn rustls::crypto::SupportedKxGroup],
) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = groups.to_vec();
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let read = |path| CertificateDer::from_pem_file(path).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(read(pki.ca.ca())).unwrap();
    let versions = if tls12 { &[&TLS12][..] } else { rustls::ALL_VERSIONS };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    if !certificate {
        return Arc::new(builder.with_no_client_auth());
    }
    let key = PrivateKeyDer::from_pem_file(&pki.client.key).unwrap();
    let chain = vec![read(pki.client.certificate.clone())];
    Arc::new(builder.with_client_auth_cert(chain, key).unwrap())
}

#[tokio::test]
async fn the_identity_is_the_certificates() {
    let pki = Pki::new();
    let server = front(&pki).await;
    let config = client_config(&pki.client, Profile::Front).unwrap();
    assert_eq!(talk(&server, config).await.unwrap(), "[true, true, true, false, false]");
}

#[tokio::test]
async fn no_client_certificate_is_refused() {
    let pki = Pki::new();
    let server = front(&pki).await;
    assert!(talk(&server, custom(&pki, false, false)).await.is_err());
    server.saw(HandshakeFailure::NoCertificate).await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused() {
    let pki = Pki::new();
    let server = front(&pki).await;
    let config = client_config(&pki.foreign_client(), Profile::Front).unwrap();
    assert!(talk(&server, config).await.is_err());
    server.saw(HandshakeFailure::UnknownIssuer).await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let pki = Pki::new();
    let server = front(&pki).await;
    let old = pki.ca.issue("old", &[], Validity::expired()).unwrap();
    assert!(talk(&server, client_config(&old, Profile::Front).unwrap()).await.is_err());
    server.saw(HandshakeFailure::Expired).await;
}

#[tokio::test]
async fn the_client_refuses_a_server_of_another_ca_or_name() {
    let pki = Pki::new();
    let server = front(&pki).await;
    let other = TlsFiles { ca: pki.foreign_ca(), ..pki.client.clone() };
    assert!(talk(&server, client_config(&other, Profile::Front).unwrap()).await.is_err());
    server.saw(HandshakeFailure::RefusedByClient).await;

    let config = client_config(&pki.client, Profile::Front).unwrap();
    let client = transport::TlsClient::new(&server.address, Some("elsewhere"), config).unwrap();
    let error = client.connect(PATIENCE).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, transport::ConnectError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn tls_1_2_works_on_fronts_only() {
    let pki = Pki::new();
    let server = front(&pki).await;
    assert!(talk(&server, custom(&pki, true, true)).await.unwrap().starts_with("[true"));

    let link = Server::start(&pki, Profile::KmLink, ListenerLimits::default(), greet).await;
    assert!(talk(&link, custom(&pki, true, true)).await.is_err());
    link.saw(HandshakeFailure::Protocol).await;
}

/// As appliances do that are given an address, and PyKMIP always.
#[tokio::test]
async fn clients_that_name_no_server_are_served() {
    let pki = Pki::new();
    let server = front(&pki).await;
    for tls12 in [true, false] {
        let mut config = ClientConfig::clone(&custom(&pki, true, tls12));
        config.enable_sni = false;
        let served = talk(&server, Arc::new(config)).await.unwrap();
        assert!(served.starts_with("[true"), "TLS 1.2: {tls12}");
    }
}

#[tokio::test]
async fn a_km_link_needs_the_hybrid_exchange_and_its_alpn() {
    let pki = Pki::new();
    let link = Server::start(&pki, Profile::KmLink, ListenerLimits::default(), greet).await;
    let stream = link.connect(&pki.client, Profile::KmLink).await;
    let session = stream.get_ref().1;
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = session.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);

    let no_alpn = custom(&pki, true, false);
    assert!(!matches!(talk(&link, no_alpn).await, Ok(text) if !text.is_empty()));
    link.saw(HandshakeFailure::Protocol).await;

    let mut classical = (*custom_with(&pki, true, false, &[aws_lc_rs::kx_group::X25519])).clone();
    classical.alpn_protocols = vec![transport::KM_LINK_ALPN.to_vec()];
    assert!(talk(&link, Arc::new(classical)).await.is_err());
    eventually(|| link.stats.failures(HandshakeFailure::Protocol) == 2).await;
}

#[tokio::test]
async fn sessions_resume_with_the_same_identity() {
    let pki = Pki::new();
    let server = front(&pki).await;
    for config in [client_config(&pki.client, Profile::Front).unwrap(), custom(&pki, true, true)] {
        let before = server.stats.resumed.load(Relaxed);
        for _ in 0..2 {
            assert!(talk(&server, config.clone()).await.unwrap().starts_with("[true, true, true"));
        }
        assert_eq!(server.stats.resumed.load(Relaxed), before + 1);
    }
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_and_places_return() {
    let pki = Pki::new();
    let limits = ListenerLimits { connections: 2, ..ListenerLimits::default() };
    let hold = |mut stream: ServerStream, _, _| async move {
        let _ = stream.read_u8().await;
    };
    let server = Server::start(&pki, Profile::Front, limits, hold).await;
    let first = server.connect(&pki.client, Profile::Front).await;
    let _second = server.connect(&pki.client, Profile::Front).await;
    let config = client_config(&pki.client, Profile::Front).unwrap();
    assert!(talk(&server, config.clone()).await.is_err());
    assert_eq!(server.stats.refused_by_cap.load(Relaxed), 1);
    drop(first);
    eventually(|| server.stats.active.load(Relaxed) == 1).await;
    let _third = server.connect(&pki.client, Profile::Front).await;
}

#[tokio::test]
async fn a_silent_or_wrong_client_is_cut_at_the_handshake_deadline() {
    let pki = Pki::new();
    let limits = ListenerLimits { handshake: Duration::from_millis(200), ..Default::default() };
    let server = Server::start(&pki, Profile::Front, limits, greet).await;
    let mut silent = TcpStream::connect(&server.address).await.unwrap();
    let end = timeout(PATIENCE, silent.read(&mut [0; 16])).await.expect("closed in time");
    assert!(matches!(end, Ok(0) | Err(_)));
    server.saw(HandshakeFailure::Timeout).await;

    let mut plain = TcpStream::connect(&server.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut rest)).await.expect("closed in time");
    server.saw(HandshakeFailure::Protocol).await;
}

#[tokio::test]
async fn shutdown_lets_handlers_finish_and_cuts_the_rest() {
    let pki = Pki::new();
    let limits = ListenerLimits { grace: Duration::from_millis(300), ..Default::default() };
    let handler = |mut stream: ServerStream, _, shutdown: Shutdown| async move {
        shutdown.requested().await;
        stream.write_all(b"bye").await.unwrap();
        stream.shutdown().await.unwrap();
        std::future::pending::<()>().await;
    };
    let server = Server::start(&pki, Profile::Front, limits, handler).await;
    let mut stream = server.connect(&pki.client, Profile::Front).await;
    eventually(|| server.stats.handshakes.load(Relaxed) == 1).await;
    server.stop.start();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "bye");
    timeout(PATIENCE, server.ended).await.expect("ended in time").unwrap();
    assert_eq!(server.stats.active.load(Relaxed), 0);
    assert!(TcpStream::connect(&server.address).await.is_err());
}

#[tokio::test]
async fn a_panicking_handler_costs_only_its_connection() {
    let pki = Pki::new();
    let count = std::sync::atomic::AtomicU64::new(0);
    let handler = move |stream: ServerStream, peer, shutdown| {
        let first = count.fetch_add(1, Relaxed) == 0;
        async move {
            assert!(!first, "the first connection panics, as this test wants");
            greet(stream, peer, shutdown).await;
        }
    };
    let server = Server::start(&pki, Profile::Front, ListenerLimits::default(), handler).await;
    let config = client_config(&pki.client, Profile::Front).unwrap();
    assert!(talk(&server, config.clone()).await.is_err());
    assert!(talk(&server, config).await.unwrap().starts_with("[true"));
    eventually(|| server.stats.active.load(Relaxed) == 0).await;
}

#[test]
fn demo_keys_are_private_and_never_overwritten() {
    let pki = Pki::new();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(pki.server.key.clone()), 0o600);
    assert_eq!(mode(pki.ca.ca().with_file_name("ca.key")), 0o600);
    assert!(pki.ca.issue("server", &[], Validity::days(1)).is_err());
    assert!(pki.ca.issue("../server", &[], Validity::days(1)).is_err());
}

#[test]
fn wrong_files_are_named() {
    let pki = Pki::new();
    let error = |files: &TlsFiles| server_config(files, Profile::Front).map(|_| ()).unwrap_err();

    let missing = TlsFiles { ca: pki.dir.path().join("nowhere.crt"), ..pki.server.clone() };
    assert!(error(&missing).to_string().contains("nowhere.crt"), "{}", error(&missing));

    let no_certificate = TlsFiles { certificate: pki.server.key.clone(), ..pki.server.clone() };
    assert!(matches!(error(&no_certificate), TlsError::Nothing { wanted: "certificate", .. }));
    let no_key = TlsFiles { key: pki.server.certificate.clone(), ..pki.server.clone() };
    std::fs::set_permissions(&no_key.key, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(matches!(error(&no_key), TlsError::Nothing { wanted: "private key", .. }));

    let mixed = TlsFiles { key: pki.client.key.clone(), ..pki.server.clone() };
    assert!(matches!(error(&mixed), TlsError::Mismatch { .. }), "{}", error(&mixed));

    std::fs::set_permissions(&pki.server.key, PermissionsExt::from_mode(0o644)).unwrap();
    let exposed = error(&pki.server);
    assert!(matches!(exposed, TlsError::Exposed { mode: 0o644, .. }), "{exposed}");
    assert!(client_config(&pki.server, Profile::Front).is_err());
}
