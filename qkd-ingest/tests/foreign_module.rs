//! A pair of modules with other habits than our simulator: `Keys`, upper-case IDs without
//! hyphens, three keys of 256 bits at most, and refusals that say nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use common::{Pki, assert_same, came, ids, start};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use km_core::module::{ModuleError, ModuleSource};
use qkd_ingest::ModuleConfig;
use serde_json::{Value, json};
use transport::http::{HttpLimits, serve_http};
use uuid::Uuid;

/// Keys not yet collected, and the requests seen.
#[derive(Default)]
struct Vendor {
    waiting: Mutex<HashMap<Uuid, String>>,
    requests: Mutex<Vec<(String, Value)>>,
}

impl Vendor {
    fn enc_keys(&self, body: &Value) -> Option<Value> {
        let number = body["number"].as_u64().filter(|n| (1..=3).contains(n))?;
        body["size"].as_u64().filter(|size| *size == 256)?;
        let entry = |_| {
            let id = Uuid::new_v4();
            let bytes = [id.into_bytes(), Uuid::new_v4().into_bytes()].concat();
            let key = Base64::encode_string(&bytes);
            self.waiting.lock().unwrap().insert(id, key.clone());
            json!({ "key": key, "key_extension": null,
                    "key_ID": id.simple().to_string().to_uppercase() })
        };
        Some(json!({ "Keys": (0..number).map(entry).collect::<Vec<_>>(), "vendor": [1, {}] }))
    }

    /// In an order of its own, and with identifiers spelled as the standard has them.
    fn dec_keys(&self, body: &Value) -> Option<Value> {
        let ids = body["key_IDs"].as_array().filter(|ids| ids.len() <= 3)?;
        let ids: Option<Vec<Uuid>> =
            ids.iter().map(|id| id["key_ID"].as_str()?.parse().ok()).collect();
        let mut waiting = self.waiting.lock().unwrap();
        let ids = ids?;
        ids.iter().all(|id| waiting.contains_key(id)).then_some(())?;
        let entry = |id| json!({ "key_ID": id, "key": waiting.remove(id) });
        Some(json!({ "keys": ids.iter().rev().map(entry).collect::<Vec<_>>() }))
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        self.requests.lock().unwrap().push((path.clone(), body.clone()));
        let answer = match path.rsplit('/').next() {
            Some("status") => Some(json!({
                "source_KME_ID": "X", "target_KME_ID": "Y", "master_SAE_ID": "", "slave_SAE_ID": "",
                "key_size": 256, "stored_key_count": 1000, "max_key_count": 1000,
                "max_key_per_request": 3, "max_key_size": 256, "min_key_size": 256,
                "max_SAE_ID_count": 0, "status_extension": { "temperature": 20 },
            })),
            Some("enc_keys") => self.enc_keys(&body),
            _ => self.dec_keys(&body),
        };
        let status = if answer.is_some() { 200 } else { 400 };
        let text = answer.map(|a| a.to_string()).unwrap_or_default();
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status.try_into().unwrap();
        Ok(response)
    }
}

#[tokio::test]
async fn modules_with_other_habits_serve_both_ends() {
    let (pki, vendor) = (Pki::new(), Arc::new(Vendor::default()));
    let shared = vendor.clone();
    let (address, _stop) = start(&pki.server("vendor"), move |stream, peer, shutdown| {
        let vendor = shared.clone();
        let service = service_fn(move |request| vendor.clone().answer(request));
        async move { serve_http(stream, peer, service, HttpLimits::default(), shutdown).await }
    })
    .await;
    let a = pki.module("km-a", ModuleConfig::new(&address, "KM/a", "KM/b"));
    let b = pki.module("km-b", ModuleConfig::new(&address, "KM/b", "KM/a"));

    let taken = a.take(1000).await.unwrap();
    assert!(taken.len() == 32 && taken.iter().all(|key| key.bytes.len() == 32));
    assert!(ids(&taken).iter().all(|id| id.len() == 32 && *id == id.to_uppercase()));
    assert_same(&b.collect(&ids(&taken), &came()).await.unwrap(), &taken);
    assert_eq!(b.collect(&ids(&taken), &came()).await.unwrap_err(), ModuleError::UnknownId);
    assert_eq!(vendor.waiting.lock().unwrap().len(), 0);

    let requests = vendor.requests.lock().unwrap();
    assert!(requests.iter().all(|(path, _)| path.starts_with("/api/v1/keys/KM%2F")));
    let count = |end: &str| requests.iter().filter(|(path, _)| path.ends_with(end)).count();
    assert_eq!((count("b/enc_keys"), count("a/dec_keys")), (11, 12));
    // One status tells each end the limits.
    assert_eq!((count("b/status"), count("a/status")), (1, 1));
    assert_eq!((a.counters().totals().errors, b.counters().totals().errors), (0, 0));
}
