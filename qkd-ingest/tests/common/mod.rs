//! What the tests of [`qkd_ingest::Module`] share: certificates and a TLS server.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::{future::Future, sync::Arc, time::Duration};

use km_core::{
    module::{ModuleError, ModuleKey},
    provenance::{Origin, Provenance},
};
use qkd_ingest::{Module, ModuleConfig};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::timeout};
use transport::{
    ListenerLimits, ListenerStats, PeerIdentity, Profile, ServerStream, Shutdown, ShutdownHandle,
    TlsFiles, client_config,
    pki::{DemoCa, San, Validity},
    serve, server_config,
};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Pki {
    _dir: TempDir,
    pub ca: DemoCa,
}

impl Pki {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = DemoCa::create(dir.path()).unwrap();
        Self { _dir: dir, ca }
    }

    pub fn server(&self, name: &str) -> TlsFiles {
        self.ca.issue(name, &San::loopback(), Validity::days(1)).unwrap()
    }

    /// A module client with the certificate `name`, issued now.
    pub fn module(&self, name: &str, config: ModuleConfig) -> Arc<Module> {
        let files = self.ca.issue(name, &[], Validity::days(1)).unwrap();
        Module::new(config, client_config(&files, Profile::Front).unwrap()).unwrap()
    }
}

/// A TLS server on loopback; ends when the handle is dropped.
pub async fn start<H, F>(files: &TlsFiles, handler: H) -> (String, ShutdownHandle)
where
    H: Fn(ServerStream, PeerIdentity, Shutdown) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, shutdown) = Shutdown::pair();
    let tls = server_config(files, Profile::Front).unwrap();
    let heard = shutdown.clone();
    let handler = move |stream, peer| handler(stream, peer, heard.clone());
    let stats = Arc::new(ListenerStats::default());
    tokio::spawn(serve(listener, tls, ListenerLimits::default(), stats, handler, shutdown));
    (address, stop)
}

/// Repeats `step` until it gives something.
pub async fn eventually<T>(mut step: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(value) = step().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("never happened")
}

pub fn ids(keys: &[ModuleKey]) -> Vec<String> {
    keys.iter().map(|key| key.id.clone()).collect()
}

pub fn assert_same(a: &[ModuleKey], b: &[ModuleKey]) {
    assert_eq!(ids(a), ids(b));
    assert!(a.iter().zip(b).all(|(a, b)| a.bytes == b.bytes));
}

pub fn is_unavailable<T>(result: &Result<T, ModuleError>) -> bool {
    matches!(result, Err(ModuleError::Unavailable(_)))
}

/// What the other end says of its keys; a module does not look.
pub fn came() -> Provenance {
    Provenance::local(Origin::HsmRng)
}
