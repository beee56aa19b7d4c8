//! One KM link: what it is configured as, what it needs, and what is counted of it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use km_core::{
    clock::now_ms,
    copies::Copies,
    ids::{ClusterId, LinkId},
    module::ModuleSource,
    peer::Fingerprint,
    pool::Pool,
    route::{CipherPolicy, Route},
    supply::Supply,
};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Mutex, Notify, RwLock, watch},
};
use transport::{IdentityRule, Shutdown};

use crate::{
    channels::{ChannelView, Channels},
    combine::Combine,
    driver,
    feed::Mode,
    handle::Handle,
    hop::{
        engine::{Relay, Scheme},
        link_key::Exported,
        source::{RelayConfig, RelaySource},
    },
    session::Feed,
};

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
    pub(crate) fn pads(&self) -> Option<RelayConfig> {
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
    pub(crate) fn carries(&self) -> bool {
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
    pub(crate) in_use: Mutex<()>,
    /// Read while a block is being stored or a key pair is in use; written to wait for all of that.
    pub(crate) storing: Arc<RwLock<()>>,
    /// Asks the connection in use to end.
    pub(crate) replaced: Notify,
    /// Which connection is the newest; only that one may go on.
    pub(crate) turns: AtomicU64,
    /// Certificates of KMs that this cluster took out.
    pub(crate) gone: watch::Sender<BTreeSet<Fingerprint>>,
    pub(crate) channels: Channels,
}

impl Peer {
    pub(crate) fn leads(&self) -> bool {
        self.supply.here() < &self.config.cluster
    }

    pub(crate) fn view(&self) -> LinkView {
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
    pub(crate) async fn serve<S>(
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
