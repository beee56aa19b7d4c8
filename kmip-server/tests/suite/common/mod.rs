//! Two clusters, north and south, in one process: real supplies, stores and KMIP servers, joined
//! by an in-memory link.

mod client;
#[path = "../../../../testkit/hsm.rs"]
mod hsm;
#[path = "../../../../testkit/wire.rs"]
mod wire;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use authority::{Authority, Span};
use km_core::{
    ids::{ClusterId, LinkId, SaeId},
    material::ClearBytes,
    objects::{Objects, Quota},
    payload::Storage,
    pool::{NewBlock, Pool, PoolConfig},
    provenance::{Combination, Provenance},
    records::Records,
    registry::Registry,
    run::MAX_SLAVES,
    store::{SqliteStore, faulty::FaultyStore},
    supply::{Supply, SupplyLimits},
    vault::Vault,
};
use kmip_server::{Certifier, Limits, Server, policy::Policies};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use transport::{
    Directory, IdentityRule, ListenerLimits, Profile, Shutdown, ShutdownHandle, TlsFiles,
    client_config,
    pki::{DemoCa, San, Validity},
    serve, server_config,
};

pub(crate) use client::{Client, attribute, refusal};
use hsm::{SoftwareHsm, random};
use wire::Wire;

/// Registered applications and where they connect.
const APPLICATIONS: [(&str, &str); 6] = [
    ("n1", "north"),
    ("n2", "north"),
    ("n3", "north"),
    ("s1", "south"),
    ("s2", "south"),
    ("s3", "south"),
];
/// These show the one certificate `shared`.
pub(crate) const SHARING: [&str; 2] = ["m1", "m2"];
/// n2 is paired with nobody; s3 with nobody.
const PAIRS: [(&str, &str); 3] = [("n1", "s1"), ("n1", "s2"), ("n3", "s1")];
/// So many more applications at south are paired with n3: with s1, one more than a key goes to.
const CROWD: usize = MAX_SLAVES;

pub(crate) struct End {
    pub(crate) supply: Arc<Supply>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) objects: Objects,
    pub(crate) store: Arc<FaultyStore<SqliteStore>>,
    pub(crate) hsm: Arc<SoftwareHsm>,
    pub(crate) server: Arc<Server>,
    pub(crate) address: String,
    pub wire: Arc<Wire>,
    stop: ShutdownHandle,
    _listening: JoinHandle<()>,
}

pub(crate) struct Network {
    pub(crate) north: End,
    pub(crate) south: End,
    ca: DemoCa,
    last_block: AtomicU64,
    dir: TempDir,
}

impl Network {
    /// Ready to serve, with empty pools.
    pub(crate) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        Self::start_as(limits, Policies::new(), BTreeMap::new()).await
    }

    /// With policies of applications and quotas of tenants, alike at both ends.
    pub(crate) async fn start_as(
        limits: Limits,
        policies: Policies,
        quotas: BTreeMap<SaeId, Quota>,
    ) -> Self {
        let house = (limits, policies, quotas);
        let dir = tempfile::tempdir().unwrap();
        let ca = DemoCa::create(&dir.path().join("ca")).unwrap();
        let files = ca.issue("kme", &San::loopback(), Validity::days(1)).unwrap();
        let north = End::start(&dir, &files, ("north", "south"), &house).await;
        let south = End::start(&dir, &files, ("south", "north"), &house).await;
        north.wire.lead_to(Arc::downgrade(&south.supply));
        south.wire.lead_to(Arc::downgrade(&north.supply));
        Self { north, south, ca, last_block: AtomicU64::new(0), dir }
    }

    /// With blocks that each end may assign from.
    pub(crate) async fn stocked() -> Self {
        let network = Self::start().await;
        network.stock().await;
        network
    }

    /// Fills the pool: two blocks to assign from for each end.
    pub(crate) async fn stock(&self) {
        for owner in ["north", "south", "north", "south"] {
            self.admit(owner, 4096, None).await;
        }
    }

    /// The same fresh block at both ends, combined so; `owner` assigns from it.
    pub(crate) async fn admit(&self, owner: &str, len: usize, combined: Option<Combination>) {
        let number = self.last_block.fetch_add(1, Relaxed) + 1;
        let bytes = random(len);
        for end in [&self.north, &self.south] {
            let mut provenance = Provenance::direct(LinkId::parse("link-1").unwrap());
            provenance.combined = combined;
            let block = NewBlock {
                number,
                owner: cluster(owner),
                provenance,
                module: "module".into(),
                clear: ClearBytes::copy_from(&bytes),
                confirmed: true,
            };
            end.pool.admit(block).await.unwrap();
        }
    }

    /// A certificate of `name`, registered or not.
    pub(crate) fn certificate(&self, name: &str) -> TlsFiles {
        static ISSUED: AtomicU64 = AtomicU64::new(0);
        let file = format!("{name}-{}", ISSUED.fetch_add(1, Relaxed));
        self.ca.issue(&file, &[San::Uri(uri(name))], Validity::days(1)).unwrap()
    }

    /// The application `name`, connected at its home, speaking `version`.
    pub(crate) async fn client(&self, name: &str, version: kmip::Version) -> Client {
        let home = APPLICATIONS.iter().find(|(known, _)| *known == name);
        let end =
            if home.is_some_and(|(_, at)| *at == "south") { &self.south } else { &self.north };
        Client::connect(&end.address, &self.certificate(name), version).await
    }

    /// As [`Network::client`] at north, through a server that does no cryptography in its process.
    pub(crate) async fn token_only_client(&self, name: &str, version: kmip::Version) -> Client {
        let objects = self.north.objects.clone().token_only(true);
        self.client_elsewhere(name, version, objects, &Policies::new()).await
    }

    /// As [`Network::client`] at north, through another server over its store.
    pub(crate) async fn client_after_restart(
        &self,
        name: &str,
        version: kmip::Version,
        policies: &Policies,
    ) -> Client {
        self.client_elsewhere(name, version, self.north.objects.clone(), policies).await
    }

    /// Another server over the store of north, as after a restart, tells applications of changes as long as it
    /// is held.
    pub(crate) fn tell_after_restart(&self, policies: &Policies) -> Arc<Server> {
        let (supply, objects) = (self.north.supply.clone(), self.north.objects.clone());
        let server = Server::new(supply, objects, directory(), Limits::default(), policies);
        let files = self.ca.issue("restarted", &San::loopback(), Validity::days(1)).unwrap();
        server.tell_over(&client_config(&files, Profile::Front).unwrap());
        server
    }

    async fn client_elsewhere(
        &self,
        name: &str,
        version: kmip::Version,
        objects: Objects,
        policies: &Policies,
    ) -> Client {
        let supply = self.north.supply.clone();
        let server = Server::new(supply, objects, directory(), Limits::default(), policies);
        let files = self.ca.issue("elsewhere", &San::loopback(), Validity::days(1)).unwrap();
        let (address, stop, _) = listen(server, &files).await;
        std::mem::forget(stop); // it listens as long as the test runs
        Client::connect(&address, &self.certificate(name), version).await
    }

    /// From now on north tells applications of changes.
    pub(crate) fn tell(&self) {
        let files = self.ca.issue("telling", &San::loopback(), Validity::days(1)).unwrap();
        self.north.server.tell_over(&client_config(&files, Profile::Front).unwrap());
    }

    /// A certificate of `name` for a server on this machine.
    pub(crate) fn certificate_of_endpoint(&self, name: &str) -> TlsFiles {
        let names: Vec<_> = San::loopback().into_iter().chain([San::Uri(uri(name))]).collect();
        self.ca.issue(&format!("endpoint-{name}"), &names, Validity::days(1)).unwrap()
    }

    /// The address of a listener for HTTPS at north.
    pub(crate) async fn web(&self) -> String {
        let files = self.ca.issue("web", &San::loopback(), Validity::days(1)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, shutdown) = Shutdown::pair();
        std::mem::forget(stop); // it listens as long as the test runs
        let tls = server_config(&files, Profile::Front).unwrap();
        let (server, heard) = (self.north.server.clone(), shutdown.clone());
        let handler = move |stream, peer| server.clone().serve_http(stream, peer, heard.clone());
        let (limits, stats) = (ListenerLimits::default(), Arc::default());
        tokio::spawn(serve(listener, tls, limits, stats, handler, shutdown));
        address
    }

    /// Whether any file of the network's stores holds `bytes`.
    pub(crate) fn is_on_disk(&self, bytes: &[u8]) -> bool {
        let files = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let stores = files.filter(|path| path.to_string_lossy().contains(".db"));
        let contents: Vec<Vec<u8>> = stores.map(|path| std::fs::read(path).unwrap()).collect();
        assert!(contents.iter().any(|content| !content.is_empty()), "there are stores to look at");
        contents.iter().any(|content| content.windows(bytes.len()).any(|part| part == bytes))
    }

    /// Both accounts balance, to the bit, once all runs have ended.
    pub(crate) async fn assert_balanced(&self) {
        for end in [&self.north, &self.south] {
            end.supply.stop().await;
        }
        for end in [&self.north, &self.south] {
            end.pool.settled().await.unwrap();
            let view = end.pool.view();
            assert!(view.balanced, "{view:?}");
        }
    }
}

impl End {
    async fn start(
        dir: &TempDir,
        files: &TlsFiles,
        (here, peer): (&str, &str),
        (limits, policies, quotas): &(Limits, Policies, BTreeMap<SaeId, Quota>),
    ) -> Self {
        let path = dir.path().join(format!("{here}.db"));
        let store = Arc::new(FaultyStore::new(SqliteStore::open(path).unwrap()));
        let hsm = Arc::new(SoftwareHsm::new());
        let vault = Vault::new(hsm.clone());
        let record_key = vault.record_key(store.as_ref()).await.unwrap();
        let records = Records::new(store.clone(), &record_key);
        let key_ttl = Duration::from_secs(3600);
        let config = PoolConfig {
            here: cluster(here),
            peer: cluster(peer),
            key_ttl,
            max_stored: 64 << 20,
            storage: Storage::Blocks,
            fence: None,
        };
        let pool = Pool::open(config, records.clone(), vault.clone()).await.unwrap();
        let wire = Arc::new(Wire::new(cluster(here)));
        pool.connect(wire.clone());
        let supply_limits = SupplyLimits::default();
        let supply = Supply::new(cluster(here), registry(), supply_limits, [pool.clone()]);
        let objects = Objects::new(records, vault).with_quotas(quotas.clone());
        let server =
            Server::new(supply.clone(), objects.clone(), directory(), limits.clone(), policies);
        let (address, stop, _listening) = listen(server.clone(), files).await;
        Self { supply, pool, objects, store, hsm, server, address, wire, stop, _listening }
    }

    /// Gives the server an authority whose certificates these applications may have.
    pub(crate) async fn certify_for(&self, applications: &[&str]) {
        let span = Span::days(km_core::clock::now_ms() / 1000, 3650);
        let authority = Authority::make(&self.objects, "kmip", "CN=KMIP,O=Example", span).await;
        let applications = applications.iter().copied().map(sae_id).collect();
        let certifier = Certifier { authority: authority.unwrap(), applications, days: 90 };
        self.server.certify_with(certifier);
    }

    /// Asks the server to end.
    pub(crate) fn stop(&self) {
        self.stop.start();
    }
}

async fn listen(server: Arc<Server>, files: &TlsFiles) -> (String, ShutdownHandle, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, shutdown) = Shutdown::pair();
    let tls = server_config(files, Profile::Front).unwrap();
    let heard = shutdown.clone();
    let handler = move |stream, peer| server.clone().serve_connection(stream, peer, heard.clone());
    let (limits, stats) = (ListenerLimits::default(), Arc::default());
    let listening = tokio::spawn(serve(listener, tls, limits, stats, handler, shutdown));
    (address, stop, listening)
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    for name in SHARING {
        registry.register(sae_id(name), [cluster("north")]).unwrap();
    }
    for (name, home) in APPLICATIONS {
        registry.register(sae_id(name), [cluster(home)]).unwrap();
    }
    for (one, other) in PAIRS {
        registry.pair(&sae_id(one), &sae_id(other)).unwrap();
    }
    for name in (0..CROWD).map(|number| sae_id(&format!("crowd-{number}"))) {
        registry.register(name.clone(), [cluster("south")]).unwrap();
        registry.pair(&sae_id("n3"), &name).unwrap();
    }
    registry
}

fn directory() -> Directory<SaeId> {
    let mut directory = Directory::default();
    for (name, _) in APPLICATIONS {
        directory.add(IdentityRule::Uri(uri(name)), sae_id(name));
    }
    // One certificate of two applications, whose logins tell them apart.
    for name in SHARING {
        directory.add(IdentityRule::Uri(uri("shared")), sae_id(name));
    }
    // Certificates of another authority stand for nobody.
    directory.add_issued_by("CN=elsewhere".into(), IdentityRule::Uri(uri("pinned")), sae_id("n1"));
    let here = "CN=qkm demo CA".to_owned();
    directory.add_issued_by(here, IdentityRule::Uri(uri("pinned-here")), sae_id("n1"));
    directory
}

fn uri(name: &str) -> String {
    format!("urn:test:sae:{name}")
}

pub(crate) fn sae_id(name: &str) -> SaeId {
    SaeId::parse(name).unwrap()
}

fn cluster(name: &str) -> ClusterId {
    ClusterId::parse(name).unwrap()
}
