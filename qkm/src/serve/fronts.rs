//! What applications connect to. Enter through [`Fronts::start`].

use std::{net::SocketAddr, sync::Arc};

use authority::Authority;
use key_supply::Etsi014;
use tokio::{net::TcpListener, task::JoinSet};
use tracing::{info, warn};
use transport::{
    ListenerLimits, ListenerStats, PeerIdentity, Profile, ServerConfig, ServerStream, Shutdown,
    client_config, server_config,
};

use super::{Node, failures::of_tls};
use crate::{
    config::{Config, Front, KmipCa},
    fault::{Code, Failure},
};

/// The fronts of one key manager; each is there whether it listens or not, so that metrics are.
pub(crate) struct Fronts {
    pub(crate) etsi014: Arc<Etsi014>,
    pub(crate) kmip: Arc<kmip_server::Server>,
    /// Connections by front.
    pub(crate) stats: Stats,
}

/// Counters of each listener.
#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) etsi014: Arc<ListenerStats>,
    pub(crate) kmip: Arc<ListenerStats>,
    pub(crate) kmip_https: Arc<ListenerStats>,
    pub(crate) km_link: Arc<ListenerStats>,
    pub(crate) admin: Arc<ListenerStats>,
    pub(crate) desk: Arc<ListenerStats>,
}

impl Stats {
    /// By the names metrics use.
    pub(crate) fn each(&self) -> [(&'static str, &ListenerStats); 6] {
        [
            ("etsi014", &self.etsi014),
            ("kmip", &self.kmip),
            ("kmip_https", &self.kmip_https),
            ("km_link", &self.km_link),
            ("admin", &self.admin),
            ("desk", &self.desk),
        ]
    }
}

impl Fronts {
    pub(super) fn new(config: &Config, node: &Node) -> Self {
        let (supply, objects) = (node.supply.clone(), node.objects.clone());
        let lenience = config.lenience;
        let limits = kmip_server::Limits { lenience, ..Default::default() };
        Self {
            etsi014: Etsi014::new(supply.clone(), config.directory_without_logins()),
            kmip: kmip_server::Server::new(
                supply,
                objects,
                config.directory(),
                limits,
                &config.policies,
            ),
            stats: Stats::default(),
        }
    }

    /// Lets KMIP clients have certificates, as far as configured; the authority that is to issue them
    /// may be made later.
    pub(crate) async fn certify(&self, config: &Config, node: &Node) -> Result<(), Failure> {
        let Some(ca) = &config.kmip_ca else { return Ok(()) };
        let found = Authority::open(&node.objects, &ca.name).await;
        let failed = |e| Failure::new(Code::C003, format!("[kmip_ca]: {e}"));
        match found.map_err(failed)? {
            Some(authority) => self.certify_with(ca, authority),
            None => {
                warn!(
                    authority = ca.name,
                    "there is no such authority yet: make it with `qkm ca make`"
                );
            }
        }
        Ok(())
    }

    /// From now on KMIP clients have certificates from `authority`.
    pub(crate) fn certify_with(&self, ca: &KmipCa, authority: Authority) {
        let (applications, days) = (ca.applications.clone(), ca.days);
        self.kmip.certify_with(kmip_server::Certifier { authority, applications, days });
    }

    /// Opens the configured listeners and serves them in `tasks` until `shutdown`.
    pub(super) async fn start(
        &self,
        config: &Config,
        tasks: &mut JoinSet<()>,
        shutdown: &Shutdown,
    ) -> Result<(), Failure> {
        if let Some(front) = &config.etsi014 {
            let (service, stop) = (self.etsi014.clone(), shutdown.clone());
            let handler = move |stream: ServerStream, peer: PeerIdentity| {
                let (service, stop) = (service.clone(), stop.clone());
                async move { service.serve(stream, peer, stop).await }
            };
            let open = Listening::open("etsi014", front, Profile::Front).await?;
            tasks.spawn(open.serve(self.stats.etsi014.clone(), handler, shutdown.clone()));
        }
        if let Some(front) = &config.kmip {
            let (service, stop) = (self.kmip.clone(), shutdown.clone());
            let handler = move |stream: ServerStream, peer: PeerIdentity| {
                let (service, stop) = (service.clone(), stop.clone());
                async move { service.serve_connection(stream, peer, stop).await }
            };
            let open = Listening::open("kmip", front, Profile::Front).await?;
            tasks.spawn(open.serve(self.stats.kmip.clone(), handler, shutdown.clone()));
        }
        if let Some(front) = config.kmip.as_ref().or(config.kmip_https.as_ref()) {
            let tls = client_config(&front.tls(), Profile::Front);
            self.kmip.tell_over(&tls.map_err(|e| of_tls("[kmip]", &e))?);
        }
        if let Some(front) = &config.kmip_https {
            let (service, stop) = (self.kmip.clone(), shutdown.clone());
            let handler = move |stream: ServerStream, peer: PeerIdentity| {
                let (service, stop) = (service.clone(), stop.clone());
                async move { service.serve_http(stream, peer, stop).await }
            };
            let open = Listening::open("kmip_https", front, Profile::Front).await?;
            self.kmip.also_over_https();
            tasks.spawn(open.serve(self.stats.kmip_https.clone(), handler, shutdown.clone()));
        }
        Ok(())
    }
}

/// An open port with its certificate.
pub(crate) struct Listening {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    limits: ListenerLimits,
}

impl Listening {
    /// Opens the port of the table `name`.
    pub(crate) async fn open(name: &str, front: &Front, profile: Profile) -> Result<Self, Failure> {
        let table = format!("[{name}]");
        let tls = server_config(&front.tls(), profile).map_err(|e| of_tls(&table, &e))?;
        let listener = bind(&table, front.listen).await?;
        info!(front = name, address = %front.listen, "listening");
        let limits = ListenerLimits { connections: front.connections, ..Default::default() };
        Ok(Self { listener, tls, limits })
    }

    /// Serves it until `shutdown`.
    pub(crate) async fn serve<H, F>(self, stats: Arc<ListenerStats>, handler: H, shutdown: Shutdown)
    where
        H: Fn(ServerStream, PeerIdentity) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { listener, tls, limits } = self;
        transport::serve(listener, tls, limits, stats, handler, shutdown).await;
    }
}

/// Listens on `address` for the table `table`.
pub(crate) async fn bind(table: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(Code::L001, format!("{table} cannot listen on {address}: {error}"))
            .help(format!("choose a free address of this machine as listen in {table}"))
    })
}
