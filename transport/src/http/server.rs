//! One HTTP/1.1 connection under limits. Enter through [`serve_http`].

use std::{
    error::Error,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use hyper::{
    Request, Response,
    body::{Body, Incoming},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::clock::{Clock, ClockedIo};
use crate::{PeerIdentity, Shutdown, deadline::Alarm};

/// Bounds of one HTTP connection. Header fields are bounded to 100 (more: 431).
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Time for a request's head, from its first byte (for the first request: from connecting).
    pub head: Duration,
    /// Time from the head to the answer, the body included; then the connection is cut.
    pub request: Duration,
    /// Time an answer may take to leave, or an open connection may stay without a request.
    pub idle: Duration,
    /// Most bytes of a request head, at least 8192; more is answered 431.
    pub head_bytes: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            request: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            head_bytes: 16 * 1024,
        }
    }
}

/// Who sent the request; present on every request that [`serve_http`] passes on.
pub fn peer<B>(request: &Request<B>) -> Option<&Arc<PeerIdentity>> {
    request.extensions().get()
}

/// Serves requests on `stream` until the client leaves, a limit is broken, or `shutdown` (then
/// the request being served is still answered). Each request carries the `Arc<PeerIdentity>` as
/// an extension, read with [`peer`].
pub async fn serve_http<I, S, B>(
    stream: I,
    identity: PeerIdentity,
    service: S,
    limits: HttpLimits,
    shutdown: Shutdown,
) where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let identity = Arc::new(identity);
    let clock = Clock::start(limits.head, limits.request, limits.idle);
    let mut alarm = Alarm::new(clock.deadline());
    let timed = service_fn(|mut request: Request<Incoming>| {
        clock.head_done();
        request.extensions_mut().insert(identity.clone());
        let answer = service.call(request);
        let clock = clock.clone();
        async move {
            let answer = answer.await;
            clock.answered();
            answer
        }
    });
    let io = ClockedIo::new(TokioIo::new(stream), clock.clone());
    let mut connection = pin!(
        http1::Builder::new()
            .max_buf_size(limits.head_bytes.max(8192))
            .max_header_size(limits.head_bytes.max(8192))
            .header_read_timeout(None)
            .serve_connection(io, timed)
    );
    let mut stop = pin!(shutdown.requested());
    let mut stopping = false;
    poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            if let Err(error) = result {
                debug!(client = %identity.address(), peer = %identity, %error, "connection ended");
            }
            return Poll::Ready(());
        }
        alarm.poll(|| clock.deadline(), cx).map(|()| {
            let waiting = clock.waiting_for();
            debug!(client = %identity.address(), peer = %identity, waiting, "connection timed out");
        })
    })
    .await;
}
