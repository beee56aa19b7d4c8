//! What the benchmark's connections do.

use kmip::{
    Operation, Version, client, enums::ResultStatus, op, op::Answer as KmipAnswer, tag::Tag, ttlv,
};

use super::{Connection, Script, Target};

/// An ETSI GS QKD 014 GET request, bytes ready to send.
fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: km\r\n\r\n").into_bytes()
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: km\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// `enc_keys` for `number` keys of the default size.
pub struct Enc {
    connection: Connection,
    request: Vec<u8>,
    number: u64,
}

impl Enc {
    pub fn new(connection: Connection, slave: &str, number: u64) -> Self {
        let request = get(&format!("/api/v1/keys/{slave}/enc_keys?number={number}"));
        Self { connection, request, number }
    }
}

impl Script for Enc {
    async fn step(&mut self) -> Result<u64, String> {
        let answer = self.connection.ask(&self.request).await?;
        ok(answer.status, answer.body)?;
        Ok(self.number)
    }
}

/// `enc_keys` at one end, then `dec_keys` of the same keys at the other, bytes compared.
pub struct Pair {
    master: Connection,
    slave: Connection,
    enc: Vec<u8>,
    dec_path: String,
    number: u64,
}

impl Pair {
    pub fn new(master: Connection, slave: Connection, names: (&str, &str), number: u64) -> Self {
        let enc = get(&format!("/api/v1/keys/{}/enc_keys?number={number}", names.1));
        let dec_path = format!("/api/v1/keys/{}/dec_keys", names.0);
        Self { master, slave, enc, dec_path, number }
    }
}

impl Script for Pair {
    async fn step(&mut self) -> Result<u64, String> {
        let answer = self.master.ask(&self.enc).await?;
        ok(answer.status, answer.body)?;
        let issued = keys(answer.body)?;
        let request = match issued.as_slice() {
            [(id, _)] => get(&format!("{}?key_ID={id}", self.dec_path)),
            many => {
                let ids: Vec<_> =
                    many.iter().map(|(id, _)| serde_json::json!({ "key_ID": id })).collect();
                post(&self.dec_path, &serde_json::json!({ "key_IDs": ids }).to_string())
            }
        };
        let answer = self.slave.ask(&request).await?;
        ok(answer.status, answer.body)?;
        if keys(answer.body)? != issued {
            return Err("the two ends delivered different keys".into());
        }
        Ok(self.number)
    }
}

/// Identifier and base64 bytes of each key in a container.
fn keys(body: &[u8]) -> Result<Vec<(String, String)>, String> {
    #[derive(serde::Deserialize)]
    struct Key {
        #[serde(rename = "key_ID")]
        id: String,
        key: String,
    }
    #[derive(serde::Deserialize)]
    struct Container {
        keys: Vec<Key>,
    }
    let container: Container = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    Ok(container.keys.into_iter().map(|key| (key.id, key.key)).collect())
}

fn ok(status: u16, body: &[u8]) -> Result<(), String> {
    match status {
        200 => Ok(()),
        other => Err(format!("status {other}: {}", String::from_utf8_lossy(body))),
    }
}

/// Prepared KMIP requests, one after the other, over and over.
pub struct Kmip {
    connection: Connection,
    requests: Vec<Vec<u8>>,
    next: usize,
    /// Batch items of each request.
    items: usize,
    /// Requests that are sent and not answered, at most and now.
    ahead: usize,
    waiting: usize,
}

impl Kmip {
    /// `Get` of each of these objects in turn.
    pub fn get<S: AsRef<str>>(connection: Connection, uids: &[S]) -> Self {
        Self::each(connection, uids.iter().map(|uid| get_request(uid.as_ref())).collect())
    }

    /// Each of `requests` in turn.
    pub fn each(connection: Connection, requests: Vec<Vec<u8>>) -> Self {
        Self { connection, requests, next: 0, items: 1, ahead: 1, waiting: 0 }
    }

    /// `request` over and over.
    pub fn always(connection: Connection, request: Vec<u8>) -> Self {
        Self::batch(connection, request, 1)
    }

    /// `request`, a batch of `items` items, over and over.
    pub fn batch(connection: Connection, request: Vec<u8>, items: usize) -> Self {
        Self { items, ..Self::each(connection, vec![request]) }
    }

    /// The same, with so many requests on their way before the first of them is answered.
    pub fn pipelined(self, ahead: usize) -> Self {
        Self { ahead, ..self }
    }

    /// `Create` of an AES-256 key.
    pub fn create(connection: Connection) -> Self {
        Self::always(connection, create_request())
    }
}

/// Opens a connection, asks one thing, and leaves.
pub struct Connect {
    target: Target,
    request: Vec<u8>,
}

impl Connect {
    pub fn new(target: Target, request: Vec<u8>) -> Self {
        Self { target, request }
    }
}

impl Script for Connect {
    async fn step(&mut self) -> Result<u64, String> {
        let mut connection = self.target.try_connect().await?;
        connection.ask(&self.request).await?;
        Ok(1)
    }
}

/// `Discover Versions`.
pub fn discover_request() -> Vec<u8> {
    let request = client::Client::new(Version::V1_4).request(client::discover_versions());
    request.expect("encodes").to_vec()
}

fn object_name(number: u64) -> String {
    format!("object-{number}")
}

/// `Locate` of the object that [`create_named`] gave `number`.
pub fn locate_request(number: u64) -> Vec<u8> {
    let locate = client::locate_name(&object_name(number));
    client::Client::new(Version::V1_4).request(locate).expect("encodes").to_vec()
}

/// Creates an AES-256 key for each of `numbers`, named after it, in one batch.
pub async fn create_named(connection: &mut Connection, numbers: std::ops::Range<u64>) {
    use kmip::attribute::{Attribute, Name};
    let create = |number| {
        let name = Attribute::Name(Name::text(object_name(number)));
        client::create(kmip::enums::CryptographicAlgorithm::Aes, 256, 12, [name]).into()
    };
    let client = client::Client::new(Version::V1_4);
    let request = client.batch(numbers.clone().map(create)).expect("encodes");
    let answer = connection.ask(&request).await.expect("the server answers");
    let answers = client.answers(answer.body).expect("a batch");
    assert_eq!(answers.len() as u64, numbers.end - numbers.start);
    answers.into_iter().for_each(|answer| drop(answer.expect("created")));
}

/// `Get` of the object `uid`.
pub fn get_request(uid: &str) -> Vec<u8> {
    let request = client::Client::new(Version::V1_4).request(client::get(uid));
    request.expect("encodes").to_vec()
}

fn create_request() -> Vec<u8> {
    use kmip::enums::CryptographicAlgorithm;
    const ENCRYPT_DECRYPT: i32 = 12;
    let create = client::create(CryptographicAlgorithm::Aes, 256, ENCRYPT_DECRYPT, []);
    client::Client::new(Version::V1_4).request(create).expect("encodes").to_vec()
}

/// Creates one object and says its identifier.
pub async fn create_one(connection: &mut Connection) -> String {
    let answer = connection.ask(&create_request()).await.expect("the server answers");
    let answer = client::Client::new(Version::V1_4).answer(answer.body);
    match answer.expect("created") {
        KmipAnswer::Create(created) => created.id,
        other => panic!("Create was answered with {other:?}"),
    }
}

const ANY_USE: i32 = 0xF;

fn in_token() -> [kmip::attribute::Attribute; 2] {
    use kmip::attribute::Attribute;
    [Attribute::Extractable(false), Attribute::ActivationDate(kmip::DateTime(1))]
}

async fn answered(connection: &mut Connection, operation: impl Into<Operation>) -> KmipAnswer {
    let client = client::Client::new(Version::V1_4);
    let request = client.request(operation).expect("encodes");
    let answer = connection.ask(&request).await.expect("the server answers");
    client.answer(answer.body).expect("done")
}

/// `items` of `Encrypt` of `bytes` bytes by AES-256-GCM in one request, with a key made in the token.
pub async fn encrypt_request(connection: &mut Connection, bytes: usize, items: usize) -> Vec<u8> {
    use kmip::enums::{BlockCipherMode, CryptographicAlgorithm};
    let create = client::create(CryptographicAlgorithm::Aes, 256, ANY_USE, in_token());
    let KmipAnswer::Create(created) = answered(connection, create).await else {
        panic!("Create was answered with something else");
    };
    let encrypt = || op::encrypt::Request {
        id: Some(created.id.as_str().into()),
        parameters: Some(kmip::attribute::CryptographicParameters {
            block_cipher_mode: Some(BlockCipherMode::Gcm),
            random_iv: Some(true),
            ..Default::default()
        }),
        data: Some(kmip::SecretBytes::copy_from(&vec![1; bytes])),
        ..Default::default()
    };
    batch((0..items).map(|_| encrypt().into()))
}

fn batch(items: impl Iterator<Item = Operation>) -> Vec<u8> {
    client::Client::new(Version::V1_4).batch(items).expect("encodes").to_vec()
}

/// `items` of `Sign` of a hash by ECDSA on P-256 in one request, with a key made in the token.
pub async fn sign_request(connection: &mut Connection, items: usize) -> Vec<u8> {
    use kmip::attribute::Attribute;
    use kmip::enums::CryptographicAlgorithm;
    let mut private = vec![Attribute::CryptographicUsageMask(1)];
    private.extend(in_token());
    let create = op::create_key_pair::Request {
        common: [
            Attribute::CryptographicAlgorithm(CryptographicAlgorithm::Ecdsa),
            Attribute::CryptographicLength(256),
        ]
        .into_iter()
        .collect(),
        private: private.into_iter().collect(),
        public: [Attribute::CryptographicUsageMask(2)].into_iter().collect(),
        ..Default::default()
    };
    let KmipAnswer::CreateKeyPair(pair) = answered(connection, create).await else {
        panic!("Create Key Pair was answered with something else");
    };
    let sign = || op::sign::Request {
        id: Some(pair.private_id.as_str().into()),
        digested: Some(vec![1; 32]),
        ..Default::default()
    };
    batch((0..items).map(|_| sign().into()))
}

impl Script for Kmip {
    async fn step(&mut self) -> Result<u64, String> {
        while self.waiting < self.ahead {
            let request = &self.requests[self.next % self.requests.len()];
            self.connection.send(request).await?;
            self.next += 1;
            self.waiting += 1;
        }
        self.waiting -= 1;
        let answer = self.connection.receive().await?;
        kmip_ok(answer.body, self.items)?;
        Ok(self.items as u64)
    }
}

/// Whether the answer has `items` batch items, and each is a success.
fn kmip_ok(frame: &[u8], items: usize) -> Result<(), String> {
    let done = || -> ttlv::Result<usize> {
        let message = ttlv::parse(frame, &ttlv::Limits::default())?;
        let mut done = 0;
        for item in message.children()?.filter(|item| item.tag() == Tag::BatchItem) {
            let status = item.required(Tag::ResultStatus)?.enumeration()?;
            done += usize::from(status == ResultStatus::Success.number());
        }
        Ok(done)
    };
    if done() == Ok(items) { Ok(()) } else { Err(refusal(frame)) }
}

/// What the server says of the first item it refused.
fn refusal(frame: &[u8]) -> String {
    use kmip::{ResponseMessage, message::Outcome};
    let message = match ResponseMessage::decode(frame) {
        Ok(message) => message,
        Err(error) => return format!("an answer that cannot be read: {error}"),
    };
    let told = message.items.len();
    let failure = message.items.into_iter().find_map(|item| match item.outcome {
        Outcome::Failed(failure) => Some(failure),
        _ => None,
    });
    match failure {
        Some(failure) => {
            let text = failure.message.unwrap_or_default();
            format!("the server refused, {:?}: {text}", failure.reason)
        }
        None => format!("an answer of {told} items only"),
    }
}

/// Bytes of fixed sizes, for the echo.
pub struct Echo {
    connection: Connection,
    request: Vec<u8>,
}

impl Echo {
    pub fn new(connection: Connection, bytes: usize) -> Self {
        Self { connection, request: vec![b'x'; bytes] }
    }
}

impl Script for Echo {
    async fn step(&mut self) -> Result<u64, String> {
        self.connection.ask(&self.request).await.map(|_| 1)
    }
}

#[cfg(test)]
mod tests {
    use kmip::{
        DateTime, ResponseWriter,
        enums::ResultReason,
        message::{ResponseHeader, ResponseItem, error_response},
    };

    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_server() {
        let version = Version::V1_4;
        let mut answer = ResponseWriter::new(version, ResponseHeader::new(version, DateTime(0)));
        let sign = op::sign::Response { id: "1".into(), ..Default::default() };
        answer.item(&ResponseItem::success(None, sign.into()));
        let mut short = answer.finish().to_vec();
        assert_eq!(kmip_ok(&short, 1), Ok(()));
        assert_eq!(kmip_ok(&short, 2).unwrap_err(), "an answer of 1 items only");
        let reason = ResultReason::GeneralFailure;
        let refused = error_response(version, DateTime(0), reason, "the HSM is busy");
        let told = kmip_ok(&refused, 1).unwrap_err();
        assert_eq!(told, "the server refused, GeneralFailure: the HSM is busy");
        short.truncate(20);
        assert!(kmip_ok(&short, 1).unwrap_err().starts_with("an answer that cannot be read"));
    }
}
