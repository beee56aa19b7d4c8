//! The operators' API over HTTPS: pools, links, single keys. Enter through [`start`].
//!
//! Read only, JSON, errors as problem details (RFC 9457). It never has key bytes to show.

mod keys;
mod problem;

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tracing::info;
use transport::{
    IdentityRule, PeerIdentity, Profile, ServerStream, Shutdown,
    http::{HttpLimits, serve_http},
};

use crate::{
    config::Config,
    fault::Failure,
    serve::{Inside, Listening},
};
use problem::Problem;

/// Listens if configured and serves in `tasks` until `shutdown`.
pub(crate) async fn start(
    config: &Config,
    inside: &Arc<Inside>,
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let Some(admin) = &config.admin else { return Ok(()) };
    let open = Listening::open("admin", &admin.front, Profile::Front).await?;
    let api = Arc::new(Api { inside: inside.clone(), operators: admin.operators.clone() });
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
}

impl Api {
    async fn serve(&self, stream: ServerStream, peer: PeerIdentity, shutdown: Shutdown) {
        let operator = self.operators.iter().any(|rule| peer.matches(rule));
        if !operator {
            info!(client = %peer.address(), %peer, "not an operator; every request gets 403");
        }
        let service = service_fn(async |request: Request<Incoming>| {
            let done = match operator {
                true => self.route(request.method(), request.uri().path()).await,
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

    async fn route(&self, method: &Method, path: &str) -> Result<Value, Problem> {
        if *method != Method::GET {
            return Err(Problem::wrong_method());
        }
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        match segments.as_slice() {
            ["v1", "pools"] => Ok(self.pools()),
            ["v1", "links"] => Ok(json!({ "links": self.inside.links.status() })),
            ["v1", "keys", id] => keys::show(&self.inside.node, id).await,
            _ => Err(Problem::no_such_path(path)),
        }
    }

    fn pools(&self) -> Value {
        let supply = &self.inside.node.supply;
        let mut views: Vec<_> = supply.pools().map(|pool| pool.view()).collect();
        views.sort_by(|a, b| a.peer.cmp(&b.peer));
        json!({ "cluster": supply.here(), "pools": views })
    }
}

fn reply(status: StatusCode, content: &'static str, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
