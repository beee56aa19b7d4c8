//! Plain HTTP for probes and Prometheus: `/metrics`, `/healthz`, `/readyz`. Enter through
//! [`start`]. Nothing here names a key.

mod metrics;

use std::{convert::Infallible, sync::Arc, time::Duration};

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
    config::Config,
    fault::Failure,
    serve::{Inside, bind},
};

/// Connections served at once; further ones wait to be accepted.
const CONNECTIONS: usize = 16;
/// Longest life of one connection, a probe's or a scrape's.
const CONNECTION_LIFE: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens if configured and serves in `tasks` until `shutdown`.
pub(crate) async fn start(
    config: &Config,
    inside: &Arc<Inside>,
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let Some(address) = config.monitor else { return Ok(()) };
    let listener = bind("[monitor]", address).await?;
    info!(front = "monitor", %address, "listening");
    tasks.spawn(serve(listener, inside.clone(), shutdown.clone()));
    Ok(())
}

async fn serve(listener: TcpListener, inside: Arc<Inside>, shutdown: Shutdown) {
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
                let inside = inside.clone();
                connections.spawn(async move {
                    let _place = place;
                    let served = connection(socket, &inside);
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

async fn connection(socket: TcpStream, inside: &Inside) {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(answer(inside, request.method(), request.uri().path()))
    });
    let served =
        http1::Builder::new().max_buf_size(8192).serve_connection(TokioIo::new(socket), service);
    if let Err(error) = served.await {
        debug!(%error, "monitor connection ended");
    }
}

fn answer(inside: &Inside, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let text = "text/plain; charset=utf-8";
    if !matches!(*method, Method::GET | Method::HEAD) {
        return reply(StatusCode::METHOD_NOT_ALLOWED, text, "only GET\n".to_owned());
    }
    match path {
        "/healthz" => reply(StatusCode::OK, text, "alive\n".to_owned()),
        "/readyz" => {
            let reasons = inside.health.reasons(&inside.node);
            match reasons.is_empty() {
                true => {
                    let (health, node) = (&inside.health, &inside.node);
                    let more = [health.warnings(node), health.custodies(node)].concat();
                    let lines = [vec!["ready".to_owned()], more].concat();
                    reply(StatusCode::OK, text, lines.join("\n") + "\n")
                }
                false => reply(StatusCode::SERVICE_UNAVAILABLE, text, reasons.join("\n") + "\n"),
            }
        }
        "/metrics" => {
            let content = "text/plain; version=0.0.4; charset=utf-8";
            reply(StatusCode::OK, content, metrics::render(inside))
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
