//! One module as a vendor device: ETSI GS QKD 014 over HTTP, a status resource, and the fault
//! switch. Enter through [`Module::answer`].

use std::{convert::Infallible, sync::Arc, time::Duration, time::Instant};

use bytes::Bytes;
use etsi014::{
    ContainerWriter, ErrorBody, KeyIds, KeyName, KeyRequest, Status,
    path::{self, Method as Api},
    text,
};
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};
use tracing::info;
use transport::{
    IdentityRule,
    http::{BodyError, peer, read_body, secret_body},
};
use uuid::Uuid;
use wiped::Wiped;

use super::{
    config::{KeyLimits, ModuleConfig},
    fault::{End, Fault, FaultRequest},
    link::{DrawError, Link},
};

/// `GET`: [`super::LinkStatus`].
pub(super) const LINK_PATH: &str = "/api/v1/link";
/// `POST`: [`FaultRequest`].
pub(super) const FAULT_PATH: &str = "/api/v1/sim/fault";

const BODY_TIME: Duration = Duration::from_secs(10);
const SMALL_BODY: usize = 64 * 1024;
/// Room for one entry of `key_IDs`, spaces and extensions included.
const ID_ENTRY: u64 = 256;

pub(super) struct Module {
    pub(super) end: End,
    pub(super) config: ModuleConfig,
    pub(super) peer: ModuleConfig,
    pub(super) keys: KeyLimits,
    pub(super) admins: Vec<IdentityRule>,
    pub(super) link: Arc<Link>,
}

/// Status and JSON body.
struct Reply(StatusCode, Wiped);

type Outcome = Result<Reply, Reply>;

impl Reply {
    fn json(body: Vec<u8>) -> Self {
        Reply(StatusCode::OK, Wiped::new(body))
    }

    fn empty(status: StatusCode) -> Self {
        Reply(status, Wiped::default())
    }

    fn bad(message: impl Into<String>) -> Self {
        let body = ErrorBody::new(message).to_json();
        Reply(StatusCode::BAD_REQUEST, Wiped::new(body))
    }

    fn unavailable(message: &str) -> Self {
        let body = ErrorBody::new(message).to_json();
        Reply(StatusCode::SERVICE_UNAVAILABLE, Wiped::new(body))
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(secret_body(self.1));
        *response.status_mut() = self.0;
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}

impl Module {
    /// Answers one request; never fails.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (Ok(reply) | Err(reply)) = self.route(request).await;
        Ok(reply.response())
    }

    async fn route(&self, request: Request<Incoming>) -> Outcome {
        let post = match *request.method() {
            Method::GET => false,
            Method::POST => true,
            _ => return Err(Reply::empty(StatusCode::METHOD_NOT_ALLOWED)),
        };
        let is = |rules: &[IdentityRule]| {
            peer(&request).is_some_and(|peer| rules.iter().any(|rule| peer.matches(rule)))
        };
        let (km, admin) = (is(&self.config.clients), is(&self.admins));
        let refused = || Reply::empty(StatusCode::UNAUTHORIZED);
        let wrong_method = || Reply::empty(StatusCode::METHOD_NOT_ALLOWED);
        match request.uri().path() {
            LINK_PATH if !(km || admin) => Err(refused()),
            LINK_PATH if post => Err(wrong_method()),
            LINK_PATH => self.link_status(),
            FAULT_PATH if !admin => Err(refused()),
            FAULT_PATH if !post => Err(wrong_method()),
            FAULT_PATH => self.switch(request).await,
            _ if !km => Err(refused()),
            path => match path::parse(path) {
                None => Err(Reply::empty(StatusCode::NOT_FOUND)),
                // Only the KM at the other end is known here.
                Some((sae, _)) if sae != self.peer.sae_id => Err(refused()),
                Some((_, Api::Status)) if post => Err(wrong_method()),
                Some((_, Api::Status)) => Ok(self.status()),
                Some((_, Api::EncKeys)) => self.enc_keys(request, post).await,
                Some((_, Api::DecKeys)) => self.dec_keys(request, post).await,
            },
        }
    }

    fn status(&self) -> Reply {
        let keys = &self.keys;
        let max = keys.buffer_bits / keys.size;
        let stored = self.link.status(Instant::now()).buffered_bits / keys.size;
        let status = Status {
            source_kme_id: self.config.kme_id.clone(),
            target_kme_id: self.peer.kme_id.clone(),
            master_sae_id: self.config.sae_id.clone(),
            slave_sae_id: self.peer.sae_id.clone(),
            key_size: keys.size,
            stored_key_count: stored.min(max),
            max_key_count: max,
            max_key_per_request: keys.max_per_request,
            max_key_size: keys.max_size,
            min_key_size: keys.min_size,
            max_sae_id_count: 0,
            status_extension: None,
        };
        Reply::json(status.to_json())
    }

    async fn enc_keys(&self, request: Request<Incoming>, post: bool) -> Outcome {
        let wanted = if post {
            KeyRequest::parse(&body(request, SMALL_BODY).await?)
        } else {
            KeyRequest::from_query(request.uri().query())
        };
        let (number, key_bytes) = self.size(&wanted.map_err(|e| Reply::bad(e.to_string()))?)?;
        let drawn =
            self.link.draw(self.end, number, key_bytes, Instant::now()).map_err(|e| match e {
                DrawError::Short => Reply::unavailable("not enough key bits yet, try again later"),
                DrawError::Random => Reply::unavailable("no randomness, try again later"),
            })?;
        let mut writer = ContainerWriter::new(number, key_bytes);
        for (id, key) in drawn.keys() {
            push(&mut writer, &id.into(), key)?;
        }
        Ok(Reply(StatusCode::OK, writer.finish()))
    }

    /// Number of keys and bytes of each, within the limits.
    fn size(&self, request: &KeyRequest) -> Result<(usize, usize), Reply> {
        let keys = &self.keys;
        let (number, size) = (request.number.unwrap_or(1), request.size.unwrap_or(keys.size));
        if !request.extension_mandatory.is_empty() {
            return Err(Reply::bad(text::MANDATORY_NOT_SUPPORTED));
        }
        if !request.additional_slave_sae_ids.is_empty() {
            return Err(Reply::bad("additional_slave_SAE_IDs are not supported"));
        }
        if size % 8 != 0 {
            return Err(Reply::bad(text::SIZE_MULTIPLE_OF_8));
        }
        if size < keys.min_size || size > keys.max_size {
            let (min, max) = (keys.min_size, keys.max_size);
            return Err(Reply::bad(format!("size must be from {min} to {max}")));
        }
        if !(1..=keys.max_per_request).contains(&number) {
            let max = keys.max_per_request;
            return Err(Reply::bad(format!("number must be from 1 to {max}")));
        }
        if number * size > keys.max_request_bits {
            let max = keys.max_request_bits;
            return Err(Reply::bad(format!("a request may ask for {max} bits, all keys together")));
        }
        // Both fit: at most 65,536 keys and a buffer of at most 2 GiB.
        Ok((number as usize, (size / 8) as usize))
    }

    async fn dec_keys(&self, request: Request<Incoming>, post: bool) -> Outcome {
        let wanted = if post {
            let room = self.keys.max_per_request * ID_ENTRY + SMALL_BODY as u64;
            KeyIds::parse(&body(request, room as usize).await?)
        } else {
            KeyIds::from_query(request.uri().query())
        };
        let names = wanted.map_err(|e| Reply::bad(e.to_string()))?.names;
        if names.len() as u64 > self.keys.max_per_request {
            let max = self.keys.max_per_request;
            return Err(Reply::bad(format!("a request may ask for {max} keys")));
        }
        let not_found = || Reply::bad(text::KEYS_NOT_FOUND);
        let ids: Option<Vec<Uuid>> = names.iter().map(KeyName::uuid).collect();
        let ids = ids.ok_or_else(not_found)?;
        let keys = self.link.collect(self.end, &ids, Instant::now()).ok_or_else(not_found)?;
        let longest = keys.sizes.iter().copied().max().unwrap_or(0);
        let mut writer = ContainerWriter::new(names.len(), longest);
        let mut rest = &keys.bytes[..];
        for (name, size) in names.iter().zip(&keys.sizes) {
            let (key, tail) = rest.split_at(*size);
            push(&mut writer, name, key)?;
            rest = tail;
        }
        Ok(Reply(StatusCode::OK, writer.finish()))
    }

    fn link_status(&self) -> Outcome {
        let status = self.link.status(Instant::now());
        serde_json::to_vec(&status)
            .map(Reply::json)
            .map_err(|_| Reply::empty(StatusCode::INTERNAL_SERVER_ERROR))
    }

    async fn switch(&self, request: Request<Incoming>) -> Outcome {
        let body = body(request, SMALL_BODY).await?;
        let fault: FaultRequest =
            serde_json::from_slice(&body).map_err(|e| Reply::bad(e.to_string()))?;
        let fault = Fault::try_from(fault).map_err(Reply::bad)?;
        info!(?fault, "fault switched");
        self.link.switch(fault, Instant::now());
        self.link_status()
    }
}

async fn body(request: Request<Incoming>, max: usize) -> Result<Wiped, Reply> {
    read_body(request.into_body(), max, BODY_TIME).await.map_err(|error| {
        Reply::empty(match error {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Timeout { .. } => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        })
    })
}

/// The writer was made for exactly these keys, so `Full` does not come.
fn push(writer: &mut ContainerWriter, name: &KeyName, key: &[u8]) -> Result<(), Reply> {
    writer.push(name, key).map_err(|_| Reply::empty(StatusCode::INTERNAL_SERVER_ERROR))
}
