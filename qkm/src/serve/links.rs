//! Links to other key managers and to our QKD modules. Enter through [`Links::new`].

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use km_core::{
    copies::{Copies, CopyError, Placed},
    ids::{ClusterId, LinkId, SaeId},
    module::ModuleSource,
    peer::Fingerprint,
    provenance::Provenance,
};
use qkd_ingest::{LinkCondition, Module, ModuleConfig};
use tokio::{sync::watch, task::JoinSet};
use transport::{PeerIdentity, Profile, ServerStream, Shutdown, client_config};

use super::{
    Control, Inside, Listening,
    control::{self, Gate, Switch, Way},
    failures::of_tls,
};
use crate::{
    config::{self, Config},
    fault::{Code, Failure},
};

/// The links of one key manager.
pub(crate) struct Links {
    /// What is to be connected; absent when there are no peers.
    plan: Option<Plan>,
    /// The KM links while they are this KM's to keep.
    km: RwLock<Option<Arc<relay::Links>>>,
    /// Our modules, by link and peer.
    pub(crate) modules: Vec<(LinkId, ClusterId, Arc<Module>)>,
}

type Peers = Vec<(relay::PeerConfig, Option<Arc<dyn ModuleSource>>)>;

struct Plan {
    tls: Arc<transport::ClientConfig>,
    peers: Peers,
}

impl Links {
    /// Opens our modules, which are left alone when `control` says so. Nothing is connected yet.
    pub(super) fn new(config: &Config, control: &Control) -> Result<Self, Failure> {
        let Some(own) = &config.km_link else {
            return Ok(Self { plan: None, km: RwLock::default(), modules: Vec::new() });
        };
        let tls =
            client_config(&own.tls(), Profile::KmLink).map_err(|e| of_tls("[km_link]", &e))?;
        let (mut peers, mut modules) = (Vec::new(), Vec::new());
        for peer in &config.peers {
            let mut ways = Vec::new();
            for qkd in &peer.qkd {
                let module = open_module(&qkd.module)?;
                modules.push((qkd.id.clone(), peer.cluster.clone(), module.clone()));
                let (link, withheld) = (qkd.id.clone(), control.withheld.clone());
                let (watched, out, own) = (module.clone(), withheld.clone(), link.clone());
                let gate = Arc::new(Gate { module, link: link.clone(), withheld });
                let held = move || control::lock(&out).contains(&own);
                let works = Box::new(move || works(&watched) && !held());
                ways.push(Way { link, module: gate as Arc<dyn ModuleSource>, works });
            }
            let source = (!ways.is_empty()).then(|| {
                let (peer, serving) = (peer.cluster.clone(), control.serving.clone());
                Arc::new(Switch::new(peer, ways, serving)) as Arc<dyn ModuleSource>
            });
            let first = peer.qkd.first();
            let settings = relay::PeerConfig {
                cluster: peer.cluster.clone(),
                addresses: peer.addresses.clone(),
                identity: peer.identity.clone(),
                qkd_links: peer.qkd.iter().map(|qkd| qkd.id.clone()).collect(),
                relay: peer.relay.clone(),
                combine: peer.combine,
                module: first.map_or_else(String::new, |qkd| qkd.module.address.clone()),
            };
            peers.push((settings, source));
        }
        Ok(Self { plan: Some(Plan { tls, peers }), km: RwLock::default(), modules })
    }

    /// Connects the pools to their links and keeps these up in `tasks` until `shutdown`; the relay goes by
    /// the routes of the controller.
    pub(super) fn begin(&self, inside: &Inside, tasks: &mut JoinSet<()>, shutdown: &Shutdown) {
        let Some(Plan { tls, peers }) = &self.plan else { return };
        let Inside { node, control, fronts, .. } = inside;
        let (supply, random, routes) = (&node.supply, node.random.clone(), control.board.clone());
        let copies: Arc<dyn Copies> = fronts.kmip.clone();
        let (tls, peers) = (tls.clone(), peers.clone());
        let km = relay::Links::new(supply, tls, random, routes, Some(copies), peers);
        tasks.spawn(km.clone().run(shutdown.clone()));
        if let Some(membership) = &node.membership {
            tasks.spawn(tell_gone(km.clone(), membership.gone(), shutdown.clone()));
        }
        *self.km.write().unwrap_or_else(PoisonError::into_inner) = Some(km);
    }

    /// The links are another KM's to keep.
    pub(super) fn end(&self) {
        *self.km.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn km(&self) -> Option<Arc<relay::Links>> {
        self.km.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Listens, and watches the modules, in `tasks` until `shutdown`. Who dials while the links are
    /// not this KM's is closed at once, and dials another.
    pub(super) async fn start(
        inside: &Arc<Inside>,
        config: &Config,
        tasks: &mut JoinSet<()>,
        shutdown: &Shutdown,
    ) -> Result<(), Failure> {
        let Some(own) = &config.km_link else { return Ok(()) };
        let (at, stop) = (inside.clone(), shutdown.clone());
        let handler = move |stream: ServerStream, peer: PeerIdentity| {
            let (km, stop) = (at.links.km(), stop.clone());
            async move {
                if let Some(km) = km {
                    km.accept(stream, peer, stop).await;
                }
            }
        };
        let open = Listening::open("km_link", own, Profile::KmLink).await?;
        let stats = inside.fronts.stats.km_link.clone();
        tasks.spawn(open.serve(stats, handler, shutdown.clone()));
        for (_, _, module) in &inside.links.modules {
            let (module, stop) = (module.clone(), shutdown.clone());
            tasks.spawn(async move { module.watch(stop).await });
        }
        Ok(())
    }

    /// Orders bytes by relay; whether relay feeds that pool.
    pub(crate) fn order(&self, peer: &ClusterId, bytes: u64) -> bool {
        self.km().is_some_and(|km| km.order(peer, bytes))
    }

    /// Copies an object to an application at another cluster; see [`relay::Links::copy`].
    pub(crate) async fn copy(
        &self,
        name: &str,
        to: &SaeId,
    ) -> Result<(String, Placed, Provenance), CopyError> {
        let away = || CopyError::Unavailable("this key manager keeps no links now".to_owned());
        self.km().ok_or_else(away)?.copy(name, to).await
    }

    /// The relay as an operator sees it; absent when there are no peers.
    pub(crate) fn relay(&self) -> Option<relay::RelayView> {
        self.km().map(|km| km.relay())
    }

    /// The KM links as an operator sees them.
    pub(crate) fn status(&self) -> Vec<relay::LinkView> {
        self.km().map(|km| km.status()).unwrap_or_default()
    }
}

/// Tells the peers which KMs of this cluster are taken out, until `shutdown`.
async fn tell_gone(
    km: Arc<relay::Links>,
    mut gone: watch::Receiver<BTreeSet<Fingerprint>>,
    shutdown: Shutdown,
) {
    loop {
        let now = gone.borrow_and_update().clone();
        km.tell_gone(&now);
        tokio::select! {
            Ok(()) = gone.changed() => {}
            () = shutdown.requested() => return,
            else => return,
        }
    }
}

/// Whether a module answers and says nothing bad of its link.
fn works(module: &Module) -> bool {
    let status = module.status();
    let dark = status
        .link
        .is_some_and(|link| matches!(link.condition, LinkCondition::Down | LinkCondition::Aborted));
    status.reachable && !dark
}

fn open_module(settings: &config::Module) -> Result<Arc<Module>, Failure> {
    let of = "[qkd_link.module]";
    let tls = client_config(&settings.tls(), Profile::Front).map_err(|e| of_tls(of, &e))?;
    let mut module = ModuleConfig::new(&settings.address, &settings.sae, &settings.peer_sae);
    module.server_name.clone_from(&settings.server_name);
    module.identity.clone_from(&settings.identity);
    module.key_size_bits = settings.key_size_bits;
    module.status_path.clone_from(&settings.status_path);
    module.status_interval_ms = settings.status_interval_ms;
    Module::new(module, tls).map_err(|e| Failure::new(Code::Q001, format!("{of}: {e}")))
}
