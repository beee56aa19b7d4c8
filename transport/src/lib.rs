//! Mutual TLS and sockets, shared by every front (KMIP, ETSI 014, admin) and every door (QKD
//! modules, KM links). Nothing here knows a protocol beyond TLS and HTTP/1.1.
//!
//! - [`TlsFiles`] with [`server_config`] / [`client_config`] and a [`Profile`]: the only way to a
//!   TLS configuration.
//! - [`serve`]: the one accept loop. It hands a verified [`PeerIdentity`] with each stream.
//! - [`http`]: HTTP/1.1 over one such stream, and a keep-alive client.
//! - [`Directory`]: whom a verified certificate stands for.
//! - [`Deadline`]: the cheap idle and step deadlines for handlers.
//! - [`Shutdown`]: the orderly end, given to everything that runs.
//! - [`pki`]: certificates for demonstrations and tests only.

mod deadline;
mod directory;
mod files;
pub mod http;
mod identity;
mod listener;
pub mod pki;
mod shutdown;
mod stats;
mod tls;

pub use deadline::Deadline;
pub use directory::Directory;
pub use files::{TlsError, TlsFiles};
pub use identity::{IdentityError, IdentityRule, PeerIdentity};
pub use listener::{ListenerLimits, ServerStream, serve};
pub use rustls::{ClientConfig, ServerConfig};
pub use shutdown::{Shutdown, ShutdownHandle};
pub use stats::{HandshakeFailure, ListenerStats};
pub use tls::{
    ConnectError, KM_LINK_ALPN, Profile, TlsClient, TlsClientStream, client_config, server_config,
};
