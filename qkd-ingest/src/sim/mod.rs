//! A simulated QKD link: two modules that a key manager cannot tell from vendor devices. Enter
//! through [`run`], or [`Sim`] to know the addresses and hold the fault switch.
//!
//! - [`physics`]: loss, QBER and key rate of the fibre and the devices.
//! - `link`: identical random bits at both ends at that rate; `buffer`: keys waiting for the
//!   other end.
//! - `module`: the ETSI GS QKD 014 server of each end. [`Fault`]: what can be made to go wrong.
//!
//! A simulation protects nothing: both ends live in one process.

mod buffer;
mod config;
mod fault;
mod link;
mod module;
pub mod physics;

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use hyper::service::service_fn;
use tokio::net::TcpListener;
use tracing::info;
use transport::{
    ListenerLimits, ListenerStats, PeerIdentity, Profile, ServerConfig, ServerStream, Shutdown,
    TlsError,
    http::{HttpLimits, serve_http},
    serve, server_config,
};

pub use config::{KeyLimits, Max, ModuleConfig, Passes, RateOverride, SimConfig};
pub use fault::{End, Fault, FaultKind, FaultRequest};
pub use link::{LinkState, LinkStatus};

use link::Link;
use module::Module;

/// Why a simulation does not start. All need a person.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The configuration contradicts itself.
    #[error("simulated link: {0}")]
    Config(&'static str),
    /// Certificate files.
    #[error("simulated module {end:?}: {source}")]
    Tls {
        /// Which module.
        end: End,
        /// What is wrong.
        source: TlsError,
    },
    /// The address cannot be listened on.
    #[error("simulated module {end:?} cannot listen on {address}: {source}. Choose a free address")]
    Listen {
        /// Which module.
        end: End,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Serves both modules until `shutdown`.
pub async fn run(config: SimConfig, shutdown: Shutdown) -> Result<(), SimError> {
    Sim::start(config).await?.run(shutdown).await;
    Ok(())
}

/// Two modules that listen but do not answer until [`Sim::run`].
pub struct Sim {
    modules: [Open; 2],
    addresses: [SocketAddr; 2],
    handle: SimHandle,
}

/// Switches faults and reads the link from within the process. Cheap to clone.
#[derive(Clone)]
pub struct SimHandle(Arc<Link>);

impl SimHandle {
    /// Switches a fault, at once.
    pub fn switch(&self, fault: Fault) {
        self.0.switch(fault, Instant::now());
    }

    /// The link as its modules report it.
    pub fn status(&self) -> LinkStatus {
        self.0.status(Instant::now())
    }
}

impl Sim {
    /// Checks the configuration, loads the certificates and opens both listeners.
    pub async fn start(config: SimConfig) -> Result<Self, SimError> {
        config.check()?;
        let link = Arc::new(Link::new(&config, Instant::now()));
        let module = |end, own: &ModuleConfig, peer: &ModuleConfig| Module {
            end,
            config: own.clone(),
            peer: peer.clone(),
            keys: config.keys.clone(),
            admins: config.admins.clone(),
            link: link.clone(),
        };
        let a = open(module(End::A, &config.a, &config.b)).await?;
        let b = open(module(End::B, &config.b, &config.a)).await?;
        let addresses = [a.1, b.1];
        info!(a = %a.1, b = %b.1, loss_db = config.link.fibre.loss_db(), "simulated link");
        Ok(Self { modules: [a.0, b.0], addresses, handle: SimHandle(link) })
    }

    /// Where the module at `end` listens.
    pub fn address(&self, end: End) -> SocketAddr {
        self.addresses[end as usize]
    }

    /// The fault switch.
    pub fn handle(&self) -> SimHandle {
        self.handle.clone()
    }

    /// Serves both modules until `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        let [a, b] = self.modules;
        tokio::join!(serve_module(a, shutdown.clone()), serve_module(b, shutdown));
    }
}

type Open = (Arc<Module>, TcpListener, Arc<ServerConfig>);

async fn open(module: Module) -> Result<(Open, SocketAddr), SimError> {
    let (end, address) = (module.end, module.config.listen);
    let tls = server_config(&module.config.tls, Profile::Front)
        .map_err(|source| SimError::Tls { end, source })?;
    let listen = |source| SimError::Listen { end, address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    Ok(((Arc::new(module), listener, tls), bound))
}

async fn serve_module((module, listener, tls): Open, shutdown: Shutdown) {
    let stop = shutdown.clone();
    let handler = move |stream: ServerStream, peer: PeerIdentity| {
        let (module, stop) = (module.clone(), stop.clone());
        // Subscribed before serving, so that no restart is missed.
        let mut restarts = module.link.restarts(module.end);
        async move {
            let service = service_fn(|request| module.clone().answer(request));
            tokio::select! {
                () = serve_http(stream, peer, service, HttpLimits::default(), stop) => {}
                _ = restarts.changed() => {}
            }
        }
    };
    let stats = Arc::new(ListenerStats::default());
    serve(listener, tls, ListenerLimits::default(), stats, handler, shutdown).await;
}
