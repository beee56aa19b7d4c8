//! A keep-alive HTTP/1.1 client for one server. Enter through [`HttpClient`].
//!
//! One request at a time; open several clients for concurrency. A connection goes back for reuse
//! only after a complete answer, so a cancelled or failed request can never mix up answers.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use wiped::Wiped;

use super::body::{BodyError, read_body, secret_body};
use crate::{ConnectError, IdentityRule, TlsClient};

const JSON: &str = "application/json";

/// Most bytes buffered of an answer, and so the bound of its head.
const READ_BUFFER: usize = 64 * 1024;

/// Bounds of an [`HttpClient`].
#[derive(Clone, Debug)]
pub struct ClientLimits {
    /// Time for TCP and TLS together.
    pub connect: Duration,
    /// Time for a whole request, connecting included.
    pub request: Duration,
    /// A connection unused for longer is not used again; below the server's own idle time, so
    /// that a request does not meet a connection just being closed.
    pub idle: Duration,
    /// Most bytes of an answer's body.
    pub response_bytes: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            response_bytes: 1 << 20,
        }
    }
}

/// Why there is no answer. Only with `Connect` is it certain that the server did nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server's certificate is not the one configured for it.
    #[error("the server at {address} is {found}, expected {expected}. Check its certificate")]
    WrongServer {
        /// `host:port`.
        address: String,
        /// What it showed.
        found: String,
        /// What was configured.
        expected: IdentityRule,
    },
    /// The server's certificate is accepted no more.
    #[error("the server at {address} shows {found}, which was revoked")]
    Revoked {
        /// `host:port`.
        address: String,
        /// What it showed.
        found: String,
    },
    /// The connection broke during the request.
    #[error("the request to {address} failed: {reason}")]
    Broken {
        /// `host:port`.
        address: String,
        /// What happened.
        reason: String,
    },
    /// No complete answer in time.
    #[error("{address} did not answer within {limit:?}")]
    Timeout {
        /// `host:port`.
        address: String,
        /// The deadline.
        limit: Duration,
    },
    /// The answer's body was refused.
    #[error("the answer of {address} was refused: {source}")]
    Answer {
        /// `host:port`.
        address: String,
        /// Why.
        source: BodyError,
    },
    /// The path is not a valid request target.
    #[error("{0:?} is not a request path; encode it first")]
    Path(String),
}

/// Sends requests to one server over mutual TLS, reusing its connection.
pub struct HttpClient {
    tls: TlsClient,
    server: Option<IdentityRule>,
    gone: Option<watch::Receiver<BTreeSet<[u8; 32]>>>,
    limits: ClientLimits,
    idle: Mutex<Option<Live>>,
}

struct Live {
    /// Present until [`HttpClient::close`].
    sender: Option<SendRequest<Full<Bytes>>>,
    driver: JoinHandle<()>,
    used: Instant,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl HttpClient {
    /// For the server at `address` (`host:port`) whose certificate carries `name` (or the host).
    /// No connection is made yet.
    pub fn new(
        address: &str,
        name: Option<&str>,
        config: Arc<ClientConfig>,
        limits: ClientLimits,
    ) -> Result<Self, ConnectError> {
        let tls = TlsClient::new(address, name, config)?;
        Ok(Self { tls, server: None, gone: None, limits, idle: Mutex::new(None) })
    }

    /// Also requires the server's certificate to match `rule`.
    pub fn expecting(mut self, rule: IdentityRule) -> Self {
        self.server = Some(rule);
        self
    }

    /// Also refuses a server whose certificate is among these then, by SHA-256.
    pub fn refusing(mut self, gone: watch::Receiver<BTreeSet<[u8; 32]>>) -> Self {
        self.gone = Some(gone);
        self
    }

    /// The `host:port` it talks to.
    pub fn address(&self) -> &str {
        self.tls.address()
    }

    /// GET `path` (with query, already percent-encoded). Gives status and body, whatever status.
    pub async fn get(&self, path: &str) -> Result<(u16, Wiped), ClientError> {
        self.request(Method::GET, path, (JSON, None)).await
    }

    /// POST `json` to `path`.
    pub async fn post(&self, path: &str, json: Wiped) -> Result<(u16, Wiped), ClientError> {
        self.post_as(path, JSON, json).await
    }

    /// POST `body`, of the media type `kind`, to `path`.
    pub async fn post_as(
        &self,
        path: &str,
        kind: &'static str,
        body: Wiped,
    ) -> Result<(u16, Wiped), ClientError> {
        self.request(Method::POST, path, (kind, Some(body))).await
    }

    /// Closes the idle connection, so that its buffers do not keep key bytes. Waits for a request
    /// under way. The next request connects again.
    pub async fn close(&self) {
        if let Some(mut live) = self.idle.lock().await.take() {
            // Without a sender the driver says goodbye and ends by itself.
            live.sender = None;
            let _ = timeout(Duration::from_secs(1), &mut live.driver).await;
        }
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        (kind, body): (&'static str, Option<Wiped>),
    ) -> Result<(u16, Wiped), ClientError> {
        let limit = self.limits.request;
        let deadline = Instant::now() + limit;
        let request = self.build(method, path, (kind, body))?;
        timeout_at(deadline, self.exchange(request, deadline))
            .await
            .map_err(|_| ClientError::Timeout { address: self.address().to_owned(), limit })?
    }

    fn build(
        &self,
        method: Method,
        path: &str,
        (kind, body): (&'static str, Option<Wiped>),
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address())
            .header(header::ACCEPT, kind);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let body = body.map_or_else(Full::default, secret_body);
        request.body(body).map_err(|_| ClientError::Path(path.chars().take(200).collect()))
    }
}

impl HttpClient {
    /// The connection is out of `idle` while a request runs: cancelling drops it.
    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<(u16, Wiped), ClientError> {
        let mut idle = self.idle.lock().await;
        let (response, mut live) = self.send(self.reusable(idle.take()), request).await?;
        let status = response.status().as_u16();
        let left = deadline.saturating_duration_since(Instant::now());
        let body = read_body(response.into_body(), self.limits.response_bytes, left)
            .await
            .map_err(|source| ClientError::Answer { address: self.address().to_owned(), source })?;
        live.used = Instant::now();
        *idle = Some(live);
        Ok((status, body))
    }

    fn reusable(&self, live: Option<Live>) -> Option<Live> {
        live.filter(|live| live.used.elapsed() < self.limits.idle)
    }

    /// Sends on the reused connection, or on a new one when the server has closed that before a
    /// byte of the request left. A request that may have arrived is never sent twice.
    async fn send(
        &self,
        reused: Option<Live>,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Live), ClientError> {
        if let Some(mut live) = reused {
            match self.send_on(&mut live, request).await {
                Ok(response) => return Ok((response, live)),
                Err((_, Some(unsent))) => request = unsent,
                Err((reason, None)) => return Err(self.broken(reason)),
            }
        }
        let mut live = self.connect().await?;
        let response =
            self.send_on(&mut live, request).await.map_err(|(reason, _)| self.broken(reason))?;
        Ok((response, live))
    }

    /// On failure gives the request back when none of it was sent.
    async fn send_on(
        &self,
        live: &mut Live,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, (String, Option<Request<Full<Bytes>>>)> {
        let Some(sender) = live.sender.as_mut() else {
            return Err(("closed".to_owned(), Some(request)));
        };
        if let Err(error) = sender.ready().await {
            return Err((error.to_string(), Some(request)));
        }
        sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message();
            (error.into_error().to_string(), unsent)
        })
    }

    async fn connect(&self) -> Result<Live, ClientError> {
        let (stream, identity) = self.tls.connect(self.limits.connect).await?;
        if let Some(rule) = self.server.as_ref().filter(|rule| !identity.matches(rule)) {
            return Err(ClientError::WrongServer {
                address: self.address().to_owned(),
                found: identity.to_string(),
                expected: rule.clone(),
            });
        }
        let is_gone =
            |gone: &watch::Receiver<BTreeSet<_>>| gone.borrow().contains(identity.sha256());
        if self.gone.as_ref().is_some_and(is_gone) {
            let (address, found) = (self.address().to_owned(), identity.to_string());
            return Err(ClientError::Revoked { address, found });
        }
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.broken(e.to_string()))?;
        // How the connection ends is seen by the request that it breaks.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Live { sender: Some(sender), driver, used: Instant::now() })
    }

    fn broken(&self, reason: String) -> ClientError {
        ClientError::Broken { address: self.address().to_owned(), reason }
    }
}
