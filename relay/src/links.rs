//! All KM links of one KM. Enter through [`Links::new`], then [`Links::run`] and
//! [`Links::accept`].
//!
//! The end whose cluster name sorts lower dials; the other accepts. One connection a peer at a
//! time: a new one ends the old one first.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU64},
};

use km_core::{
    copies::{Copies, CopyError, Placed},
    ids::{ClusterId, SaeId},
    module::ModuleSource,
    peer::Fingerprint,
    pool::Pool,
    provenance::Provenance,
    random::Random,
    route::Routes,
    supply::Supply,
};
use tokio::{
    sync::{Mutex, Notify, watch},
    task::JoinSet,
};
use transport::{Directory, PeerIdentity, ServerStream, Shutdown};

pub use crate::{
    channels::ChannelView,
    peer::{LinkView, PeerConfig},
};
use crate::{
    channels::Channels,
    dialling::keep_up,
    frame::Frame,
    handle::Handle,
    hop::{
        engine::{Relay, RelayView},
        link_key::Exported,
        neighbour::Neighbour,
        source::{RelayModule, RelaySource},
    },
    peer::{Counters, Peer},
};

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
