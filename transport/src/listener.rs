//! The one accept loop. Enter through [`serve`].
//!
//! Invariants: a handler never sees a stream without a verified identity; the loop never ends
//! before shutdown is asked for; the number of connections, handshakes included, is bounded.

use std::{
    future::Future,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use rustls::{HandshakeKind, ServerConfig};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info, warn};

use crate::{
    identity::{IdentityError, PeerIdentity},
    shutdown::Shutdown,
    stats::{HandshakeFailure, ListenerStats},
};

/// A server's end of a TLS connection.
pub type ServerStream = tokio_rustls::server::TlsStream<TcpStream>;

/// Pause after `accept` failed, so that a lack of descriptors does not become a busy loop.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Bounds of one listener.
#[derive(Clone, Debug)]
pub struct ListenerLimits {
    /// Connections open at once, handshakes included; further ones are closed at once.
    pub connections: usize,
    /// Time for the whole TLS handshake.
    pub handshake: Duration,
    /// Time handlers get to finish after shutdown was asked for; then they are dropped.
    pub grace: Duration,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            grace: Duration::from_secs(10),
        }
    }
}

/// Accepts on `listener` until `shutdown`, runs `handler` for every client that `tls` lets in,
/// and returns when the handlers have ended or the grace period is over.
///
/// The handler keeps its own deadlines (for HTTP: [`crate::http::serve_http`]) and should end soon
/// after shutdown; give it a clone.
pub async fn serve<H, F>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    limits: ListenerLimits,
    stats: Arc<ListenerStats>,
    handler: H,
    shutdown: Shutdown,
) where
    H: Fn(ServerStream, PeerIdentity) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
    let front = Arc::new(Front { tls: tls.into(), handshake: limits.handshake, stats, handler });
    let mut connections = JoinSet::new();
    let stop = shutdown.requested();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => front.admit(socket, &room, &mut connections),
                Err(error) => front.accept_failed(&error).await,
            },
            Some(ended) = connections.join_next() => note_panic(ended),
        }
    }
    drop(listener);
    let open = connections.len();
    let drained = timeout(limits.grace, async {
        while let Some(ended) = connections.join_next().await {
            note_panic(ended);
        }
    });
    if drained.await.is_err() {
        warn!(
            open,
            left = connections.len(),
            "connections still busy after the grace period were cut"
        );
    }
    connections.shutdown().await;
}

/// A handler that panics loses its connection, not the listener; that must not go unnoticed.
fn note_panic(ended: Result<(), JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        error!("a connection handler panicked; please report this with the lines above");
    }
}

struct Front<H> {
    tls: TlsAcceptor,
    handshake: Duration,
    stats: Arc<ListenerStats>,
    handler: H,
}

impl<H, F> Front<H>
where
    H: Fn(ServerStream, PeerIdentity) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    fn admit(self: &Arc<Self>, socket: TcpStream, room: &Arc<Semaphore>, tasks: &mut JoinSet<()>) {
        self.stats.accepted.fetch_add(1, Relaxed);
        let Ok(place) = room.clone().try_acquire_owned() else {
            self.stats.refused_by_cap.fetch_add(1, Relaxed);
            debug!(client = ?socket.peer_addr().ok(), "connection limit reached, closed");
            return;
        };
        let place = Place::take(place, self.stats.clone());
        let front = self.clone();
        tasks.spawn(async move {
            let _place = place;
            // In boxes: the room of the handshake goes with it.
            if let Some((stream, identity)) = Box::pin(front.shake_hands(socket)).await {
                Box::pin((front.handler)(stream, identity)).await;
            }
        });
    }

    async fn shake_hands(&self, socket: TcpStream) -> Option<(ServerStream, PeerIdentity)> {
        let client = socket.peer_addr().ok()?;
        let result = timeout(self.handshake, self.accept_tls(socket)).await;
        let failure = match result {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(failure)) => failure,
            Err(_) => HandshakeFailure::Timeout,
        };
        self.stats.failed(failure);
        match failure {
            // Whoever only looks whether somebody listens, as probes do and other KMs of a cluster.
            HandshakeFailure::Closed => debug!(%client, "a client went without a word"),
            _ => info!(%client, reason = failure.name(), "client refused"),
        }
        None
    }

    async fn accept_tls(
        &self,
        socket: TcpStream,
    ) -> Result<(ServerStream, PeerIdentity), HandshakeFailure> {
        let of = |e: io::Error| HandshakeFailure::of(&e);
        socket.set_nodelay(true).map_err(of)?;
        let client = socket.peer_addr().map_err(of)?;
        let stream = self.tls.accept(socket).await.map_err(of)?;
        let session = stream.get_ref().1;
        if !self.tls.config().alpn_protocols.is_empty() && session.alpn_protocol().is_none() {
            return Err(HandshakeFailure::Protocol);
        }
        let identity =
            PeerIdentity::from_chain(session.peer_certificates(), client).map_err(|error| {
                match error {
                    IdentityError::Absent => HandshakeFailure::NoCertificate,
                    IdentityError::Expired => HandshakeFailure::Expired,
                    _ => HandshakeFailure::BadCertificate,
                }
            })?;
        self.stats.handshakes.fetch_add(1, Relaxed);
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.stats.resumed.fetch_add(1, Relaxed);
        }
        Ok((stream, identity))
    }

    async fn accept_failed(&self, error: &io::Error) {
        self.stats.accept_errors.fetch_add(1, Relaxed);
        warn!(%error, "cannot accept connections now, trying again");
        sleep(ACCEPT_BACKOFF).await;
    }
}

/// A connection's place under the limit; given back on drop, also when its task is cut.
struct Place {
    _permit: OwnedSemaphorePermit,
    stats: Arc<ListenerStats>,
}

impl Place {
    fn take(permit: OwnedSemaphorePermit, stats: Arc<ListenerStats>) -> Self {
        stats.active.fetch_add(1, Relaxed);
        Self { _permit: permit, stats }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stats.active.fetch_sub(1, Relaxed);
    }
}
