//! An application that speaks to its KME with plain JSON, not with the server's own types.

use base64ct::{Base64, Encoding};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::{
    Profile, TlsClient, TlsClientStream, TlsFiles, client_config,
    http::{ClientLimits, HttpClient},
};
use wiped::Wiped;

use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Sae {
    pub name: String,
    http: HttpClient,
    address: String,
    files: TlsFiles,
}

/// Status and JSON; `Null` when there is no body.
pub type Reply = (u16, Value);

impl Sae {
    pub(super) fn new(name: &str, address: &str, files: TlsFiles) -> Self {
        let config = client_config(&files, Profile::Front).unwrap();
        let limits = ClientLimits { request: PATIENCE, ..ClientLimits::default() };
        let http = HttpClient::new(address, None, config, limits).unwrap();
        Self { name: name.into(), http, address: address.into(), files }
    }

    pub async fn get(&self, path: &str) -> Reply {
        let (status, body) = self.http.get(&format!("/api/v1/keys/{path}")).await.unwrap();
        (status, parse(&body))
    }

    pub async fn post(&self, path: &str, body: &str) -> Reply {
        let path = format!("/api/v1/keys/{path}");
        let body = Wiped::copy_of(body.as_bytes());
        let (status, body) = self.http.post(&path, body).await.unwrap();
        (status, parse(&body))
    }

    /// enc_keys for `slave`, which must succeed.
    pub async fn enc(&self, slave: &str, request: Value) -> Vec<(String, Vec<u8>)> {
        let (status, body) = self.post(&format!("{slave}/enc_keys"), &request.to_string()).await;
        assert_eq!(status, 200, "{body}");
        keys_of(&body)
    }

    /// dec_keys of `master`.
    pub async fn dec(&self, master: &str, ids: &[String]) -> Reply {
        self.post(&format!("{master}/dec_keys"), &key_ids(ids)).await
    }

    /// A connection of its own, to its KME or elsewhere.
    pub async fn stream(&self, address: Option<&str>) -> TlsClientStream {
        let config = client_config(&self.files, Profile::Front).unwrap();
        let client = TlsClient::new(address.unwrap_or(&self.address), None, config).unwrap();
        client.connect(PATIENCE).await.unwrap().0
    }

    /// One request as it is written here; the head and body of the answer.
    pub async fn raw(&self, method: &str, target: &str, body: &str) -> (String, String) {
        let mut stream = self.stream(None).await;
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: kme\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        let read = stream.read_to_string(&mut text);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
        (head.to_ascii_lowercase(), body.into())
    }
}

/// The identifiers among keys.
pub fn ids(keys: &[(String, Vec<u8>)]) -> Vec<String> {
    keys.iter().map(|(id, _)| id.clone()).collect()
}

/// The body of dec_keys.
pub fn key_ids(ids: &[String]) -> String {
    let ids: Vec<Value> = ids.iter().map(|id| json!({"key_ID": id})).collect();
    json!({"key_IDs": ids}).to_string()
}

/// Identifiers and bytes in a key container.
pub fn keys_of(container: &Value) -> Vec<(String, Vec<u8>)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let keys = container["keys"].as_array().expect("a key container").iter();
    keys.map(|key| (text(&key["key_ID"]), Base64::decode_vec(&text(&key["key"])).unwrap()))
        .collect()
}

fn parse(body: &[u8]) -> Value {
    if body.is_empty() { Value::Null } else { serde_json::from_slice(body).expect("JSON") }
}
