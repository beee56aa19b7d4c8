//! TLS configurations. Enter through [`server_config`] and [`client_config`].
//!
//! The cryptographic provider is always given explicitly (aws-lc-rs); the process default is
//! neither read nor set.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, ServerConfig, SupportedProtocolVersion,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    files::{TlsError, TlsFiles, unusable},
    identity::{IdentityError, PeerIdentity},
};

/// The application protocol both ends of a KM link must name.
pub const KM_LINK_ALPN: &[u8] = b"qkm-link/1";

static LINK_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13];

/// Sessions a client remembers for resumption (one per server name is used).
const CLIENT_SESSIONS: usize = 64;

/// What kind of connection a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Applications, operators and QKD modules: TLS 1.2 and 1.3, resumption, no SNI needed.
    Front,
    /// Between key managers: TLS 1.3 only, X25519MLKEM768 only, ALPN [`KM_LINK_ALPN`], and every
    /// connection a full handshake.
    KmLink,
}

impl Profile {
    fn provider(self) -> Arc<CryptoProvider> {
        let mut provider = aws_lc_rs::default_provider();
        if self == Profile::KmLink {
            provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
        }
        Arc::new(provider)
    }

    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Profile::Front => rustls::ALL_VERSIONS,
            Profile::KmLink => LINK_VERSIONS,
        }
    }

    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Profile::Front => Vec::new(),
            Profile::KmLink => vec![KM_LINK_ALPN.to_vec()],
        }
    }
}

/// A server that lets nobody in without a certificate issued by `files.ca`.
pub fn server_config(files: &TlsFiles, profile: Profile) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = profile.provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(files.roots()?), provider.clone())
            .build()
            .map_err(|e| unusable(&files.ca, &e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(profile.versions())
        .map_err(|e| unusable(&files.certificate, &e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(files.chain()?, files.private_key()?)
        .map_err(|e| files.pair_error(&e))?;
    config.alpn_protocols = profile.alpn();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match profile {
        // Tickets keep the server's memory bounded whatever the number of clients.
        Profile::Front => {
            config.ticketer =
                aws_lc_rs::Ticketer::new().map_err(|e| unusable(&files.certificate, &e))?;
            config.send_tls13_tickets = 1;
        }
        Profile::KmLink => config.send_tls13_tickets = 0,
    }
    Ok(Arc::new(config))
}

/// A client that shows its certificate and accepts servers issued by `files.ca` under the name
/// it asks for.
pub fn client_config(files: &TlsFiles, profile: Profile) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(profile.provider())
        .with_protocol_versions(profile.versions())
        .map_err(|e| unusable(&files.certificate, &e))?
        .with_root_certificates(files.roots()?)
        .with_client_auth_cert(files.chain()?, files.private_key()?)
        .map_err(|e| files.pair_error(&e))?;
    config.alpn_protocols = profile.alpn();
    config.resumption = match profile {
        Profile::Front => Resumption::in_memory_sessions(CLIENT_SESSIONS),
        Profile::KmLink => Resumption::disabled(),
    };
    Ok(Arc::new(config))
}

/// A client's end of a TLS connection.
pub type TlsClientStream = tokio_rustls::client::TlsStream<TcpStream>;

/// Why no connection to a server came about. All may be tried again; `Name` will fail again.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not finished in time.
    #[error("connecting to {address} took longer than {limit:?}")]
    Timeout {
        /// `host:port`.
        address: String,
        /// The deadline.
        limit: Duration,
    },
    /// The name does not resolve or nobody answers there.
    #[error("cannot reach {address}: {source}")]
    Reach {
        /// `host:port`.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// One side refused the other's certificate, version or algorithms.
    #[error("TLS with {address} failed: {source}. Check both certificates and their CAs")]
    Tls {
        /// `host:port`.
        address: String,
        /// What TLS said.
        source: io::Error,
    },
    /// The server's certificate cannot be read as an identity.
    #[error("the certificate of {address}: {source}")]
    Identity {
        /// `host:port`.
        address: String,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// The configured name is neither a DNS name nor an IP address.
    #[error("{name:?} is not a server name: {source}. Give a DNS name or an IP address")]
    Name {
        /// The name.
        name: String,
        /// Why.
        source: InvalidDnsNameError,
    },
    /// The address is not `host:port`.
    #[error("{address:?} is not an address. Give host:port, for example km1.example:8443")]
    Address {
        /// The text.
        address: String,
    },
}

/// Opens TLS connections to one server address.
#[derive(Clone)]
pub struct TlsClient {
    address: String,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl TlsClient {
    /// For the server at `address` (`host:port`, IPv6 in brackets), whose certificate must carry
    /// `name`, or the host part when `None`.
    pub fn new(
        address: &str,
        name: Option<&str>,
        config: Arc<ClientConfig>,
    ) -> Result<Self, ConnectError> {
        let bad = || ConnectError::Address { address: address.to_owned() };
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        port.parse::<u16>().map_err(|_| bad())?;
        let name = name.unwrap_or(host).trim_matches(['[', ']']).to_owned();
        let server = ServerName::try_from(name.clone())
            .map_err(|source| ConnectError::Name { name, source })?;
        Ok(Self { address: address.to_owned(), name: server, connector: config.into() })
    }

    /// The `host:port` it connects to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Connects and completes the handshake within `limit`; the identity is the server's.
    pub async fn connect(
        &self,
        limit: Duration,
    ) -> Result<(TlsClientStream, PeerIdentity), ConnectError> {
        tokio::time::timeout(limit, self.connect_unbounded())
            .await
            .map_err(|_| ConnectError::Timeout { address: self.address.clone(), limit })?
    }

    async fn connect_unbounded(&self) -> Result<(TlsClientStream, PeerIdentity), ConnectError> {
        let address = || self.address.clone();
        let reach = |source| ConnectError::Reach { address: address(), source };
        let tcp = TcpStream::connect(&self.address).await.map_err(reach)?;
        tcp.set_nodelay(true).map_err(reach)?;
        let stream = self
            .connector
            .connect(self.name.clone(), tcp)
            .await
            .map_err(|source| ConnectError::Tls { address: address(), source })?;
        let (socket, session) = stream.get_ref();
        let from: SocketAddr = socket.peer_addr().map_err(reach)?;
        let identity = PeerIdentity::from_chain(session.peer_certificates(), from)
            .map_err(|source| ConnectError::Identity { address: address(), source })?;
        Ok((stream, identity))
    }
}
