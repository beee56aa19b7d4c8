//! The operators' API over HTTPS: pools, links, single keys. Enter through [`start`].
//!
//! JSON, errors as problem details (RFC 9457). It never has key bytes to show. Operators read, order
//! keys by relay, have objects copied to other clusters, and make backups; custodians may also change the KEK epochs, and make authorities.

mod authorities;
mod backup;
mod epochs;
mod keys;
mod members;
mod nodes;
mod problem;

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use km_core::{ids::ClusterId, route::Routes};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tracing::info;
use transport::{
    IdentityRule, PeerIdentity, Profile, ServerStream, Shutdown,
    http::{HttpLimits, read_body, serve_http},
};

use crate::{
    config::{Config, KmipCa, Shared},
    fault::Failure,
    serve::{Inside, Listening},
};
use backup::Backups;
use epochs::Custodian;
use members::Room;
pub(crate) use problem::Problem;

/// Longest body of a change: the public keys of tokens.
const BODY_BYTES: usize = 256 * 1024;
/// Longest wait for it.
const BODY_WAIT: Duration = Duration::from_secs(5);
/// Most bytes of one order by relay.
const MOST_ORDERED: u64 = 16 << 20;

/// Listens if configured and serves in `tasks` until `shutdown`.
pub(crate) async fn start(
    config: &Config,
    inside: &Arc<Inside>,
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let Some(admin) = &config.admin else { return Ok(()) };
    let open = Listening::open("admin", &admin.front, Profile::Front).await?;
    let (operators, custodians) = (admin.operators.clone(), admin.custodians.clone());
    let (store, kmip_ca) = (config.store.clone(), config.kmip_ca.clone());
    let api = Arc::new(Api {
        inside: inside.clone(),
        operators,
        custodians,
        backups: Backups::beside(&store),
        kmip_ca,
        shared: config.shared.clone(),
    });
    let stop = shutdown.clone();
    let handler = move |stream: ServerStream, peer: PeerIdentity| {
        let (api, stop) = (api.clone(), stop.clone());
        async move { api.serve(stream, peer, stop).await }
    };
    tasks.spawn(open.serve(inside.fronts.stats.admin.clone(), handler, shutdown.clone()));
    Ok(())
}

struct Api {
    inside: Arc<Inside>,
    operators: Vec<IdentityRule>,
    custodians: Vec<IdentityRule>,
    backups: Backups,
    kmip_ca: Option<KmipCa>,
    shared: Option<Shared>,
}

impl Api {
    async fn serve(&self, stream: ServerStream, peer: PeerIdentity, shutdown: Shutdown) {
        let mut named = self.operators.iter().chain(&self.custodians);
        let operator = named.any(|rule| peer.matches(rule));
        if !operator {
            info!(client = %peer.address(), %peer, "not an operator; every request gets 403");
        }
        let known = peer.clone();
        let service = service_fn(async |request: Request<Incoming>| {
            let done = match operator {
                true => self.route(request, &known).await,
                false if joins(&request) => self.join(request, &known).await,
                false => Err(Problem::not_an_operator()),
            };
            Ok::<_, Infallible>(match done {
                Ok(value) => reply(StatusCode::OK, "application/json", &value),
                Err(problem) => {
                    reply(problem.status, "application/problem+json", &problem.to_json())
                }
            })
        });
        serve_http(stream, peer, service, HttpLimits::default(), shutdown).await;
    }

    /// Whoever was invited has a certificate that is good for this alone.
    async fn join(
        &self,
        request: Request<Incoming>,
        peer: &PeerIdentity,
    ) -> Result<Value, Problem> {
        let body = read_body(request.into_body(), BODY_BYTES, BODY_WAIT).await;
        let body = body.map_err(|_| Problem::wrong_body())?;
        Room::of(&self.inside, self.shared.as_ref())?.join(&body, peer).await
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        peer: &PeerIdentity,
    ) -> Result<Value, Problem> {
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(&path).split('/').collect();
        match *request.method() {
            Method::GET => self.read(&segments, &path).await,
            Method::POST => self.change(&segments, request, peer).await,
            _ => Err(Problem::wrong_method()),
        }
    }

    async fn read(&self, segments: &[&str], path: &str) -> Result<Value, Problem> {
        match segments {
            ["v1", "pools"] => Ok(self.pools()),
            ["v1", "routes"] => Ok(self.routes()),
            ["v1", "links"] => Ok(json!({ "links": self.inside.links.status() })),
            ["v1", "nodes"] => nodes::list(&self.inside).await,
            ["v1", "keys", id] => keys::show(&self.inside.node, id).await,
            ["v1", "ca", name] => authorities::show(&self.inside, name).await,
            ["v1", "hsm", "epochs"] => Ok(epochs::list(&self.inside.node.keeper)),
            ["v1", "hsm", "epochs", "log"] => epochs::log(self.inside.node.keeper.records()).await,
            _ => Err(Problem::no_such_path(path)),
        }
    }

    /// Changes: to epochs by custodians only. The type of the content keeps web pages out, which
    /// could else send a form in the name of a browser's certificate.
    async fn change(
        &self,
        segments: &[&str],
        request: Request<Incoming>,
        peer: &PeerIdentity,
    ) -> Result<Value, Problem> {
        let json = request.headers().get(header::CONTENT_TYPE);
        if json.is_none_or(|kind| kind != "application/json") {
            return Err(Problem::wrong_body());
        }
        let body = read_body(request.into_body(), BODY_BYTES, BODY_WAIT).await;
        let body = body.map_err(|_| Problem::wrong_body())?;
        let keeper = &self.inside.node.keeper;
        let custodian = || Custodian::of(peer, &self.custodians);
        let room = || Room::of(&self.inside, self.shared.as_ref());
        match segments {
            ["v1", "nodes", name, "invite"] => {
                room()?.invite(name, &body, custodian()?, peer).await
            }
            ["v1", "nodes", name, "drain"] => room()?.drain(name, true, custodian()?, peer).await,
            ["v1", "nodes", name, "undrain"] => {
                room()?.drain(name, false, custodian()?, peer).await
            }
            ["v1", "nodes", name, "revoke"] => room()?.revoke(name, custodian()?, peer).await,
            ["v1", "pools", far, "feed", bytes] => self.feed(far, bytes, peer),
            ["v1", "keys", name, "copies", to] => {
                keys::copy(&self.inside.links, name, to, peer).await
            }
            ["v1", "ca", name] => {
                let (inside, ca) = (&self.inside, self.kmip_ca.as_ref());
                authorities::make(inside, ca, name, &body, custodian()?, peer).await
            }
            ["v1", "store", "backups"] if self.inside.node.etcd.is_some() => {
                Err(Problem::back_up_the_engine())
            }
            ["v1", "store", "backups"] => self.backups.make(&self.inside.node, peer).await,
            ["v1", "hsm", "epochs"] => epochs::rotate(keeper, &body, custodian()?, peer).await,
            ["v1", "hsm", "epochs", number, "destroy"] => {
                epochs::destroy(keeper, number, custodian()?, peer).await
            }
            _ => Err(Problem::wrong_method()),
        }
    }

    fn routes(&self) -> Value {
        let control = &self.inside.control;
        let table = control.board.table();
        let to = table.to.iter().map(|(to, ways)| {
            json!({ "to": to, "routes": ways.routes, "disjoint": ways.disjoint,
                "max_bits_per_s": ways.max_bits_per_s, "feed": ways.feed })
        });
        json!({ "version": table.version, "controllers": control.seats(),
            "routes": to.collect::<Vec<_>>() })
    }

    /// Orders bytes by relay; any operator may.
    fn feed(&self, far: &str, bytes: &str, peer: &PeerIdentity) -> Result<Value, Problem> {
        let known = ClusterId::parse(far).ok().zip(bytes.parse().ok());
        let (far, bytes) = known
            .filter(|(far, bytes)| {
                (1..=MOST_ORDERED).contains(bytes) && self.inside.links.order(far, *bytes)
            })
            .ok_or_else(|| Problem::not_fed(far))?;
        info!(operator = %peer, %far, bytes, "keys are ordered by relay");
        Ok(json!({ "peer": far, "bytes": bytes }))
    }

    fn pools(&self) -> Value {
        let supply = &self.inside.node.supply;
        let mut views: Vec<_> = supply.pools().iter().map(|pool| pool.view()).collect();
        views.sort_by(|a, b| a.peer.cmp(&b.peer));
        json!({ "cluster": supply.here(), "pools": views })
    }
}

fn joins(request: &Request<Incoming>) -> bool {
    request.method() == Method::POST && request.uri().path() == "/v1/nodes"
}

/// An answer with a JSON body.
pub(crate) fn reply(
    status: StatusCode,
    content: &'static str,
    value: &Value,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
