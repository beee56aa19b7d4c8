//! KMIP over HTTPS: POST to `/kmip` with a message in TTLV, JSON or XML; the answer has the same form
//! (KMIP Profiles, HTTPS, JSON and XML). Who may ask for what is as on the socket: other forms are
//! turned into frames, and frames are answered.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONNECTION, CONTENT_TYPE},
    service::service_fn,
};
use kmip::{encoding, ttlv};
use transport::{
    PeerIdentity, ServerStream, Shutdown,
    http::{BodyError, HttpLimits, read_body, secret_body, serve_http},
};
use wiped::Wiped;
use zeroize::Zeroizing;

use crate::{
    Counters, Server,
    batch::{self, Reply},
    caller::Client,
};

const PATH: &str = "/kmip";
/// How many times as long a message may be in words as in TTLV.
const WORDY: usize = 4;
/// What is read of somebody who will be refused, in bytes.
const OF_STRANGERS: usize = 16 * 1024;

/// The form of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Ttlv,
    Json,
    Xml,
}

impl Form {
    fn of(request: &Request<Incoming>) -> Option<Self> {
        let said = request.headers().get(CONTENT_TYPE)?.to_str().ok()?;
        match said.split(';').next()?.trim() {
            "application/octet-stream" => Some(Self::Ttlv),
            "application/json" => Some(Self::Json),
            "text/xml" | "application/xml" => Some(Self::Xml),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ttlv => "application/octet-stream",
            Self::Json => "application/json",
            Self::Xml => "text/xml",
        }
    }

    fn read(self, body: Wiped) -> Result<Wiped, encoding::Error> {
        let text = |body| {
            std::str::from_utf8(body)
                .map_err(|_| encoding::Error::Syntax("the text is not UTF-8".to_owned()))
        };
        match self {
            Self::Ttlv => Ok(body),
            Self::Json => encoding::from_json(text(&body)?),
            Self::Xml => encoding::from_xml(text(&body)?),
        }
    }

    fn write(self, frame: Wiped, limits: &ttlv::Limits) -> Result<Wiped, encoding::Error> {
        let bytes = |mut text: Zeroizing<String>| Wiped::new(std::mem::take(&mut *text).into());
        match self {
            Self::Ttlv => Ok(frame),
            Self::Json => encoding::to_json(&frame, limits).map(bytes),
            Self::Xml => encoding::to_xml(&frame, limits).map(bytes),
        }
    }
}

/// Serves one connection until it ends.
pub(crate) async fn serve(
    server: Arc<Server>,
    stream: ServerStream,
    identity: PeerIdentity,
    shutdown: Shutdown,
) {
    let Some(client) = Client::find(&server, &identity) else { return };
    let client = Arc::new(client);
    let limits = HttpLimits {
        request: server.limits.frame_time + 2 * server.limits.request_time,
        idle: server.limits.idle,
        ..HttpLimits::default()
    };
    let service = service_fn(move |request| {
        let (server, client) = (server.clone(), client.clone());
        async move { Ok::<_, Infallible>(answer(server, client, request).await) }
    });
    serve_http(stream, identity, service, limits, shutdown).await;
}

async fn answer(
    server: Arc<Server>,
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, "KMIP is at /kmip");
    }
    if request.method() != Method::POST {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "POST a KMIP message");
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("POST"));
        return refused;
    }
    let Some(form) = Form::of(&request) else {
        let text = "Content-Type is application/octet-stream (TTLV), application/json or text/xml";
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    };
    let most = match (client.is_stranger(), form) {
        (true, _) => OF_STRANGERS,
        (false, Form::Ttlv) => server.limits.frame,
        (false, _) => WORDY * server.limits.frame,
    };
    let body = match read_body(request.into_body(), most, server.limits.frame_time).await {
        Ok(body) => body,
        Err(error) => {
            let status = match error {
                BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                BodyError::Timeout { .. } => StatusCode::REQUEST_TIMEOUT,
                BodyError::Broken(_) => StatusCode::BAD_REQUEST,
            };
            return plain(status, error.to_string());
        }
    };
    // Many words take a while to read: not on the threads that serve.
    let read = match body.len() {
        0..=OF_STRANGERS => Ok(form.read(body)),
        _ => tokio::task::spawn_blocking(move || wiped::leaving_none(|| form.read(body))).await,
    };
    let frame = match read {
        Ok(Ok(frame)) => frame,
        Ok(Err(error)) => {
            Counters::add(&server.counters.malformed);
            return plain(StatusCode::BAD_REQUEST, error.to_string());
        }
        Err(error) => return failed(&error),
    };
    let limits = ttlv::Limits { frame: server.limits.frame, ..ttlv::Limits::default() };
    // What has begun is finished, whether the client waits or not.
    let done = tokio::spawn(async move { batch::answer_frame(&server, &client, &frame).await });
    let in_words = |frame| match form.write(frame, &limits) {
        Ok(body) => said(StatusCode::OK, form.name(), body),
        Err(error) => {
            tracing::warn!(%error, "an answer was not put into words");
            plain(StatusCode::NOT_ACCEPTABLE, error.to_string())
        }
    };
    match done.await {
        Ok(Reply::Send(frame)) => in_words(frame),
        Ok(Reply::Last(frame) | Reply::Turn(frame, _)) => last(in_words(frame)),
        Ok(Reply::Close) => last(plain(StatusCode::BAD_REQUEST, "the body is no KMIP message")),
        Err(error) => failed(&error),
    }
}

/// The connection ends with it.
fn last(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().insert(CONNECTION, hyper::header::HeaderValue::from_static("close"));
    response
}

fn failed(error: &tokio::task::JoinError) -> Response<Full<Bytes>> {
    tracing::error!(%error, "a request was not carried through");
    plain(StatusCode::INTERNAL_SERVER_ERROR, "the server failed; see its log")
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response<Full<Bytes>> {
    let mut text: String = text.into();
    text.push('\n');
    said(status, "text/plain; charset=utf-8", Wiped::new(text.into_bytes()))
}

fn said(status: StatusCode, kind: &'static str, body: Wiped) -> Response<Full<Bytes>> {
    let mut response = Response::new(secret_body(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
