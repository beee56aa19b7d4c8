//! Clients of the fronts for tests: they say what came back and judge nothing.

use std::time::Duration;

use kmip::{
    Answer, Operation, Version,
    client::{Client, ClientError},
    encoding,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Mutex,
};
use transport::{
    Profile, TlsClient, TlsClientStream, TlsFiles, client_config,
    http::{ClientLimits, HttpClient},
};
use wiped::Wiped;
use zeroize::Zeroizing;

/// A keep-alive HTTPS client with this certificate.
pub fn http(address: &str, files: &TlsFiles) -> HttpClient {
    let tls = client_config(files, Profile::Front).expect("certificate files");
    HttpClient::new(address, None, tls, ClientLimits::default()).expect("an address")
}

/// What an ETSI 014 server said.
#[derive(Debug)]
pub struct Said {
    pub status: u16,
    pub body: Value,
}

impl Said {
    /// Whether a refusal says that nothing was done.
    pub fn did_nothing(&self) -> bool {
        self.body["message"].as_str().is_some_and(|text| text.contains("nothing was done"))
    }

    /// Identifier and key bytes (base64) of each key.
    pub fn keys(&self) -> Vec<(String, String)> {
        let text = |key: &Value, name: &str| key[name].as_str().unwrap_or_default().to_owned();
        let keys = self.body["keys"].as_array().cloned().unwrap_or_default();
        keys.iter().map(|key| (text(key, "key_ID"), text(key, "key"))).collect()
    }
}

/// An application at one KME.
pub struct Etsi014 {
    client: HttpClient,
}

impl Etsi014 {
    pub fn new(address: &str, files: &TlsFiles) -> Self {
        Self { client: http(address, files) }
    }

    /// One that waits no longer than `within` for an answer.
    pub fn patient_for(within: Duration, address: &str, files: &TlsFiles) -> Self {
        let tls = client_config(files, Profile::Front).expect("certificate files");
        let limits = ClientLimits { connect: within, request: within, ..ClientLimits::default() };
        Self { client: HttpClient::new(address, None, tls, limits).expect("an address") }
    }

    pub async fn get(&self, path: &str) -> Result<Said, String> {
        let (status, body) = self.client.get(path).await.map_err(|e| e.to_string())?;
        Ok(Said { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Said, String> {
        let body = Wiped::new(body.to_string().into_bytes());
        let (status, body) = self.client.post(path, body).await.map_err(|e| e.to_string())?;
        Ok(Said { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
    }

    pub async fn enc(&self, slave: &str, number: u32) -> Result<Said, String> {
        self.get(&format!("/api/v1/keys/{slave}/enc_keys?number={number}")).await
    }

    pub async fn dec(&self, master: &str, ids: &[&str]) -> Result<Said, String> {
        let ids: Vec<Value> = ids.iter().map(|id| serde_json::json!({ "key_ID": id })).collect();
        let body = serde_json::json!({ "key_IDs": ids });
        self.post(&format!("/api/v1/keys/{master}/dec_keys"), &body).await
    }

    /// Closes the connection.
    pub async fn close(&self) {
        self.client.close().await;
    }
}

/// A KMIP client on one connection, made again when it breaks.
pub struct Kmip {
    server: TlsClient,
    client: Client,
    stream: Mutex<Option<TlsClientStream>>,
}

const KMIP_WITHIN: Duration = Duration::from_secs(15);
const LARGEST: usize = 1 << 20;

impl Kmip {
    pub fn new(address: &str, files: &TlsFiles) -> Self {
        let tls = client_config(files, Profile::Front).expect("certificate files");
        let server = TlsClient::new(address, None, tls).expect("an address");
        Self { server, client: Client::new(Version::V1_4), stream: Mutex::new(None) }
    }

    /// The same client, of another version than 1.4.
    pub fn of(self, version: Version) -> Self {
        Self { client: Client::new(version), ..self }
    }

    /// One operation. `Err` also when the server refused.
    pub async fn ask(&self, operation: impl Into<Operation>) -> Result<Answer, String> {
        let request = self.client.request(operation).map_err(|e| e.to_string())?;
        let frame = self.exchange(&request).await?;
        self.client.answer(&frame).map_err(|error| match error {
            ClientError::Refused { reason, message } => format!("{reason:?}: {message}"),
            other => other.to_string(),
        })
    }

    /// One frame for another, whatever they hold.
    pub async fn exchange(&self, request: &[u8]) -> Result<Wiped, String> {
        let answer = tokio::time::timeout(KMIP_WITHIN, self.try_exchange(request)).await;
        answer.map_err(|_| "no answer in time".to_owned())?
    }

    async fn try_exchange(&self, request: &[u8]) -> Result<Wiped, String> {
        let mut slot = self.stream.lock().await;
        let mut stream = match slot.take() {
            Some(stream) => stream,
            None => self.server.connect(KMIP_WITHIN).await.map_err(|e| e.to_string())?.0,
        };
        let broken = |e: std::io::Error| e.to_string();
        stream.write_all(request).await.map_err(broken)?;
        let mut frame = Wiped::zeros(8);
        stream.read_exact(&mut frame).await.map_err(broken)?;
        let length = kmip::ttlv::frame_len(&frame, LARGEST).map_err(|e| e.to_string())?;
        frame.grow_to(length.unwrap_or(8));
        stream.read_exact(&mut frame[8..]).await.map_err(broken)?;
        *slot = Some(stream);
        Ok(frame)
    }
}

/// KMIP over HTTPS.
pub struct KmipHttps {
    client: HttpClient,
    kind: &'static str,
}

impl KmipHttps {
    /// A client that speaks in the form of `kind`, a media type.
    pub fn new(address: &str, files: &TlsFiles, kind: &'static str) -> Self {
        Self { client: http(address, files), kind }
    }

    /// One frame for another; on the way both are in the client's form.
    pub async fn exchange(&self, request: &[u8]) -> Result<Wiped, String> {
        let limits = kmip::ttlv::Limits::default();
        let words = |text: Zeroizing<String>| Wiped::copy_of(text.as_bytes());
        let body = match self.kind {
            "application/json" => encoding::to_json(request, &limits).map(words),
            "text/xml" => encoding::to_xml(request, &limits).map(words),
            _ => Ok(Wiped::copy_of(request)),
        };
        let body = body.map_err(|error| error.to_string())?;
        let answer = self.client.post_as("/kmip", self.kind, body).await;
        let (status, body) = answer.map_err(|error| error.to_string())?;
        let text = || std::str::from_utf8(&body).map_err(|error| error.to_string());
        if status != 200 {
            return Err(format!("{status}: {}", text()?));
        }
        match self.kind {
            "application/json" => encoding::from_json(text()?).map_err(|error| error.to_string()),
            "text/xml" => encoding::from_xml(text()?).map_err(|error| error.to_string()),
            _ => Ok(body),
        }
    }
}

/// Material of the object in a Get answer, in hexadecimal.
pub fn material(answer: &Answer) -> Option<String> {
    let Answer::Get(got) = answer else { return None };
    got.object.key_block()?.plain_bytes().map(|secret| secret.expose(|bytes| hex::encode(bytes)))
}
