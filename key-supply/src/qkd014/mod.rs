//! ETSI GS QKD 014 V1.1.1 over the supply. Enter through [`Etsi014::serve`].
//!
//! - `pair`: who asks, and whether these two may share keys; without it no operation runs.
//! - `status`, `enc_keys`, `dec_keys`: one operation each.
//! - `way`: how keys came to be, where a request asks for it.
//! - `answer`: every answer and refusal as HTTP, in one place.

mod answer;
mod dec_keys;
mod enc_keys;
mod pair;
mod status;
mod way;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use etsi014::{
    KeyIds, KeyRequest,
    path::{self, Method as Operation},
};
use hyper::{Method, Request, body::Incoming, service::service_fn};
use km_core::{ids::SaeId, supply::Supply};
use tokio::io::{AsyncRead, AsyncWrite};
use transport::{
    Directory, PeerIdentity, Shutdown,
    http::{HttpLimits, read_body, serve_http},
};
use wiped::Wiped;

use answer::{Answer, Refusal};
use pair::{Master, Slave};

/// Most bytes of a request's body, besides the key IDs it may name.
const MAX_BODY: usize = 64 * 1024;
/// Room for one entry of `key_IDs`, spaces and extensions included.
const ID_ENTRY: usize = 128;
/// Time for a request's body to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// The front. One for each listener; cheap to share.
pub struct Etsi014 {
    supply: Arc<Supply>,
    applications: Directory<SaeId>,
    limits: HttpLimits,
    counters: Counters,
}

/// Counts since start, for metrics. Keys are counted when they are handed to the connection.
#[derive(Debug, Default)]
pub struct Counters {
    /// Keys issued by enc_keys.
    pub issued: AtomicU64,
    /// Keys collected by dec_keys.
    pub collected: AtomicU64,
    /// Answers 401.
    pub unauthorized: AtomicU64,
    /// Answers 503.
    pub unavailable: AtomicU64,
    /// All other refusals.
    pub refused: AtomicU64,
}

impl Etsi014 {
    /// A front over `supply` for the certificates in `applications`.
    pub fn new(supply: Arc<Supply>, applications: Directory<SaeId>) -> Arc<Self> {
        Self::with_limits(supply, applications, HttpLimits::default())
    }

    /// As [`Etsi014::new`], with other bounds for its connections.
    pub fn with_limits(
        supply: Arc<Supply>,
        applications: Directory<SaeId>,
        limits: HttpLimits,
    ) -> Arc<Self> {
        Arc::new(Self { supply, applications, limits, counters: Counters::default() })
    }

    /// Counts since start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Serves one connection that [`transport::serve`] accepted, until it ends or `shutdown`.
    pub async fn serve<I>(self: Arc<Self>, stream: I, peer: PeerIdentity, shutdown: Shutdown)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let caller = self.application(&peer);
        let service = service_fn(|request| self.answer(caller, request));
        serve_http(stream, peer, service, self.limits.clone(), shutdown).await;
    }

    /// The application a certificate stands for, if it is registered at this KME.
    fn application(&self, peer: &PeerIdentity) -> Option<&SaeId> {
        let here = self.supply.here();
        let sae = self.applications.find(peer);
        let registered = sae.filter(|sae| self.supply.registry().is_at(sae, here));
        if registered.is_none() {
            tracing::info!(client = %peer.address(), %peer, kme = %here,
                "the certificate is of no SAE registered at this KME; every request gets 401");
        }
        registered
    }

    async fn answer(
        &self,
        caller: Option<&SaeId>,
        request: Request<Incoming>,
    ) -> Result<Answer, Infallible> {
        let done = match caller {
            Some(caller) => self.dispatch(caller, request).await,
            None => Err(Refusal::Unauthorized),
        };
        Ok(match done {
            Ok(json) => answer::granted(json),
            Err(refusal) => {
                self.count(&refusal);
                tracing::debug!(caller = caller.map(SaeId::as_str), %refusal, "refused");
                answer::refused(refusal)
            }
        })
    }

    async fn dispatch(&self, caller: &SaeId, request: Request<Incoming>) -> Result<Wiped, Refusal> {
        let supply = self.supply.as_ref();
        let (head, body) = request.into_parts();
        let (named, operation) = path::parse(head.uri.path()).ok_or(Refusal::NoSuchPath)?;
        let query = head.uri.query();
        match (operation, head.method) {
            (Operation::Status, Method::GET) => {
                status::status(supply, &Master::of(supply, caller, &named)?).await
            }
            (Operation::EncKeys, method @ (Method::GET | Method::POST)) => {
                let pair = Master::of(supply, caller, &named)?;
                let wanted = match method {
                    Method::GET => KeyRequest::from_query(query)?,
                    _ => KeyRequest::parse(&read_body(body, MAX_BODY, BODY_DEADLINE).await?)?,
                };
                let told = way::asked(&wanted)?;
                let keys = enc_keys::enc_keys(supply, &pair, &wanted).await?;
                self.counters.issued.fetch_add(keys.len() as u64, Relaxed);
                answer::container(&keys, told)
            }
            (Operation::DecKeys, method @ (Method::GET | Method::POST)) => {
                let pair = Slave::of(supply, caller, &named)?;
                let wanted = match method {
                    Method::GET => KeyIds::from_query(query)?,
                    _ => {
                        let room = MAX_BODY + supply.limits().max_keys as usize * ID_ENTRY;
                        KeyIds::parse(&read_body(body, room, BODY_DEADLINE).await?)?
                    }
                };
                let keys = dec_keys::dec_keys(supply, &pair, &wanted).await?;
                self.counters.collected.fetch_add(keys.len() as u64, Relaxed);
                answer::container(&keys, way::asked_by_slave(&wanted))
            }
            (Operation::Status, _) => Err(Refusal::Method { allowed: "GET" }),
            (Operation::EncKeys | Operation::DecKeys, _) => {
                Err(Refusal::Method { allowed: "GET, POST" })
            }
        }
    }

    fn count(&self, refusal: &Refusal) {
        let counter = match refusal {
            Refusal::Unauthorized => &self.counters.unauthorized,
            Refusal::Unavailable(_) => &self.counters.unavailable,
            _ => &self.counters.refused,
        };
        counter.fetch_add(1, Relaxed);
    }
}
