//! A CA, a server and its clients for the tests of this crate.
#![allow(dead_code)]

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use transport::{
    HandshakeFailure, ListenerLimits, ListenerStats, PeerIdentity, Profile, ServerStream, Shutdown,
    ShutdownHandle, TlsClient, TlsClientStream, TlsFiles, client_config,
    pki::{DemoCa, San, Validity},
    serve, server_config,
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Pki {
    pub(crate) dir: TempDir,
    pub(crate) ca: DemoCa,
    pub(crate) server: TlsFiles,
    pub(crate) client: TlsFiles,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = DemoCa::create(&dir.path().join("ca")).unwrap();
        let server = ca.issue("server", &San::loopback(), Validity::days(1)).unwrap();
        let names = [San::Uri("urn:qkm:sae:ada".into()), San::Dns("Ada.Example".into())];
        let client = ca.issue("ada", &names, Validity::days(1)).unwrap();
        Self { dir, ca, server, client }
    }

    pub(crate) fn foreign_ca(&self) -> std::path::PathBuf {
        DemoCa::create(&self.dir.path().join("stranger")).unwrap().ca()
    }

    /// The client's files of another CA, which trusts our server all the same.
    pub(crate) fn foreign_client(&self) -> TlsFiles {
        let other = DemoCa::create(&self.dir.path().join("other")).unwrap();
        let files = other.issue("eve", &[], Validity::days(1)).unwrap();
        TlsFiles { ca: self.ca.ca(), ..files }
    }
}

pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) stats: Arc<ListenerStats>,
    pub(crate) stop: ShutdownHandle,
    pub(crate) shutdown: Shutdown,
    pub(crate) ended: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start<H, F>(
        pki: &Pki,
        profile: Profile,
        limits: ListenerLimits,
        handler: H,
    ) -> Self
    where
        H: Fn(ServerStream, PeerIdentity, Shutdown) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stats = Arc::new(ListenerStats::default());
        let (stop, shutdown) = Shutdown::pair();
        let tls = server_config(&pki.server, profile).unwrap();
        let heard = shutdown.clone();
        let handler = move |stream, peer| handler(stream, peer, heard.clone());
        let ended =
            tokio::spawn(serve(listener, tls, limits, stats.clone(), handler, shutdown.clone()));
        Self { address, stats, stop, shutdown, ended }
    }

    pub(crate) async fn connect(&self, files: &TlsFiles, profile: Profile) -> TlsClientStream {
        let client = TlsClient::new(&self.address, None, client_config(files, profile).unwrap());
        client.unwrap().connect(PATIENCE).await.unwrap().0
    }

    /// Waits until `kind` was counted; the count comes after the client's side of the failure.
    pub(crate) async fn saw(&self, kind: HandshakeFailure) {
        eventually(|| self.stats.failures(kind) > 0).await;
    }
}

pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("never happened");
}
