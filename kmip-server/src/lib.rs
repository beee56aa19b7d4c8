//! KMIP 1.0 to 2.1 over the supply of pool keys and the managed objects. Enter through
//! [`Server::serve_connection`] and [`Server::serve_http`].
//!
//! | Module | What lives there |
//! |---|---|
//! | `connection` | the socket loop: frames in, answers out, deadlines |
//! | `web` | the same over HTTPS, in TTLV, JSON or XML |
//! | `batch`, `item` | one frame to one answer; the `match` over operations |
//! | `undo`, `unit` | batches, and single operations on several objects, done as a whole or not at all |
//! | `caller`, `login` | who asks; without it there is no way to a request's items |
//! | `policy`, `pace` | what an application may do, and how fast |
//! | `tickets` | what Login and Delegated Login give |
//! | `later` | operations in the background |
//! | `notices` | what clients are told without asking: Notify and Put |
//! | `profiles` | the profiles that Query tells |
//! | `op` | one file per operation |
//! | `find` | an identifier to an object, also when it is a pool key not collected yet |
//! | `qkd` | pool keys that become managed objects |
//! | `copies` | objects that the relay copies to and from other clusters |
//! | `meta`, `wanted`, `shown`, `terms` | attributes: as stored, asked for, answered, searched |
//! | `house` | what a tenant has set for its new objects |
//! | `certificate`, `certifier` | what certificates say about themselves; who issues them to whom |
//! | `material` | objects to clear bytes and back |
//! | `formats` | key material from one Key Format Type to another |
//! | `wrap` | keys wrapped by other keys |
//! | `storage` | whether an object is kept inside the HSM |
//! | `split` | keys in parts |
//! | `change`, `rules`, `numbering` | attributes that clients change, what they may, instance indices |
//! | `usage_limits` | how much an object may still be used |
//! | `streams` | data in parts |
//! | `swept` | what waits in memory, and is forgotten when nobody comes for it |
//! | `usage`, `cipher` | keys in use: may they be used so, and with which parameters |
//! | `uses` | operations that are one use of a key |
//! | `together`, `places` | many uses at a time, of one batch, and of all clients |
//! | `template` | attributes kept under a name (1.x) |
//! | `error` | every refusal and its Result Reason, in one place |
//!
//! A certificate is the identity (seed clause 7.4). A user name and password inside requests only
//! narrow it: they say which of the applications it stands for asks, and are proven where asked for.

mod agreement;
mod batch;
mod caller;
mod certificate;
mod certifier;
mod change;
mod cipher;
mod connection;
mod context;
mod copies;
mod error;
mod find;
mod formats;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod house;
mod item;
mod later;
mod locks;
mod login;
mod material;
mod meta;
mod names;
mod notices;
mod numbering;
mod op;
mod pace;
mod places;
pub mod policy;
mod profiles;
mod qkd;
mod rules;
mod shown;
mod split;
mod storage;
mod streams;
mod swept;
mod template;
mod terms;
mod tickets;
mod together;
mod undo;
mod unit;
mod usage;
mod usage_limits;
mod uses;
mod wanted;
mod web;
mod wrap;

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use km_core::{
    clock::now_ms,
    ids::SaeId,
    key_id::KeyId,
    objects::Objects,
    supply::{Supply, SupplyError},
};
use transport::{ClientConfig, Directory, PeerIdentity, ServerStream, Shutdown};

use caller::{Caller, Callers, Client};
pub use certifier::Certifier;
use cipher::Nonces;
use house::Houses;
use later::Later;
use locks::Locks;
use login::Guard;
pub use login::{BadHash, Login, PasswordHash};
use notices::Notices;
use places::Places;
use policy::Policies;
use streams::Streams;
use tickets::Tickets;

/// Bounds of one connection and one request.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest frame in either direction, in bytes.
    pub frame: usize,
    /// Most items in one batch.
    pub batch_items: usize,
    /// Most identifiers one Locate returns.
    pub located: usize,
    /// Most objects all Locates of a request look at before a narrower search is asked for.
    pub scanned: usize,
    /// How long a connection may wait between requests.
    pub idle: Duration,
    /// Time for a frame to arrive, from its first byte on; once more if another request was under way then.
    pub frame_time: Duration,
    /// Time to do a request: batch items not begun by then are refused. What has begun is finished. Two
    /// requests that a connection has under way at once have it each.
    pub request_time: Duration,
    /// Time for the client to take an answer.
    pub answer_time: Duration,
    /// What is taken although the specification says no.
    pub lenience: Lenience,
}

/// What clients may do that the specification forbids and some other servers let pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lenience {
    /// Several objects of a client may have the same Name.
    pub shared_names: bool,
    /// Keys and secrets that are not active yet may be the base of Derive Key.
    pub early_derivation: bool,
}

impl Default for Limits {
    /// 1 MiB, 128 items, 1,000 of 100,000 objects, 5 minutes idle, 10 s a frame, 30 s
    /// a request, 30 s an answer; nothing beyond the specification.
    fn default() -> Self {
        Self {
            frame: 1 << 20,
            batch_items: 128,
            located: 1000,
            scanned: 100_000,
            idle: Duration::from_secs(300),
            frame_time: Duration::from_secs(10),
            request_time: Duration::from_secs(30),
            answer_time: Duration::from_secs(30),
            lenience: Lenience::default(),
        }
    }
}

/// Counts since start, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests read.
    pub requests: AtomicU64,
    /// Batch items done.
    pub done: AtomicU64,
    /// Batch items refused.
    pub refused: AtomicU64,
    /// Requests of certificates that are no application here.
    pub unauthenticated: AtomicU64,
    /// Frames that could not be read.
    pub malformed: AtomicU64,
    /// Pool keys that became managed objects.
    pub pool_keys: AtomicU64,
    /// Notices that applications took (Notify, Put).
    pub told: AtomicU64,
    /// Notices that were given up.
    pub untold: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}

/// The KMIP front. One for each listener; cheap to share.
pub struct Server {
    supply: Arc<Supply>,
    objects: Objects,
    /// The same, with new ones kept inside the token.
    objects_inside: Objects,
    applications: Directory<SaeId>,
    callers: Callers,
    guard: Guard,
    places: Places,
    limits: Limits,
    locks: Locks,
    nonces: Nonces,
    streams: Streams,
    later: Later,
    tickets: Tickets,
    houses: Houses,
    notices: Notices,
    /// For what goes on without the connection that asked for it.
    me: Weak<Self>,
    certifier: OnceLock<Certifier>,
    /// It is also served over HTTPS.
    web: AtomicBool,
    counters: Counters,
    /// Milliseconds since 1970.
    started: u64,
    /// Requests that were given a Server Correlation Value.
    correlated: AtomicU64,
}

impl Server {
    /// A server over `supply` and `objects` for the certificates in `applications`, each with what
    /// `policies` say of it.
    pub fn new(
        supply: Arc<Supply>,
        objects: Objects,
        applications: Directory<SaeId>,
        limits: Limits,
        policies: &Policies,
    ) -> Arc<Self> {
        let callers = Caller::all(applications.subjects(), policies);
        let notices = Notices::new(&callers);
        let (locks, nonces, streams, counters) = Default::default();
        let (later, tickets, houses) = Default::default();
        Arc::new_cyclic(|me| Self {
            supply,
            objects_inside: objects.kept_inside(),
            objects,
            applications,
            callers,
            guard: Guard::new(policies),
            places: Places::of_all(),
            limits,
            locks,
            nonces,
            streams,
            later,
            tickets,
            houses,
            notices,
            me: me.clone(),
            certifier: OnceLock::new(),
            web: AtomicBool::new(false),
            counters,
            started: now_ms(),
            correlated: AtomicU64::new(0),
        })
    }

    /// What names a request in this server's log.
    fn correlation(&self) -> String {
        format!("{:x}-{:x}", self.started, self.correlated.fetch_add(1, Relaxed))
    }

    /// From now on the server has Certify and Re-certify; once.
    pub fn certify_with(&self, certifier: Certifier) {
        if self.certifier.set(certifier).is_err() {
            tracing::warn!("the server has an authority already, and keeps it");
        }
    }

    /// From now on applications are told of changes (Notify, Put) at the endpoints their policies name,
    /// by connections with the certificate of `tls`; once.
    pub fn tell_over(&self, tls: &Arc<ClientConfig>) {
        self.notices.start(&self.me, tls);
    }

    /// From now on Query tells the profiles of HTTPS, JSON and XML too.
    pub fn also_over_https(&self) {
        self.web.store(true, Relaxed);
    }

    fn certifier(&self) -> Option<&Certifier> {
        self.certifier.get()
    }

    /// Counts since start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Makes a pool key an object of `owner`, collected by `slave`, for another KM of the cluster;
    /// see [`km_core::supply::Desk::bring`].
    ///
    /// # Errors
    /// Those of [`Supply::collect`].
    pub async fn bring(&self, slave: &SaeId, owner: &SaeId, id: KeyId) -> Result<(), SupplyError> {
        qkd::bring(self, (slave, owner), id).await
    }

    /// Serves one connection that [`transport::serve`] accepted, until it ends or `shutdown`.
    pub async fn serve_connection(
        self: Arc<Self>,
        stream: ServerStream,
        identity: PeerIdentity,
        shutdown: Shutdown,
    ) {
        if let Some(client) = Client::find(&self, &identity) {
            connection::serve(&self, stream, client.with_roles(), shutdown).await;
        }
    }

    /// Serves one HTTPS connection that [`transport::serve`] accepted, until it ends or `shutdown`.
    pub async fn serve_http(
        self: Arc<Self>,
        stream: ServerStream,
        identity: PeerIdentity,
        shutdown: Shutdown,
    ) {
        web::serve(self, stream, identity, shutdown).await;
    }
}
