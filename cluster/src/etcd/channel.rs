//! One gRPC connection: requests over HTTP/2. Enter through [`Channel::connect`].

use std::{sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, Method, Request, header::CONTENT_TYPE};
use prost::Message;
use tokio::{sync::watch, task::JoinHandle};
use transport::TlsClient;

const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Longest answer: a page of blocks is 8 MiB.
const MAX_MESSAGE: usize = 160 << 20;
const WINDOW: u32 = 4 << 20;
/// Longest wait for what was asked of a member that has fallen silent since.
const LAST_WAIT: Duration = Duration::from_millis(250);

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// It never left: certainly nothing was done.
    NotSent(String),
    /// It may have been done.
    Broken(String),
    /// The engine is an older copy of itself; nothing that it says counts.
    SetBack,
    /// The engine refused it.
    Status {
        /// As gRPC counts them.
        code: u32,
        /// The engine's words.
        text: String,
    },
}

/// The gRPC status codes that are told apart.
pub(super) mod code {
    pub(in super::super) const INVALID_ARGUMENT: u32 = 3;
    pub(in super::super) const NOT_FOUND: u32 = 5;
    pub(in super::super) const PERMISSION_DENIED: u32 = 7;
    pub(in super::super) const RESOURCE_EXHAUSTED: u32 = 8;
    pub(in super::super) const FAILED_PRECONDITION: u32 = 9;
    pub(in super::super) const OUT_OF_RANGE: u32 = 11;
    pub(in super::super) const UNAUTHENTICATED: u32 = 16;
}

pub(super) struct Channel {
    sender: SendRequest<Bytes>,
    authority: String,
    driver: JoinHandle<()>,
    silent: watch::Sender<bool>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Channel {
    pub(super) async fn connect(tls: &TlsClient) -> Result<Arc<Self>, CallError> {
        let (stream, _) =
            tls.connect(CONNECT_WITHIN).await.map_err(|e| CallError::NotSent(e.to_string()))?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(2 * WINDOW);
        builder.enable_push(false);
        let shaken = tokio::time::timeout(CONNECT_WITHIN, builder.handshake(stream)).await;
        let (sender, connection) = shaken
            .map_err(|_| CallError::NotSent("no HTTP/2 in time".into()))?
            .map_err(|e| CallError::NotSent(e.to_string()))?;
        // How it ends is seen by the calls that it breaks.
        let driver = tokio::spawn(async move { drop(connection.await) });
        let (authority, silent) = (tls.address().to_owned(), watch::Sender::new(false));
        Ok(Arc::new(Self { sender, authority, driver, silent }))
    }

    /// The `host:port` of its member.
    pub(super) fn address(&self) -> &str {
        &self.authority
    }

    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.driver.is_finished()
    }

    /// Whether its member was found to be silent.
    pub(super) fn is_silent(&self) -> bool {
        *self.silent.borrow()
    }

    /// Its member did not renew a lease in time, or has lost those it would ask.
    pub(super) fn found_silent(&self) {
        self.silent.send_replace(true);
    }

    /// Ends when its member was found to be silent, and had a moment more.
    pub(super) async fn fell_silent(&self) {
        // The sender is here.
        let _ = self.silent.subscribe().wait_for(|silent| *silent).await;
        tokio::time::sleep(LAST_WAIT).await;
    }

    /// One message there, one back.
    pub(super) async fn unary<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, CallError> {
        let mut stream = self.open(method, request, true).await?;
        let answer = stream.next().await?;
        // To its end: a stream left before counts as reset, and HTTP/2 bounds how many may be.
        while stream.next::<A>().await?.is_some() {}
        answer.ok_or_else(|| CallError::Broken("an answer without a message".into()))
    }

    /// Sends the first message; `last` when no other will follow.
    pub(super) async fn open(
        &self,
        method: &str,
        first: &impl Message,
        last: bool,
    ) -> Result<Stream, CallError> {
        let not_sent = |e: h2::Error| CallError::NotSent(e.to_string());
        let uri = format!("https://{}/etcdserverpb.{method}", self.authority);
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(CONTENT_TYPE, "application/grpc")
            .header("te", "trailers")
            // A member cut off from the others says so instead of letting us wait.
            .header("hasleader", "true")
            .body(())
            .map_err(|e| CallError::NotSent(e.to_string()))?;
        let mut sender = self.sender.clone().ready().await.map_err(not_sent)?;
        let (answer, mut body) = sender.send_request(request, false).map_err(not_sent)?;
        body.send_data(framed(first), last).map_err(broken)?;
        let answer = answer.await.map_err(broken)?;
        if let Some(status) = status_in(answer.headers()) {
            return Err(status);
        }
        Ok(Stream { _body: body, answers: answer.into_body(), read: BytesMut::new() })
    }
}

/// Messages coming back.
pub(super) struct Stream {
    // Held open: dropping it would cancel the call.
    _body: SendStream<Bytes>,
    answers: RecvStream,
    read: BytesMut,
}

impl Stream {
    /// `None` at an end in order.
    pub(super) async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, CallError> {
        loop {
            if let Some(message) = self.whole()? {
                let read = A::decode(message).map_err(|e| CallError::Broken(e.to_string()));
                return read.map(Some);
            }
            match self.answers.data().await {
                Some(chunk) => {
                    let chunk = chunk.map_err(broken)?;
                    let _ = self.answers.flow_control().release_capacity(chunk.len());
                    self.read.extend_from_slice(&chunk);
                }
                None => {
                    let trailers = self.answers.trailers().await.map_err(broken)?;
                    let status = trailers.as_ref().and_then(status_in);
                    return status.map_or(Ok(None), Err);
                }
            }
        }
    }

    fn whole(&mut self) -> Result<Option<Bytes>, CallError> {
        let Some(head) = self.read.first_chunk::<5>() else { return Ok(None) };
        let [packed, length @ ..] = *head;
        let length = u32::from_be_bytes(length) as usize;
        if packed != 0 || length > MAX_MESSAGE {
            return Err(CallError::Broken(format!("a message of {length} bytes is not read")));
        }
        if self.read.len() < 5 + length {
            return Ok(None);
        }
        self.read.advance(5);
        Ok(Some(self.read.split_to(length).freeze()))
    }
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message.encode_to_vec());
    frame.freeze()
}

fn broken(error: h2::Error) -> CallError {
    // Refused before it was looked at.
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => CallError::NotSent(error.to_string()),
        _ => CallError::Broken(error.to_string()),
    }
}

fn status_in(headers: &HeaderMap) -> Option<CallError> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok().unwrap_or(2);
    let text = headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
    (code != 0).then(|| CallError::Status { code, text: text.to_owned() })
}
