//! Two clusters, north and south, in one process: real supplies, stores and TLS fronts, joined
//! by an in-memory link.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod client;
#[path = "../../../testkit/hsm.rs"]
mod hsm;
#[path = "../../../testkit/wire.rs"]
mod wire;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use key_supply::Etsi014;
use km_core::{
    ids::{ClusterId, LinkId, SaeId},
    material::ClearBytes,
    payload::Storage,
    pool::{NewBlock, Pool, PoolConfig},
    provenance::Provenance,
    records::Records,
    registry::Registry,
    store::{SqliteStore, Store},
    supply::{Supply, SupplyLimits},
    vault::Vault,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use transport::{
    Directory, IdentityRule, ListenerLimits, Profile, ServerConfig, Shutdown, ShutdownHandle,
    TlsFiles,
    pki::{DemoCa, San, Validity},
    serve, server_config,
};

#[allow(unused_imports)]
pub use client::{Sae, ids, key_ids, keys_of};
use hsm::{SoftwareHsm, random};
use wire::Wire;

/// Registered applications and where they connect. `both` is one application with two homes.
const APPLICATIONS: [(&str, &[&str]); 8] = [
    ("n1", &["north"]),
    ("n2", &["north"]),
    ("s1", &["south"]),
    ("s2", &["south"]),
    ("s3", &["south"]),
    ("hq:south@1", &["south"]),
    ("both", &["north", "south"]),
    ("n3", &["north"]),
];
/// n2 and s3 are paired with each other only; n3 with n1, at its own cluster.
const PAIRS: [(&str, &str); 7] = [
    ("n1", "s1"),
    ("n1", "s2"),
    ("n2", "s1"),
    ("n2", "s3"),
    ("n1", "hq:south@1"),
    ("both", "both"),
    ("n1", "n3"),
];

pub struct End {
    pub supply: Arc<Supply>,
    pub pool: Arc<Pool>,
    pub hsm: Arc<SoftwareHsm>,
    pub wire: Arc<Wire>,
    pub front: Arc<Etsi014>,
    pub address: String,
    _stop: ShutdownHandle,
    _listening: JoinHandle<()>,
}

pub struct Network {
    pub north: End,
    pub south: End,
    ca: DemoCa,
    files: TlsFiles,
    last_block: AtomicU64,
    _dir: TempDir,
}

impl Network {
    /// Ready to serve, with empty pools.
    pub async fn start() -> Self {
        Self::start_with(SupplyLimits::default(), 64 << 20).await
    }

    pub async fn start_with(limits: SupplyLimits, max_stored: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = DemoCa::create(&dir.path().join("ca")).unwrap();
        let files = ca.issue("kme", &San::loopback(), Validity::days(1)).unwrap();
        let north = End::start(&dir, &files, ("north", "south"), limits, max_stored).await;
        let south = End::start(&dir, &files, ("south", "north"), limits, max_stored).await;
        north.wire.lead_to(Arc::downgrade(&south.supply));
        south.wire.lead_to(Arc::downgrade(&north.supply));
        Self { north, south, ca, files, last_block: AtomicU64::new(0), _dir: dir }
    }

    /// With `count` blocks of `len` bytes that each end may assign from.
    pub async fn stocked(count: usize, len: usize) -> Self {
        let network = Self::start().await;
        for _ in 0..count {
            network.admit("north", len).await;
            network.admit("south", len).await;
        }
        network
    }

    /// The same fresh block at both ends; `owner` assigns from it.
    pub async fn admit(&self, owner: &str, len: usize) {
        let number = self.last_block.fetch_add(1, Relaxed) + 1;
        let bytes = random(len);
        for end in [&self.north, &self.south] {
            let block = NewBlock {
                number,
                owner: cluster(owner),
                provenance: Provenance::direct(LinkId::parse("link-1").unwrap()),
                module: "module".into(),
                clear: ClearBytes::copy_from(&bytes),
                confirmed: true,
            };
            end.pool.admit(block).await.unwrap();
        }
    }

    /// The application `name`, connected at its first home.
    pub fn sae(&self, name: &str) -> Sae {
        let (_, homes) = APPLICATIONS.iter().find(|(known, _)| *known == name).unwrap();
        self.sae_at(name, homes[0])
    }

    /// A certificate of `name`, registered or not, connecting at `home`.
    pub fn sae_at(&self, name: &str, home: &str) -> Sae {
        let end = if home == "north" { &self.north } else { &self.south };
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        static ISSUED: AtomicU64 = AtomicU64::new(0);
        let file = format!("{plain}-{}", ISSUED.fetch_add(1, Relaxed));
        let files = self.ca.issue(&file, &[San::Uri(uri(name))], Validity::days(1)).unwrap();
        Sae::new(name, &end.address, files)
    }

    /// What both fronts show their clients.
    pub fn server_tls(&self) -> Arc<ServerConfig> {
        server_config(&self.files, Profile::Front).unwrap()
    }

    /// Both accounts balance, to the bit, once all runs have ended.
    pub async fn assert_balanced(&self) {
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
        limits: SupplyLimits,
        max_stored: u64,
    ) -> Self {
        let path = dir.path().join(format!("{here}.db"));
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(path).unwrap());
        let hsm = Arc::new(SoftwareHsm::new());
        let vault = Vault::new(hsm.clone());
        let record_key = vault.record_key(store.as_ref()).await.unwrap();
        let records = Records::new(store, &record_key);
        let key_ttl = Duration::from_secs(3600);
        let config = PoolConfig {
            here: cluster(here),
            peer: cluster(peer),
            key_ttl,
            max_stored,
            storage: Storage::Blocks,
            fence: None,
        };
        let pool = Pool::open(config, records, vault).await.unwrap();
        let wire = Arc::new(Wire::new(cluster(here)));
        pool.connect(wire.clone());
        let supply = Supply::new(cluster(here), registry(), limits, [pool.clone()]);
        let front = Etsi014::new(supply.clone(), directory());
        let (address, stop, listening) = listen(front.clone(), files).await;
        let (_stop, _listening) = (stop, listening);
        Self { supply, pool, hsm, wire, front, address, _stop, _listening }
    }
}

async fn listen(front: Arc<Etsi014>, files: &TlsFiles) -> (String, ShutdownHandle, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, shutdown) = Shutdown::pair();
    let tls = server_config(files, Profile::Front).unwrap();
    let heard = shutdown.clone();
    let handler = move |stream, peer| front.clone().serve(stream, peer, heard.clone());
    let (limits, stats) = (ListenerLimits::default(), Arc::default());
    let listening = tokio::spawn(serve(listener, tls, limits, stats, handler, shutdown));
    (address, stop, listening)
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    for (name, homes) in APPLICATIONS {
        registry.register(sae_id(name), homes.iter().map(|home| cluster(home))).unwrap();
    }
    for (one, other) in PAIRS {
        registry.pair(&sae_id(one), &sae_id(other)).unwrap();
    }
    registry
}

fn directory() -> Directory<SaeId> {
    let mut directory = Directory::default();
    for (name, _) in APPLICATIONS {
        directory.add(IdentityRule::Uri(uri(name)), sae_id(name));
    }
    directory
}

fn uri(name: &str) -> String {
    format!("urn:test:sae:{name}")
}

fn sae_id(name: &str) -> SaeId {
    SaeId::parse(name).unwrap()
}

fn cluster(name: &str) -> ClusterId {
    ClusterId::parse(name).unwrap()
}
