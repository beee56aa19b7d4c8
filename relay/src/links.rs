//! All KM links of one KM. Enter through [`Links::new`], then [`Links::run`] and
//! [`Links::accept`].
//!
//! The end whose cluster name sorts lower dials; the other accepts. One connection a peer at a
//! time: a new one ends the old one first.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use km_core::{
    clock::now_ms,
    copies::{Copies, CopyError, Placed},
    ids::{ClusterId, LinkId, SaeId},
    module::ModuleSource,
    peer::Fingerprint,
    pool::Pool,
    provenance::Provenance,
    random::Random,
    route::{CipherPolicy, Route, Routes},
    supply::Supply,
};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Mutex, Notify, RwLock, watch},
    task::JoinSet,
};
use transport::{
    ConnectError, Directory, IdentityRule, PeerIdentity, ServerStream, Shutdown, TlsClient,
};

pub use crate::channels::ChannelView;
use crate::{
    channels::Channels,
    combine::Combine,
    driver,
    feed::Mode,
    frame::Frame,
    handle::Handle,
    hop::{
        engine::{Relay, RelayView, Scheme},
        link_key::Exported,
        neighbour::Neighbour,
        source::{RelayConfig, RelayModule, RelaySource},
    },
    session::Feed,
};

const DIAL_WITHIN: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Of a cluster of several KMs another one may answer at any moment.
const LONGEST_PAUSE_OF_MANY: Duration = Duration::from_millis(400);
/// Where a connection that ended lasted so long, another channel is tried at once.
const LASTED: Duration = Duration::from_secs(1);

/// The other end of one link.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Its cluster.
    pub cluster: ClusterId,
    /// `host:port` of each classical channel, and of each of its KMs, of which one answers, first choice
    /// first; one is needed when our cluster name sorts lower, for that end dials.
    pub addresses: Vec<String>,
    /// What its certificate must be.
    pub identity: IdentityRule,
    /// The QKD links that fill the pool, one at a time, first choice first. The keys of the source say
    /// which they came over.
    pub qkd_links: Vec<LinkId>,
    /// How relay fills the pool, where no QKD link does.
    pub relay: Option<RelayConfig>,
    /// How its blocks are combined with ML-KEM, if they are.
    pub combine: Option<Combine>,
    /// Name of our module on it, for metadata.
    pub module: String,
}

impl PeerConfig {
    pub(crate) fn feed(&self) -> Option<Feed> {
        let by_relay = self.relay.as_ref().map(|relay| match relay.by_km_link() {
            true => Feed::KmLink,
            false => Feed::Relay,
        });
        match self.qkd_links.as_slice() {
            [] => by_relay,
            links => Some(Feed::Qkd(links.to_vec())),
        }
    }

    /// How bits come that both ends hold, for what is not of the pool: as the pool is fed, or straight out
    /// of the pool that a QKD link feeds.
    fn pads(&self) -> Option<RelayConfig> {
        let direct = || RelayConfig {
            route: Route::new(vec![self.cluster.clone()], CipherPolicy::default()).ok(),
            cipher: CipherPolicy::default(),
            scheme: Scheme::FirstKey,
            mode: Mode::Manual,
            ways: 1,
        };
        match self.qkd_links.is_empty() {
            true => self.relay.clone(),
            false => Some(direct()),
        }
    }

    /// Whether batches may be sent on to this peer.
    fn carries(&self) -> bool {
        matches!(self.feed(), Some(Feed::Qkd(_) | Feed::KmLink))
    }
}

/// A link as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct LinkView {
    /// The cluster at the other end.
    pub peer: ClusterId,
    /// Whether messages get through now.
    pub up: bool,
    /// Milliseconds since the Unix epoch when that last changed.
    pub since_ms: u64,
    /// Connections made so far.
    pub connections: u64,
    /// Blocks agreed since start.
    pub agreed: u64,
    /// Blocks refused since start because the ends held different bits.
    pub mismatched: u64,
    /// Blocks given up since start for any other reason.
    pub given_up: u64,
    /// Blocks being agreed on now.
    pub in_flight: u64,
    /// Whether the pool beside it has no QKD, and the link itself fills it.
    pub without_qkd: bool,
    /// Its classical channels, first choice first, at the end that dials.
    pub channels: Vec<ChannelView>,
    /// Batches of relayed keys sent over it since start.
    pub hops_sent: u64,
    /// Bytes of keys in them.
    pub hop_bytes_sent: u64,
    /// Batches of relayed keys that came over it and opened since start.
    pub hops_opened: u64,
    /// Bytes of keys in them.
    pub hop_bytes_opened: u64,
    /// Batches that came over it since start and did not open.
    pub hops_refused: u64,
    /// Signs of somebody in the middle since start: connections and batches that were altered,
    /// and KMs with another identity.
    pub tampered: u64,
}

/// Counts of one link since start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) up: AtomicBool,
    pub(crate) since_ms: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) agreed: AtomicU64,
    pub(crate) mismatched: AtomicU64,
    pub(crate) given_up: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) hops_opened: AtomicU64,
    pub(crate) hop_bytes_opened: AtomicU64,
    pub(crate) hops_refused: AtomicU64,
    pub(crate) tampered: AtomicU64,
}

/// One link and all it needs.
pub(crate) struct Peer {
    pub(crate) config: PeerConfig,
    pub(crate) supply: Arc<Supply>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) source: Option<Arc<dyn ModuleSource>>,
    /// Brings bits that hide single objects, and finds those that the other end brought.
    pub(crate) pads: Option<Arc<RelaySource>>,
    pub(crate) copies: Option<Arc<dyn Copies>>,
    pub(crate) handle: Arc<Handle>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) counters: Counters,
    /// Held by the connection in use.
    in_use: Mutex<()>,
    /// Read while a block is being stored or a key pair is in use; written to wait for all of that.
    pub(crate) storing: Arc<RwLock<()>>,
    /// Asks the connection in use to end.
    pub(crate) replaced: Notify,
    /// Which connection is the newest; only that one may go on.
    pub(crate) turns: AtomicU64,
    /// Certificates of KMs that this cluster took out.
    pub(crate) gone: watch::Sender<BTreeSet<Fingerprint>>,
    channels: Channels,
}

/// The KM links of one KM.
pub struct Links {
    tls: Arc<rustls::ClientConfig>,
    peers: Vec<Arc<Peer>>,
    relay: Arc<Relay>,
    copies: Option<Arc<dyn Copies>>,
    directory: Directory<usize>,
}

impl Links {
    /// Connects each peer's pool to its link. Peers without a pool in `supply` are left out.
    ///
    /// `random` makes keys to be relayed where a peer's relay says so; `routes` tells the ways; `copies`
    /// takes objects that are copied here one by one.
    pub fn new(
        supply: &Arc<Supply>,
        tls: Arc<rustls::ClientConfig>,
        random: Arc<Random>,
        routes: Arc<dyn Routes>,
        copies: Option<Arc<dyn Copies>>,
        peers: Vec<(PeerConfig, Option<Arc<dyn ModuleSource>>)>,
    ) -> Arc<Self> {
        let connected: Vec<_> =
            peers.into_iter().filter_map(|peer| connect(supply, peer)).collect();
        let carrying = connected.iter().filter(|(config, ..)| config.carries());
        let neighbours = carrying.map(|(config, _, pool, handle)| {
            let (cluster, link) = (config.cluster.clone(), config.qkd_links.first().cloned());
            Arc::new(Neighbour::new(cluster, link, pool.clone(), handle.clone()))
        });
        let relay = Relay::new(supply.here().clone(), random, routes, neighbours);
        let directory = Directory::default();
        let mut links = Self {
            tls,
            peers: Vec::new(),
            relay: relay.clone(),
            copies: copies.clone(),
            directory,
        };
        for (config, source, pool, handle) in connected {
            let settings = config.pads();
            let pads = settings.map(|s| RelaySource::new(relay.clone(), pool.clone(), s));
            let source = source.or_else(|| {
                let source = pads.clone().filter(|_| config.relay.is_some())?;
                pool.hears_demand();
                Some(Arc::new(RelayModule(source)) as Arc<dyn ModuleSource>)
            });
            links.directory.add(config.identity.clone(), links.peers.len());
            links.peers.push(Arc::new(Peer {
                channels: Channels::new(config.addresses.len()),
                config,
                supply: supply.clone(),
                pool,
                source,
                pads,
                copies: copies.clone(),
                handle,
                relay: relay.clone(),
                counters: Counters::default(),
                in_use: Mutex::new(()),
                storing: Arc::default(),
                replaced: Notify::new(),
                turns: AtomicU64::new(0),
                gone: watch::Sender::default(),
            }));
        }
        Arc::new(links)
    }

    /// Dials the peers that are ours to dial and keeps their links up until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) {
        let mut dialling = JoinSet::new();
        for peer in &self.peers {
            if !peer.leads() {
                continue;
            }
            let (peer, tls, shutdown) = (peer.clone(), self.tls.clone(), shutdown.clone());
            dialling.spawn(async move { keep_up(peer, tls, shutdown).await });
        }
        dialling.spawn(self.relay.clone().tend(shutdown));
        while dialling.join_next().await.is_some() {}
    }

    /// Serves one accepted connection until it ends. Whoever is not a peer that should dial us is
    /// closed at once.
    pub async fn accept(
        self: Arc<Self>,
        stream: ServerStream,
        identity: PeerIdentity,
        shutdown: Shutdown,
    ) {
        let from = identity.address();
        let found = self.directory.find(&identity).and_then(|at| self.peers.get(*at));
        let Some(peer) = found.filter(|peer| !peer.leads()) else {
            tracing::warn!(%from, alarm = "km-link-refused", "not a peer that should dial this KM");
            return;
        };
        if peer.pool.is_barred(identity.sha256()) {
            let peer = &peer.config.cluster;
            tracing::warn!(%from, %peer, shows = %identity, alarm = "km-link-refused",
                "this key manager was taken out of its cluster");
            return;
        }
        let exported = Exported::of(stream.get_ref().1, false);
        peer.serve(stream, (*identity.sha256(), exported), &shutdown).await;
    }

    /// Tells all peers which KMs this cluster took out, by their certificates, now and whenever a
    /// link comes up.
    pub fn tell_gone(&self, certificates: &BTreeSet<Fingerprint>) {
        for peer in &self.peers {
            peer.gone.send_if_modified(|known| {
                let news = known != certificates;
                known.clone_from(certificates);
                news
            });
        }
    }

    /// Orders `bytes` for the pool with `peer`, by hand; it comes when the relay can bring it. Whether
    /// relay feeds that pool.
    pub fn order(&self, peer: &ClusterId, bytes: u64) -> bool {
        let found = self.peers.iter().find(|candidate| candidate.config.cluster == *peer);
        let Some(peer) = found.filter(|peer| peer.config.relay.is_some()) else { return false };
        match peer.leads() {
            true => peer.pool.order(bytes),
            false => peer.handle.send_best_effort(Frame::Order(bytes)),
        }
        true
    }

    /// Copies the object `name` to the application `to` at another cluster, over the link to that cluster:
    /// the object's identifier, what became of it, and how the copy came there.
    ///
    /// # Errors
    /// Those of [`Copies::leaving`] and of the other end.
    pub async fn copy(
        &self,
        name: &str,
        to: &SaeId,
    ) -> Result<(String, Placed, Provenance), CopyError> {
        let copies = self
            .copies
            .as_ref()
            .ok_or_else(|| CopyError::Refused("this key manager has no objects".to_owned()))?;
        let leaving = copies.leaving(name, to).await?;
        let (uid, cluster) = (leaving.copy.uid.clone(), leaving.cluster.clone());
        let peer = self.peers.iter().find(|peer| peer.config.cluster == cluster);
        let peer = peer.cloned().ok_or_else(|| {
            CopyError::Refused(format!("{cluster}, where {to} is, is no peer of this key manager"))
        })?;
        // Not given up half-way when nobody waits any more: pad would be burned.
        let sending = tokio::spawn(async move { peer.send_copy(leaving).await });
        let stopped = |_| CopyError::Unavailable("the relay is stopping".to_owned());
        let (placed, way) = sending.await.map_err(stopped)??;
        tracing::info!(uid, %to, %cluster, grade = way.grade().as_str(), "an object was copied");
        Ok((uid, placed, way))
    }

    /// What passes through this KM, and what it brought.
    pub fn relay(&self) -> RelayView {
        self.relay.view()
    }

    /// All links.
    pub fn status(&self) -> Vec<LinkView> {
        self.peers.iter().map(|peer| peer.view()).collect()
    }
}

impl Peer {
    fn leads(&self) -> bool {
        self.supply.here() < &self.config.cluster
    }

    fn view(&self) -> LinkView {
        let count = &self.counters;
        LinkView {
            peer: self.config.cluster.clone(),
            up: count.up.load(Relaxed),
            since_ms: count.since_ms.load(Relaxed),
            connections: count.connections.load(Relaxed),
            agreed: count.agreed.load(Relaxed),
            mismatched: count.mismatched.load(Relaxed),
            given_up: count.given_up.load(Relaxed),
            in_flight: count.in_flight.load(Relaxed),
            without_qkd: self.config.feed() == Some(Feed::KmLink),
            channels: self.channels.views(&self.config.addresses, count.up.load(Relaxed)),
            hops_sent: self.handle.hops.load(Relaxed),
            hop_bytes_sent: self.handle.hop_bytes.load(Relaxed),
            hops_opened: count.hops_opened.load(Relaxed),
            hop_bytes_opened: count.hop_bytes_opened.load(Relaxed),
            hops_refused: count.hops_refused.load(Relaxed),
            tampered: count.tampered.load(Relaxed),
        }
    }

    pub(crate) fn set_up(&self, up: bool) {
        if self.counters.up.swap(up, Relaxed) != up {
            self.counters.since_ms.store(now_ms(), Relaxed);
            let peer = &self.config.cluster;
            match up {
                true => tracing::info!(%peer, "KM link up"),
                false => tracing::warn!(%peer, alarm = "km-link-down", "KM link down"),
            }
        }
    }

    /// Somebody is in the middle, or takes the place of the peer.
    pub(crate) fn tampered(&self, what: &str) {
        self.counters.tampered.fetch_add(1, Relaxed);
        let peer = &self.config.cluster;
        tracing::error!(%peer, alarm = "km-link-tampered", "{what}; look for who is in the middle");
    }

    /// Whether the peer greeted, so that the link was up.
    async fn serve<S>(
        self: &Arc<Self>,
        stream: S,
        (shown, exported): (Fingerprint, Option<Exported>),
        shutdown: &Shutdown,
    ) -> bool
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let turn = self.turns.fetch_add(1, Relaxed) + 1;
        self.replaced.notify_waiters();
        let _in_use = self.in_use.lock().await;
        if self.turns.load(Relaxed) != turn {
            return false;
        }
        self.counters.connections.fetch_add(1, Relaxed);
        if let Err(error) = driver::run(self, stream, (shown, exported), turn, shutdown).await {
            tracing::warn!(peer = %self.config.cluster, %error, "KM link connection ended");
            if error.shows_tampering() {
                self.tampered("the connection carried what the peer did not send");
            }
        }
        self.handle.detach();
        let was_up = self.counters.up.load(Relaxed);
        self.set_up(false);
        was_up
    }
}

type Connected = (PeerConfig, Option<Arc<dyn ModuleSource>>, Arc<Pool>, Arc<Handle>);

fn connect(
    supply: &Supply,
    (config, source): (PeerConfig, Option<Arc<dyn ModuleSource>>),
) -> Option<Connected> {
    let pool = supply.pool(&config.cluster)?;
    let handle = Arc::new(Handle::default());
    pool.connect(handle.clone());
    Some((config, source, pool, handle))
}

async fn keep_up(peer: Arc<Peer>, tls: Arc<rustls::ClientConfig>, shutdown: Shutdown) {
    let mut pause = FIRST_PAUSE;
    let longest = match peer.config.addresses.len() {
        0 | 1 => LONGEST_PAUSE,
        _ => LONGEST_PAUSE_OF_MANY,
    };
    while !shutdown.is_requested() {
        let channel = peer.channels.current();
        let (mut was_up, began) = (false, Instant::now());
        match dial(&peer, channel, &tls).await {
            Ok((stream, shown)) => {
                peer.channels.works(channel);
                // A peer that takes the connection and refuses us is not asked ten times a second.
                let exported = Exported::of(stream.get_ref().1, true);
                was_up = peer.serve(stream, (shown, exported), &shutdown).await;
                if was_up {
                    pause = FIRST_PAUSE;
                }
            }
            Err(error) => {
                tracing::info!(peer = %peer.config.cluster, channel, %error, "cannot dial");
                if error.shows_tampering() {
                    peer.tampered("who answers at the peer's address is not the peer");
                }
            }
        }
        // A connection that ended says nothing good of its channel: the other is tried, at once unless
        // they all end soon.
        if !shutdown.is_requested() && peer.channels.failed(channel) && was_up {
            let (peer, next) = (&peer.config.cluster, peer.channels.current());
            tracing::warn!(%peer, from = channel, to = next, alarm = "channel-changed",
                "another classical channel takes over");
            if began.elapsed() >= LASTED {
                continue;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.requested() => return,
        }
        pause = (pause * 2).min(longest);
    }
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no `address` is configured for this peer, and this KM is the one to dial")]
    NoAddress,
    #[error("the certificate at {0} is not the one configured as `identity` of this peer")]
    WrongIdentity(String),
    #[error("who answers at {0} was taken out of its cluster")]
    TakenOut(String),
}

impl DialError {
    /// Somebody answered who could not prove to be the peer. What is only silent or closed may be a
    /// peer that is starting.
    fn shows_tampering(&self) -> bool {
        match self {
            Self::WrongIdentity(_) => true,
            Self::Connect(ConnectError::Tls { source, .. }) => altered(source),
            Self::Connect(_) | Self::NoAddress | Self::TakenOut(_) => false,
        }
    }
}

/// Whether TLS says that what it read was not made by the peer: nothing it answered itself, no
/// certificate out of its time, and no other version or setting.
pub(crate) fn altered(error: &std::io::Error) -> bool {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    use rustls::Error::{AlertReceived, InvalidCertificate, PeerIncompatible};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.is_some_and(|error| match error {
        AlertReceived(_) | PeerIncompatible(_) => false,
        InvalidCertificate(why) => !matches!(
            why,
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
        ),
        _ => true,
    })
}

async fn dial(
    peer: &Peer,
    channel: usize,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<(transport::TlsClientStream, Fingerprint), DialError> {
    let address = peer.config.addresses.get(channel).ok_or(DialError::NoAddress)?;
    let client = TlsClient::new(address, None, tls.clone())?;
    let (stream, identity) = client.connect(DIAL_WITHIN).await?;
    if !identity.matches(&peer.config.identity) {
        return Err(DialError::WrongIdentity(address.clone()));
    }
    match peer.pool.is_barred(identity.sha256()) {
        true => Err(DialError::TakenOut(address.clone())),
        false => Ok((stream, *identity.sha256())),
    }
}
