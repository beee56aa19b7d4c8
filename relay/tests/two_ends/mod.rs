//! Two KMs and the link between them, over a proxy that can cut it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use km_core::{
    hsm::Hsm,
    ids::LinkId,
    journal::Fence,
    material::ClearBytes,
    module::{ModuleError, ModuleKey, ModuleSource},
    pool::{self, Pool},
    provenance::Provenance,
    random::Random,
    records::Records,
    route::RouteBoard,
    store::{Commit, Outcome, Store},
    supply::{Supply, SupplyLimits},
    vault::Vault,
};
use relay::{Links, PeerConfig};
use tokio::net::{TcpListener, TcpStream};
use transport::{
    ListenerLimits, ListenerStats, Profile, Shutdown, ShutdownHandle, TlsFiles,
    pki::{DemoCa, San, Validity},
};

use super::ends::{self, Machine, cluster, config, random, registry, sae};

/// Bytes a pool takes.
pub(crate) const BOUND: u64 = 512 << 10;
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A pair of modules: what one end takes, the other may collect once.
#[derive(Default)]
pub(crate) struct Fibre {
    pub(crate) waiting: Mutex<BTreeMap<String, Vec<u8>>>,
    pub(crate) made: Mutex<u64>,
    pub(crate) differ: AtomicBool,
}

pub(crate) struct Module(Arc<Fibre>);

pub(crate) fn direct() -> Option<Provenance> {
    Some(Provenance::direct(LinkId::parse("link").unwrap()))
}

#[async_trait]
impl ModuleSource for Module {
    async fn take(&self, bytes: usize) -> Result<Vec<ModuleKey>, ModuleError> {
        let mut made = self.0.made.lock().unwrap();
        let mut waiting = self.0.waiting.lock().unwrap();
        let keys = (0..(bytes / 1024).clamp(1, 8)).map(|_| {
            *made += 1;
            let (id, bits) = (format!("key-{made}"), random(1024));
            waiting.insert(id.clone(), bits.clone());
            ModuleKey { id, bytes: ClearBytes::from_vec(bits), came: direct() }
        });
        Ok(keys.collect())
    }

    async fn collect(&self, ids: &[String], _: &Provenance) -> Result<Vec<ModuleKey>, ModuleError> {
        let mut waiting = self.0.waiting.lock().unwrap();
        let keys: Option<Vec<ModuleKey>> = ids
            .iter()
            .map(|id| {
                let mut bits = waiting.remove(id)?;
                bits[100] ^= u8::from(self.0.differ.load(Relaxed));
                Some(ModuleKey {
                    id: id.clone(),
                    bytes: ClearBytes::from_vec(bits),
                    came: direct(),
                })
            })
            .collect();
        keys.ok_or(ModuleError::UnknownId)
    }

    async fn rest(&self) {}
}

/// Passes bytes on until told to cut.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// When each connection came.
    pub(crate) came: Arc<Mutex<Vec<Instant>>>,
    pub(crate) cut: tokio::sync::watch::Sender<u64>,
}

impl Proxy {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = tokio::sync::watch::Sender::new(0);
        let cuts = cut.subscribe();
        let came = Arc::new(Mutex::new(Vec::new()));
        let noted = came.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                noted.lock().unwrap().push(Instant::now());
                let mut cuts = cuts.clone();
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await?;
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cuts.changed() => {}
                    }
                    std::io::Result::Ok(())
                });
            }
        });
        Self { address, came, cut }
    }

    pub(crate) fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

/// One KM: its pool, and its link.
pub(crate) struct Km {
    pub(crate) machine: Machine,
    pub(crate) records: Records,
    pub(crate) pool: Arc<Pool>,
    pub(crate) supply: Arc<Supply>,
    pub(crate) links: Arc<Links>,
}

/// The KM that opens with this leads, until it is asked for again.
pub(crate) async fn lead(machine: &Machine) -> Fence {
    match machine.disk.commit(Commit::new().put("lead", "a KM")).await {
        Ok(Outcome::Committed(version)) => Fence { key: b"lead".to_vec(), version },
        other => panic!("{other:?}"),
    }
}

impl Km {
    pub(crate) async fn new(
        at: usize,
        tls: &TlsFiles,
        fibre: &Arc<Fibre>,
        peer: PeerConfig,
        max_stored: u64,
    ) -> Self {
        let machine = Machine::new();
        let hsm: Arc<dyn Hsm> = machine.hsm.clone();
        let vault = Vault::new(hsm.clone());
        let store: Arc<dyn Store> = machine.disk.clone();
        let key = vault.record_key(store.as_ref()).await.unwrap();
        let records = Records::new(store, &key);
        let mut config = config(at, Duration::from_secs(600));
        config.max_stored = max_stored;
        config.fence = Some(lead(&machine).await);
        let here = config.here.clone();
        let pool = Pool::open(config, records.clone(), vault).await.unwrap();
        let mut registry = registry();
        if at == ends::NORTH {
            registry.pair(&sae("n2"), &sae("s1")).unwrap();
        }
        let supply = Supply::new(here, registry, SupplyLimits::default(), [pool.clone()]);
        let client = transport::client_config(tls, Profile::KmLink).unwrap();
        let module: Arc<dyn ModuleSource> = Arc::new(Module(fibre.clone()));
        let (random, routes) = (Arc::new(Random::of_token(hsm)), Arc::new(RouteBoard::default()));
        let links = Links::new(&supply, client, random, routes, None, vec![(peer, Some(module))]);
        Self { machine, records, pool, supply, links }
    }

    pub(crate) async fn assert_balanced(&self) {
        self.pool.settled().await.unwrap();
        let view = self.pool.view();
        assert!(view.balanced, "{view:?}");
        let (ledger, stored) = pool::audit(&self.records, self.pool.tag()).await.unwrap();
        assert!(ledger.balanced_with(stored), "{ledger:?} {stored}");
    }
}

pub(crate) struct Network {
    pub(crate) north: Km,
    pub(crate) south: Km,
    pub(crate) proxy: Proxy,
    pub(crate) fibre: Arc<Fibre>,
    /// The certificates of north and south.
    pub(crate) shown: [[u8; 32]; 2],
    pub(crate) stop_north: ShutdownHandle,
    pub(crate) _stop_south: ShutdownHandle,
    pub(crate) _dirs: Vec<tempfile::TempDir>,
}

/// Who shows which certificate, and who is expected.
pub(crate) struct Identities {
    pub(crate) foreign_north: bool,
    pub(crate) expected_at_north: &'static str,
    pub(crate) expected_at_south: &'static str,
}

pub(crate) const RIGHT: Identities = Identities {
    foreign_north: false,
    expected_at_north: "cn:south",
    expected_at_south: "cn:north",
};

impl Network {
    pub(crate) async fn start(who: Identities) -> Self {
        Self::start_with(who, [BOUND, BOUND]).await
    }

    pub(crate) async fn start_with(who: Identities, bounds: [u64; 2]) -> Self {
        Self::start_over(who, bounds, 1).await
    }

    /// So many classical channels, all over the one proxy.
    pub(crate) async fn start_over(who: Identities, bounds: [u64; 2], channels: usize) -> Self {
        let dirs = vec![ends::temp_dir(), ends::temp_dir()];
        let ca = DemoCa::create(dirs[0].path()).unwrap();
        let other_ca = DemoCa::create(dirs[1].path()).unwrap();
        let issue =
            |ca: &DemoCa, name| ca.issue(name, &San::loopback(), Validity::days(1)).unwrap();
        let south_tls = issue(&ca, "south");
        let north_tls = match who.foreign_north {
            // It trusts the right CA and is certified by another.
            true => TlsFiles { ca: ca.ca(), ..issue(&other_ca, "north") },
            false => issue(&ca, "north"),
        };
        let shown = [&north_tls, &south_tls].map(|tls| tls.fingerprint().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::to(listener.local_addr().unwrap()).await;
        let fibre = Arc::new(Fibre::default());
        let peer = |name: &str, addresses, identity: &str| PeerConfig {
            cluster: cluster(name),
            addresses,
            identity: identity.parse().unwrap(),
            qkd_links: vec![LinkId::parse("link").unwrap()],
            relay: None,
            combine: None,
            module: "module".into(),
        };
        let addresses = vec![format!("localhost:{}", proxy.address.port()); channels];
        let to_south = peer("south", addresses, who.expected_at_north);
        let to_north = peer("north", Vec::new(), who.expected_at_south);
        let north = Km::new(0, &north_tls, &fibre, to_south, bounds[0]).await;
        let south = Km::new(1, &south_tls, &fibre, to_north, bounds[1]).await;
        let (stop_north, shutdown) = Shutdown::pair();
        tokio::spawn(north.links.clone().run(shutdown));
        let (stop_south, shutdown) = Shutdown::pair();
        let (links, ending) = (south.links.clone(), shutdown.clone());
        tokio::spawn(transport::serve(
            listener,
            transport::server_config(&south_tls, Profile::KmLink).unwrap(),
            ListenerLimits::default(),
            Arc::new(ListenerStats::default()),
            move |stream, identity| links.clone().accept(stream, identity, ending.clone()),
            shutdown,
        ));
        Self { north, south, proxy, fibre, shown, stop_north, _stop_south: stop_south, _dirs: dirs }
    }

    pub(crate) fn up(&self) -> bool {
        [&self.north, &self.south].iter().all(|km| km.links.status()[0].up)
    }

    /// Until the pool is full and no block is on its way: an audit reads record by record.
    pub(crate) async fn until_quiet(&self) {
        let full = |km: &Km| !km.pool.has_room() && km.links.status()[0].in_flight == 0;
        self.until("the pool is full", |net| full(&net.north) && full(&net.south)).await;
        // What the intake had in its hand when the pool filled up still comes.
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.until("nothing is in flight", |net| full(&net.north) && full(&net.south)).await;
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
