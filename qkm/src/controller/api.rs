//! HTTPS of the controller. KMs: `POST /v1/report`, and `GET /v1/directions`, held open until there
//! are others than those the KM has. Operators: what the network is, and orders. Other controllers:
//! `GET /v1/orders`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use control::{component::Component, component::Step, policy::Pin, policy::Policy, policy::Rule};
use hyper::{Method, Request, StatusCode, body::Incoming, header, service::service_fn};
use km_core::ids::ClusterId;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tracing::info;
use transport::{
    Directory, IdentityRule, PeerIdentity, ServerStream, Shutdown,
    http::{HttpLimits, read_body, serve_http},
};

use super::{config::ControllerConfig, room::Room};
use crate::{
    admin::{Problem, reply},
    fault::Code,
};

/// Longest body: the report of a KM with a thousand links.
const BODY_BYTES: usize = 1 << 20;
const BODY_WAIT: Duration = Duration::from_secs(5);
/// How long a request for directions is held; below the time an HTTP request may take.
const HOLD: Duration = Duration::from_secs(20);

pub(super) struct Api {
    room: Arc<Room>,
    kms: Directory<ClusterId>,
    operators: Vec<IdentityRule>,
    others: Vec<IdentityRule>,
}

/// Who asks.
struct Asker {
    km: Option<ClusterId>,
    other: bool,
    operator: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    component: Component,
    step: Step,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unpin {
    between: [ClusterId; 2],
}

impl Api {
    pub(super) fn new(config: &ControllerConfig, room: Arc<Room>) -> Self {
        let mut kms = Directory::default();
        for km in &config.kms {
            kms.add(km.identity.clone(), km.cluster.clone());
        }
        let others = config.others.iter().map(|other| other.identity.clone()).collect();
        Self { room, kms, operators: config.operators.clone(), others }
    }

    pub(super) async fn serve(&self, stream: ServerStream, peer: PeerIdentity, stop: Shutdown) {
        let asker = Asker {
            km: self.kms.find(&peer).cloned(),
            other: self.others.iter().any(|rule| peer.matches(rule)),
            operator: self.operators.iter().any(|rule| peer.matches(rule)),
        };
        if asker.km.is_none() && !asker.operator && !asker.other {
            info!(client = %peer.address(), %peer, "no KM, controller or operator; it gets 403");
        }
        let ending = stop.clone();
        let service = service_fn(async |request: Request<Incoming>| {
            Ok::<_, Infallible>(match self.route(request, &asker, &ending).await {
                Ok(value) => reply(StatusCode::OK, "application/json", &value),
                Err(problem) => {
                    reply(problem.status, "application/problem+json", &problem.to_json())
                }
            })
        });
        serve_http(stream, peer, service, HttpLimits::default(), stop).await;
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        asker: &Asker,
        stop: &Shutdown,
    ) -> Result<Value, Problem> {
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(&path).split('/').collect();
        match (request.method(), segments.as_slice()) {
            (&Method::POST, ["v1", "report"]) => self.report(request, asker).await,
            (&Method::GET, ["v1", "directions"]) => {
                let here = asker.km.as_ref().ok_or_else(not_a_km)?;
                let tag = request.uri().query().and_then(|q| q.strip_prefix("have="));
                let directions = tokio::select! {
                    directions = self.room.directions(here, tag.unwrap_or_default(), HOLD) => directions,
                    () = stop.requested() => return Err(stopping()),
                };
                let directions = directions.ok_or_else(not_yet)?;
                serde_json::to_value(&directions).map_err(|_| Problem::wrong_body())
            }
            (&Method::GET, ["v1", "orders"]) if asker.other || asker.operator => {
                Ok(self.room.orders())
            }
            _ if !asker.operator => Err(not_an_operator()),
            (&Method::GET, ["v1", "components"]) => Ok(self.room.components()),
            (&Method::GET, ["v1", "edges"]) => Ok(self.room.edges()),
            (&Method::GET, ["v1", "routes"]) => Ok(self.room.routes()),
            (&Method::GET, ["v1", "events"]) => Ok(self.room.events()),
            (&Method::GET, ["v1", "books"]) => Ok(self.room.books()),
            (&Method::GET, ["v1", "tables", cluster]) => {
                let cluster = ClusterId::parse(cluster);
                Ok(self.room.table(&cluster.map_err(|_| no_such_path(&path))?))
            }
            (&Method::POST, ["v1", "components"]) => {
                let Order { component, step } = body(request).await?;
                let state = self.room.operate(&component, step).map_err(|error| {
                    Problem::new(StatusCode::CONFLICT, Code::N003, error.to_string())
                })?;
                info!(%component, step = step.as_str(), "ordered by an operator");
                self.keep()?;
                Ok(json!({ "component": component, "state": state.as_str() }))
            }
            (&Method::POST, ["v1", "pins"]) => {
                let pin: Pin = body(request).await?;
                let policy = Policy::try_from(Rule::Pin(pin.clone()));
                policy.map_err(|error| {
                    Problem::new(StatusCode::BAD_REQUEST, Code::N003, error.to_string())
                })?;
                self.room.pin(pin);
                self.keep()?;
                Ok(json!({}))
            }
            (&Method::POST, ["v1", "unpin"]) => {
                let Unpin { between } = body(request).await?;
                let was_pinned = self.room.unpin(&between);
                self.keep()?;
                Ok(json!({ "was_pinned": was_pinned }))
            }
            _ => Err(no_such_path(&path)),
        }
    }

    /// An order that is not on disk is no success, though it is in force.
    fn keep(&self) -> Result<(), Problem> {
        self.room.keep().map_err(|failure| {
            let text = format!("{failure}; the order is in force until the controller ends");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, Code::N001, text)
        })
    }

    /// A KM speaks for its own cluster and no other.
    async fn report(&self, request: Request<Incoming>, asker: &Asker) -> Result<Value, Problem> {
        let here = asker.km.as_ref().ok_or_else(not_a_km)?;
        let report: control::report::Report = body(request).await?;
        if report.cluster != *here {
            let text = format!("this certificate is the KM of {here}, not of {}", report.cluster);
            return Err(Problem::new(StatusCode::FORBIDDEN, Code::N002, text));
        }
        let bad = |error: control::report::BadReport| {
            Problem::new(StatusCode::BAD_REQUEST, Code::A004, error.to_string())
        };
        self.room.hear(report).map_err(bad)?;
        Ok(json!({}))
    }
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Problem> {
    let json = request.headers().get(header::CONTENT_TYPE);
    if json.is_none_or(|kind| kind != "application/json") {
        return Err(Problem::wrong_body());
    }
    let bytes = read_body(request.into_body(), BODY_BYTES, BODY_WAIT).await;
    let bytes = bytes.map_err(|_| Problem::wrong_body())?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            Code::A004,
            format!("the body is not as it should be: {error}"),
        )
    })
}

fn not_a_km() -> Problem {
    let text = "this certificate is none of the KMs that [[km]] names";
    Problem::new(StatusCode::FORBIDDEN, Code::N002, text)
}

fn not_an_operator() -> Problem {
    let text = "this certificate is none of the operators that [controller] names";
    Problem::new(StatusCode::FORBIDDEN, Code::N004, text)
}

fn no_such_path(path: &str) -> Problem {
    let shown: String = path.chars().take(100).collect();
    let text = format!(
        "there is nothing at {shown:?} by this method; GET /v1/components, /v1/edges, /v1/routes, \
         /v1/events, /v1/books, /v1/orders, /v1/tables/CLUSTER; POST /v1/components, /v1/pins, /v1/unpin"
    );
    Problem::new(StatusCode::NOT_FOUND, Code::A004, text)
}

fn not_yet() -> Problem {
    let text = "the controller does not know the network yet, or this KM did not report; ask again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::N005, text)
}

fn stopping() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::A001, "the controller stops")
}
