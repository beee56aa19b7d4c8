//! Any number of KMs in one process, joined by real TLS links: some with a QKD link between them,
//! some fed by relay. Enter through [`Net::start`].
#![allow(dead_code, unreachable_pub)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use km_core::{
    copies::{Copies, CopyError, Leaving, ObjectCopy, Placed},
    hsm::Hsm,
    ids::{ClusterId, LinkId, SaeId},
    material::ClearBytes,
    module::{ModuleError, ModuleKey, ModuleSource},
    objects::ObjectState,
    payload::Storage,
    pool::{self, Pool, PoolConfig},
    provenance::{Grade, HopCipher, Origin, Provenance},
    random::{QrngConfig, Random},
    records::Records,
    registry::Registry,
    route::{CipherPolicy, Route, RouteBoard},
    store::Store,
    supply::{Supply, SupplyLimits},
    vault::Vault,
};
use relay::{Links, PeerConfig, RelayConfig, Scheme, combine::Combine, feed::Mode};
use tokio::net::TcpListener;
use transport::{
    ListenerLimits, ListenerStats, Profile, Shutdown, ShutdownHandle, TlsFiles,
    pki::{DemoCa, San, Validity},
};

use crate::ends::{Machine, cluster, random, sae, temp_dir};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// A pair of modules: what one end takes, the other may collect once.
#[derive(Default)]
struct Fibre {
    dark: bool,
    waiting: Mutex<BTreeMap<String, Vec<u8>>>,
    made: Mutex<u64>,
}

struct Module(Arc<Fibre>, LinkId);

impl Module {
    fn came(&self) -> Option<Provenance> {
        Some(Provenance::direct(self.1.clone()))
    }
}

#[async_trait]
impl ModuleSource for Module {
    async fn take(&self, bytes: usize) -> Result<Vec<ModuleKey>, ModuleError> {
        let mut made = self.0.made.lock().unwrap();
        let mut waiting = self.0.waiting.lock().unwrap();
        let count = if self.0.dark { 0 } else { bytes / 4096 };
        let keys = (0..count).map(|_| {
            *made += 1;
            let (id, bits) = (format!("key-{made}"), random(4096));
            waiting.insert(id.clone(), bits.clone());
            ModuleKey { id, bytes: ClearBytes::from_vec(bits), came: self.came() }
        });
        let keys: Vec<ModuleKey> = keys.collect();
        if keys.is_empty() { Err(ModuleError::Empty) } else { Ok(keys) }
    }

    async fn collect(&self, ids: &[String], _: &Provenance) -> Result<Vec<ModuleKey>, ModuleError> {
        let mut waiting = self.0.waiting.lock().unwrap();
        let key = |id: &String| {
            let bytes = ClearBytes::from_vec(waiting.remove(id)?);
            Some(ModuleKey { id: id.clone(), bytes, came: self.came() })
        };
        ids.iter().map(key).collect::<Option<_>>().ok_or(ModuleError::UnknownId)
    }

    async fn rest(&self) {}
}

/// Objects of a KM, by identifier. Each belongs to the cluster's application.
pub struct Shelf {
    here: &'static str,
    pub objects: Mutex<BTreeMap<String, (Vec<u8>, Provenance)>>,
}

#[async_trait]
impl Copies for Shelf {
    async fn leaving(&self, name: &str, to: &SaeId) -> Result<Leaving, CopyError> {
        let objects = self.objects.lock().unwrap();
        let (bytes, provenance) =
            objects.get(name).ok_or_else(|| CopyError::NotFound(name.to_owned()))?;
        let copy = ObjectCopy {
            uid: name.to_owned(),
            from: sae(&format!("sae-{}", self.here)),
            to: to.clone(),
            state: ObjectState::Active,
            provenance: provenance.clone(),
            attributes: Vec::new(),
        };
        let clear = Arc::new(ClearBytes::copy_from(bytes));
        let cluster = cluster(to.as_str().strip_prefix("sae-").unwrap());
        Ok(Leaving { copy, clear, cluster, grade: Grade::Computational })
    }

    async fn arrived(
        &self,
        _: &ClusterId,
        copy: ObjectCopy,
        clear: ClearBytes,
    ) -> Result<Placed, CopyError> {
        let bytes = clear.expose(<[u8]>::to_vec);
        let mut objects = self.objects.lock().unwrap();
        match objects.get(&copy.uid) {
            Some((known, _)) if *known == bytes => Ok(Placed::There),
            Some(_) => Err(CopyError::Refused("another object".to_owned())),
            None => {
                objects.insert(copy.uid, (bytes, copy.provenance));
                Ok(Placed::Stored)
            }
        }
    }
}

fn link_id(link: usize) -> LinkId {
    LinkId::parse(&format!("link-{link}")).unwrap()
}

/// Which clusters there are and how they are joined.
#[derive(Clone)]
pub struct Plan {
    /// In the order of their names.
    pub clusters: Vec<&'static str>,
    /// Pairs with a QKD link.
    pub links: Vec<(usize, usize)>,
    /// Of these, the ones whose modules give no keys.
    pub dark: Vec<usize>,
    /// Pairs fed by relay, with the clusters between.
    pub relays: Vec<(usize, usize, Vec<usize>)>,
    pub cipher: CipherPolicy,
    /// What the keys of the first and the last cluster's applications must claim.
    pub grade: Grade,
    pub scheme: Scheme,
    pub mode: Mode,
    /// Over how many ways each relayed key is split; they come from the route board.
    pub ways: usize,
    /// The same by cluster, where it is not the same for all.
    pub ways_at: Vec<usize>,
    /// By cluster.
    pub combine: Vec<Option<Combine>>,
    /// Bytes a pool with a QKD link takes, and one fed by relay.
    pub bounds: [u64; 2],
    /// The FIFO in the place of a QRNG that random bits come from; else from the token.
    pub qrng: Option<PathBuf>,
}

impl Plan {
    /// A chain of `hops` links, its ends fed by relay.
    pub fn chain(hops: usize, cipher: CipherPolicy, scheme: Scheme) -> Self {
        let clusters = vec!["a", "b", "c", "d", "e"][..=hops].to_vec();
        let links = (0..hops).map(|at| (at, at + 1)).collect();
        let relays = vec![(0, hops, (1..hops).collect())];
        let mode = Mode::Watermark { low: 128 << 10, high: 256 << 10 };
        let combine = vec![None; hops + 1];
        Self {
            clusters,
            links,
            dark: Vec::new(),
            relays,
            cipher,
            grade: Grade::Computational,
            scheme,
            mode,
            ways: 1,
            ways_at: Vec::new(),
            combine,
            bounds: [1 << 20, 512 << 10],
            qrng: None,
        }
    }
}

/// One KM.
pub struct Km {
    machine: Machine,
    pub records: Records,
    pub supply: Arc<Supply>,
    pub links: Arc<Links>,
    pub shelf: Arc<Shelf>,
    pub routes: Arc<RouteBoard>,
    stop: ShutdownHandle,
}

impl Km {
    pub fn pool(&self, peer: &str) -> Arc<Pool> {
        self.supply.pool(&cluster(peer)).unwrap()
    }

    pub async fn assert_balanced(&self) {
        for pool in self.supply.pools() {
            pool.settled().await.unwrap();
            let view = pool.view();
            assert!(view.balanced, "{view:?}");
            let (ledger, stored) = pool::audit(&self.records, pool.tag()).await.unwrap();
            assert!(ledger.balanced_with(stored), "{ledger:?} {stored}");
        }
    }
}

pub struct Net {
    pub plan: Plan,
    pub kms: Vec<Km>,
    pub addresses: Vec<SocketAddr>,
    through: Through,
    fibres: Vec<Arc<Fibre>>,
    tls: Vec<TlsFiles>,
    _dir: tempfile::TempDir,
}

/// Where a KM dials in place of another one's address.
pub type Through = BTreeMap<(usize, usize), SocketAddr>;

impl Net {
    pub async fn start(plan: Plan) -> Self {
        Self::start_through(plan, |_, _| Through::new()).await
    }

    /// With somebody in the middle: `place` is told all addresses and certificates.
    pub async fn start_through(
        plan: Plan,
        place: impl FnOnce(&[SocketAddr], &[TlsFiles]) -> Through,
    ) -> Self {
        let dir = temp_dir();
        let ca = DemoCa::create(dir.path()).unwrap();
        let issue = |name| ca.issue(name, &San::loopback(), Validity::days(1)).unwrap();
        let tls: Vec<TlsFiles> = plan.clusters.iter().map(|name| issue(name)).collect();
        let mut listeners = Vec::new();
        for _ in &plan.clusters {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        let through = place(&addresses, &tls);
        let fibre = |at| Fibre { dark: plan.dark.contains(&at), ..Fibre::default() };
        let fibres = (0..plan.links.len()).map(|at| Arc::new(fibre(at))).collect();
        let kms = Vec::new();
        let mut net = Self { plan, kms, addresses, through, fibres, tls, _dir: dir };
        for (at, listener) in listeners.into_iter().enumerate() {
            let km = net.open(at, Machine::new(), listener).await;
            net.kms.push(km);
        }
        net
    }

    /// Stops a KM at once, as a crash would, and starts it anew over the same store and token.
    pub async fn restart(&mut self, at: usize) {
        let old = self.kms.remove(at);
        old.stop.start();
        let machine = old.machine;
        drop((old.links, old.supply));
        let listener = loop {
            match TcpListener::bind(self.addresses[at]).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let km = self.open(at, machine, listener).await;
        self.kms.insert(at, km);
    }

    fn edges(&self, at: usize) -> Vec<(usize, Option<usize>, Option<Vec<usize>>)> {
        let other = |(a, b): (usize, usize)| [(a, b), (b, a)].into_iter().find(|p| p.0 == at);
        let linked = self.plan.links.iter().enumerate();
        let linked = linked.filter_map(|(i, ends)| Some((other(*ends)?.1, Some(i), None)));
        let relayed = self.plan.relays.iter().filter_map(|(a, b, via)| {
            let far = other((*a, *b))?.1;
            let via = if far == *b { via.clone() } else { via.iter().rev().copied().collect() };
            Some((far, None, Some(via)))
        });
        linked.chain(relayed).collect()
    }

    async fn open(&self, at: usize, machine: Machine, listener: TcpListener) -> Km {
        let hsm: Arc<dyn Hsm> = machine.hsm.clone();
        let vault = Vault::new(hsm.clone());
        let store: Arc<dyn Store> = machine.disk.clone();
        let key = vault.record_key(store.as_ref()).await.unwrap();
        let records = Records::new(store, &key);
        let name = |at: usize| cluster(self.plan.clusters[at]);
        let (mut pools, mut peers) = (Vec::new(), Vec::new());
        for (far, fibre, via) in self.edges(at) {
            let config = PoolConfig {
                here: name(at),
                peer: name(far),
                key_ttl: Duration::from_secs(600),
                max_stored: self.plan.bounds[usize::from(via.is_some())],
                storage: Storage::Blocks,
                fence: None,
            };
            pools.push(Pool::open(config, records.clone(), vault.clone()).await.unwrap());
            peers.push((self.peer(at, far, fibre, via), fibre.map(|i| self.module(i))));
        }
        let supply = Supply::new(name(at), self.registry(), SupplyLimits::default(), pools);
        let client = transport::client_config(&self.tls[at], Profile::KmLink).unwrap();
        let random = match self.plan.qrng.clone() {
            Some(path) => {
                let device =
                    QrngConfig { path, min_entropy: 5.0, deadline: Duration::from_secs(5) };
                Random::with_qrng(None, device).unwrap()
            }
            None => Random::of_token(hsm),
        };
        let (random, routes) = (Arc::new(random), Arc::new(RouteBoard::default()));
        let shelf = Arc::new(Shelf { here: self.plan.clusters[at], objects: Mutex::default() });
        let links = Links::new(&supply, client, random, routes.clone(), Some(shelf.clone()), peers);
        let (stop, shutdown) = Shutdown::pair();
        tokio::spawn(links.clone().run(shutdown.clone()));
        let (tended, over) = (supply.clone(), shutdown.clone());
        // Without it all of a full pool may come to be one end's.
        tokio::spawn(async move {
            tokio::select! {
                () = tended.tend() => {}
                () = over.requested() => {}
            }
        });
        let (accepting, ending) = (links.clone(), shutdown.clone());
        tokio::spawn(transport::serve(
            listener,
            transport::server_config(&self.tls[at], Profile::KmLink).unwrap(),
            ListenerLimits::default(),
            Arc::new(ListenerStats::default()),
            move |stream, identity| accepting.clone().accept(stream, identity, ending.clone()),
            shutdown,
        ));
        Km { machine, records, supply, links, shelf, routes, stop }
    }

    fn module(&self, link: usize) -> Arc<dyn ModuleSource> {
        Arc::new(Module(self.fibres[link].clone(), link_id(link)))
    }

    fn peer(
        &self,
        at: usize,
        far: usize,
        fibre: Option<usize>,
        via: Option<Vec<usize>>,
    ) -> PeerConfig {
        let name = |at: usize| cluster(self.plan.clusters[at]);
        let relay = via.map(|via| {
            let hops: Vec<ClusterId> = via.iter().chain([&far]).map(|at| name(*at)).collect();
            let route = Some(Route::new(hops, self.plan.cipher).unwrap());
            let (cipher, scheme) = (CipherPolicy::default(), self.plan.scheme);
            let ways = self.plan.ways_at.get(at).copied().unwrap_or(self.plan.ways);
            let route = route.filter(|_| ways == 1);
            RelayConfig { route, cipher, scheme, mode: self.plan.mode.clone(), ways }
        });
        let dialled = self.through.get(&(at, far)).unwrap_or(&self.addresses[far]);
        PeerConfig {
            cluster: name(far),
            addresses: vec![format!("localhost:{}", dialled.port())],
            identity: format!("cn:{}", self.plan.clusters[far]).parse().unwrap(),
            qkd_links: fibre.map(link_id).into_iter().collect(),
            relay,
            combine: self.plan.combine[at],
            module: "module".into(),
        }
    }

    /// An application `sae-<cluster>` at each cluster, all paired.
    fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let app = |name: &str| sae(&format!("sae-{name}"));
        for name in &self.plan.clusters {
            registry.register(app(name), [cluster(name)]).unwrap();
        }
        if let [first, .., last] = self.plan.clusters[..] {
            registry.require(&app(first), &app(last), self.plan.grade);
        }
        for (i, one) in self.plan.clusters.iter().enumerate() {
            for other in &self.plan.clusters[i + 1..] {
                registry.pair(&app(one), &app(other)).unwrap();
            }
        }
        registry
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Copies an object from one cluster to another, twice, and the ciphers and the grade it has there.
    pub async fn copy(&self, from: usize, to: usize, origin: Origin) -> (Vec<HopCipher>, Grade) {
        let (here, there) = (&self.kms[from], &self.kms[to]);
        let uid = format!("{origin:?} {from} {to}");
        let object = (random(48), Provenance::local(origin));
        here.shelf.objects.lock().unwrap().insert(uid.clone(), object.clone());
        let app = sae(&format!("sae-{}", self.plan.clusters[to]));
        for expected in [Placed::Stored, Placed::There] {
            let (name, placed, _) = here.links.copy(&uid, &app).await.unwrap();
            assert_eq!((name, placed), (uid.clone(), expected));
        }
        let (bytes, way) = there.shelf.objects.lock().unwrap()[&uid].clone();
        assert_eq!((bytes, &way.origin), (object.0, &object.1.origin));
        (way.path.iter().map(|hop| hop.cipher).collect(), way.grade())
    }

    /// Stops all in order, and checks each account against the records.
    pub async fn stop_and_audit(&self) {
        self.kms.iter().for_each(|km| km.stop.start());
        self.until("all links are down", |net| {
            net.kms.iter().all(|km| km.links.status().iter().all(|link| !link.up))
        })
        .await;
        // What was being stored when the link went down.
        tokio::time::sleep(Duration::from_millis(300)).await;
        for km in &self.kms {
            km.assert_balanced().await;
        }
    }
}
