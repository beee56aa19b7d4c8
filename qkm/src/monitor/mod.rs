//! Plain HTTP for probes and Prometheus: `/metrics`, `/healthz`, `/readyz`, of a key manager or a controller.
//! Enter through [`start`]. Nothing here names a key.

pub(crate) mod metrics;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tracing::{debug, info};
use transport::Shutdown;

use crate::{
    fault::Failure,
    serve::{Inside, bind},
};

/// Connections served at once; further ones wait to be accepted.
const CONNECTIONS: usize = 16;
/// Longest life of one connection, a probe's or a scrape's.
const CONNECTION_LIFE: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is looked at.
pub(crate) trait Watched: Send + Sync + 'static {
    /// What to say beside "ready".
    ///
    /// # Errors
    /// Why it is not ready.
    fn ready(&self) -> Result<Vec<String>, Vec<String>>;

    /// All metrics now, as Prometheus reads them.
    fn metrics(&self) -> String;
}

impl Watched for Inside {
    fn ready(&self) -> Result<Vec<String>, Vec<String>> {
        let (health, node) = (&self.health, &self.node);
        let reasons = health.reasons(node);
        match reasons.is_empty() {
            true => Ok([health.warnings(node), health.custodies(node)].concat()),
            false => Err(reasons),
        }
    }

    fn metrics(&self) -> String {
        metrics::render(self)
    }
}

/// Listens if there is an address, and serves in `tasks` until `shutdown`.
pub(crate) async fn start<W: Watched>(
    address: Option<SocketAddr>,
    watched: &Arc<W>,
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let Some(address) = address else { return Ok(()) };
    let listener = bind("[monitor]", address).await?;
    info!(front = "monitor", %address, "listening");
    tasks.spawn(serve(listener, watched.clone(), shutdown.clone()));
    Ok(())
}

async fn serve<W: Watched>(listener: TcpListener, watched: Arc<W>, shutdown: Shutdown) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(shutdown.requested());
    loop {
        // Never closed, so a place always comes.
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((socket, _)) => {
                let watched = watched.clone();
                connections.spawn(async move {
                    let _place = place;
                    let served = connection(socket, watched.as_ref());
                    if tokio::time::timeout(CONNECTION_LIFE, served).await.is_err() {
                        debug!("monitor connection ended by its time limit");
                    }
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    connections.shutdown().await;
}

async fn connection(socket: TcpStream, watched: &impl Watched) {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(answer(watched, request.method(), request.uri().path()))
    });
    let served =
        http1::Builder::new().max_buf_size(8192).serve_connection(TokioIo::new(socket), service);
    if let Err(error) = served.await {
        debug!(%error, "monitor connection ended");
    }
}

fn answer(watched: &impl Watched, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let text = "text/plain; charset=utf-8";
    if !matches!(*method, Method::GET | Method::HEAD) {
        return reply(StatusCode::METHOD_NOT_ALLOWED, text, "only GET\n".to_owned());
    }
    match path {
        "/healthz" => reply(StatusCode::OK, text, "alive\n".to_owned()),
        "/readyz" => match watched.ready() {
            Ok(more) => {
                let lines = [vec!["ready".to_owned()], more].concat();
                reply(StatusCode::OK, text, lines.join("\n") + "\n")
            }
            Err(reasons) => reply(StatusCode::SERVICE_UNAVAILABLE, text, reasons.join("\n") + "\n"),
        },
        "/metrics" => {
            let content = "text/plain; version=0.0.4; charset=utf-8";
            reply(StatusCode::OK, content, watched.metrics())
        }
        _ => {
            let known = "/metrics, /healthz and /readyz are here\n".to_owned();
            reply(StatusCode::NOT_FOUND, text, known)
        }
    }
}

fn reply(status: StatusCode, content: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let content = header::HeaderValue::from_static(content);
    response.headers_mut().insert(header::CONTENT_TYPE, content);
    response
}
