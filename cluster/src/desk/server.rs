//! The desk of this KM. Enter through [`Desk::serve`]. It answers while this KM leads.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::Incoming,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use km_core::{
    ids::SaeId,
    key_id::KeyId,
    peer::Fingerprint,
    supply::{Supply, SupplyError},
};
use transport::{
    IdentityRule, PeerIdentity, ServerStream, Shutdown,
    http::{HttpLimits, read_body, secret_body, serve_http},
};

use tokio::sync::watch;

use super::wire::{self, Answer, KIND, MAX_REQUEST, MORE, Request};

const BODY_WITHIN: Duration = Duration::from_secs(5);

/// Makes a pool key an object of an application; the KMIP front does.
#[async_trait]
pub trait Bring: Send + Sync + 'static {
    /// See [`km_core::supply::Desk::bring`].
    async fn bring(&self, slave: &SaeId, owner: &SaeId, id: KeyId) -> Result<(), SupplyError>;
}

/// The end that answers.
pub struct Desk {
    supply: Arc<Supply>,
    objects: Arc<dyn Bring>,
    members: IdentityRule,
    gone: watch::Receiver<BTreeSet<Fingerprint>>,
}

impl Desk {
    /// For the KMs whose certificates match `members`, and are not `gone`.
    pub fn new(
        supply: Arc<Supply>,
        objects: Arc<dyn Bring>,
        members: IdentityRule,
        gone: watch::Receiver<BTreeSet<Fingerprint>>,
    ) -> Arc<Self> {
        Arc::new(Self { supply, objects, members, gone })
    }

    /// Serves one accepted connection until it ends, `shutdown`, or its KM is taken out of the cluster.
    pub async fn serve(
        self: Arc<Self>,
        stream: ServerStream,
        identity: PeerIdentity,
        shutdown: Shutdown,
    ) {
        if !identity.matches(&self.members) {
            tracing::warn!(from = %identity.address(), peer = %identity, alarm = "desk-refused",
                "not a key manager of this cluster");
            return;
        }
        let (mut gone, shown) = (self.gone.clone(), *identity.sha256());
        let name = identity.to_string();
        let service = service_fn(|request| self.answer(request));
        let serving = serve_http(stream, identity, service, HttpLimits::default(), shutdown);
        tokio::select! {
            biased;
            Ok(_) = gone.wait_for(|gone| gone.contains(&shown)) => {
                tracing::warn!(peer = name, alarm = "desk-refused",
                    "this key manager was taken out of the cluster");
            }
            () = serving => {}
        }
    }

    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let more = request.uri().path() == MORE;
        let body = read_body(request.into_body(), MAX_REQUEST, BODY_WITHIN).await;
        let asked = body.ok().and_then(|body| Request::decode(&body));
        let mut response = match asked {
            Some(asked) => Response::new(secret_body(wire::encode(self.act(asked).await, more))),
            None => {
                let mut refused = Response::new(Full::default());
                *refused.status_mut() = StatusCode::BAD_REQUEST;
                refused
            }
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(KIND));
        Ok(response)
    }

    /// Not passed on to a third: two KMs with old news could ask each other for ever. A lead that is lost
    /// in the midst of it is followed, for as long as a request may take.
    async fn act(&self, asked: Request) -> Result<Answer, SupplyError> {
        if !self.supply.leads() {
            return Err(SupplyError::NotLed("not this one".to_owned()));
        }
        match asked {
            Request::Issue { master, slaves, size, count } => {
                self.supply.issue(&master, &slaves, size, count).await.map(Answer::Keys)
            }
            Request::Collect { slave, master, ids } => {
                let known = ids.iter().map(|id| KeyId::from_uuid(*id)).collect::<Option<Vec<_>>>();
                let ids = known.ok_or_else(|| SupplyError::OutOfBounds("no key IDs".into()))?;
                self.supply.collect(&slave, master.as_ref(), &ids).await.map(Answer::Keys)
            }
            Request::Bring { slave, owner, id } => {
                let id = KeyId::from_uuid(id);
                let id = id.ok_or_else(|| SupplyError::OutOfBounds("no key ID".into()))?;
                self.objects.bring(&slave, &owner, id).await.map(|()| Answer::Brought)
            }
            Request::Level { master, slave } => {
                self.supply.level(&master, &slave).await.map(Answer::Level)
            }
        }
    }
}
