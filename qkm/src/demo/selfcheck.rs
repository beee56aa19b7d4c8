//! One key at both ends, through each front. Enter through [`all`].

use std::{net::SocketAddr, time::Duration};

use etsi014::{
    ErrorBody, KeyContainer, KeyIds, KeyRequest,
    path::{self, Method},
};
use km_core::material::ClearBytes;
use kmip::{
    Answer, Operation, Version,
    attribute::Attribute,
    client::{self, Client},
    enums::CryptographicAlgorithm,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::{
    Profile, TlsClient, TlsFiles, client_config,
    http::{ClientLimits, HttpClient},
};
use wiped::Wiped;

use super::layout::{Layout, Site};
use crate::fault::{Code, Failure};

/// While the pools fill for the first time.
const RETRY: Duration = Duration::from_millis(250);
/// Encrypt and decrypt.
const USAGE: i32 = 0x0C;
const LARGEST_ANSWER: usize = 1 << 20;

/// Identifiers of keys that came out equal at both ends, by front.
pub(super) struct Checked {
    pub(super) etsi014: String,
    pub(super) kmip: String,
}

/// Waits for the first keys and compares one through each front.
pub(super) async fn all(layout: &Layout) -> Result<Checked, Failure> {
    let etsi014 = loop {
        match etsi014_pair(layout).await? {
            Some(id) => break id,
            None => tokio::time::sleep(RETRY).await,
        }
    };
    Ok(Checked { etsi014, kmip: kmip_pair(layout).await? })
}

pub(super) fn failed(what: impl std::fmt::Display) -> Failure {
    Failure::new(Code::D003, what)
}

/// An application at one cluster.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) cluster: &'a str,
    pub(super) sae: &'a str,
    pub(super) files: &'a TlsFiles,
    pub(super) etsi014: SocketAddr,
    pub(super) kmip: SocketAddr,
}

impl<'a> End<'a> {
    pub(super) fn new(site: &'a Site, sae: &'a str, files: &'a TlsFiles) -> Self {
        Self { cluster: site.cluster, sae, files, etsi014: site.etsi014, kmip: site.kmip }
    }
}

fn ends(layout: &Layout) -> [End<'_>; 2] {
    [(&layout.north, "sae-n1"), (&layout.south, "sae-s1")]
        .map(|(site, sae)| End::new(site, sae, layout.application(sae)))
}

/// ETSI 014: `sae-n1` gets a key at north, `sae-s1` collects it at south. `None`: no keys yet.
pub async fn etsi014_pair(layout: &Layout) -> Result<Option<String>, Failure> {
    let [north, south] = ends(layout);
    etsi014_between(north, south, 1, 256).await
}

/// ETSI 014: the master gets `number` keys of `size` bits, the slave collects them. The identifier
/// of the first; `None`: one of the ends has them not ready now.
pub(super) async fn etsi014_between(
    master: End<'_>,
    slave: End<'_>,
    number: u64,
    size: u64,
) -> Result<Option<String>, Failure> {
    let Some(issued) = etsi014_issue(master, slave, number, size).await? else { return Ok(None) };
    let collected = etsi014_collect(master, slave, &issued).await?;
    Ok(collected.then(|| names(&issued).swap_remove(0)))
}

/// ETSI 014 `enc_keys`: `number` keys of `size` bits, at least one. `None`: not ready now.
pub(super) async fn etsi014_issue(
    master: End<'_>,
    slave: End<'_>,
    number: u64,
    size: u64,
) -> Result<Option<KeyContainer>, Failure> {
    let client = http(master.files, &master.etsi014.to_string())?;
    let wanted = KeyRequest { number: Some(number), size: Some(size), ..Default::default() };
    let path = path::build(slave.sae, Method::EncKeys);
    let (status, body) = client.post(&path, Wiped::new(wanted.to_json())).await.map_err(failed)?;
    if status == 503 {
        return Ok(None);
    }
    let issued = container(master.cluster, status, &body)?;
    match issued.len() as u64 {
        got if got == number => Ok(Some(issued)),
        got => Err(failed(format!("{} gave {got} of {number} keys", master.cluster))),
    }
}

/// ETSI 014 `dec_keys`: the slave collects what was issued to the master, byte for byte the same.
/// `false`: not ready now.
pub(super) async fn etsi014_collect(
    master: End<'_>,
    slave: End<'_>,
    issued: &KeyContainer,
) -> Result<bool, Failure> {
    let client = http(slave.files, &slave.etsi014.to_string())?;
    let path = path::build(master.sae, Method::DecKeys);
    let names: Vec<_> = issued.iter().map(|(name, _)| name.clone()).collect();
    let (status, body) = client
        .post(&path, Wiped::new(KeyIds { names, ..KeyIds::default() }.to_json()))
        .await
        .map_err(failed)?;
    if status == 503 {
        return Ok(false);
    }
    let collected = container(slave.cluster, status, &body)?;
    let bytes = |keys: &KeyContainer| {
        keys.iter().map(|(_, key)| ClearBytes::copy_from(key)).collect::<Vec<_>>()
    };
    if bytes(issued) != bytes(&collected) {
        let (one, other) = (master.cluster, slave.cluster);
        return Err(failed(format!("ETSI 014: keys differ between {one} and {other}")));
    }
    Ok(true)
}

/// The identifiers of `keys`.
pub(super) fn names(keys: &KeyContainer) -> Vec<String> {
    keys.iter().map(|(name, _)| name.with_str(str::to_owned)).collect()
}

fn container(end: &str, status: u16, body: &[u8]) -> Result<KeyContainer, Failure> {
    if status != 200 {
        let said = ErrorBody::parse(body).map(|error| error.message).unwrap_or_default();
        return Err(failed(format!("ETSI 014 at {end} answered {status} {said}")));
    }
    KeyContainer::parse(body).map_err(|e| failed(format!("ETSI 014 at {end}: {e}")))
}

pub(super) fn http(files: &TlsFiles, address: &str) -> Result<HttpClient, Failure> {
    let tls = client_config(files, Profile::Front).map_err(failed)?;
    HttpClient::new(address, None, tls, ClientLimits::default()).map_err(failed)
}

/// KMIP: `sae-n1` creates a key of the pool with south, `sae-s1` gets it at south.
pub async fn kmip_pair(layout: &Layout) -> Result<String, Failure> {
    let [north, south] = ends(layout);
    kmip_between(north, south).await
}

/// KMIP: one creates a key of the pool with the other's cluster, the other gets it there.
pub(super) async fn kmip_between(one: End<'_>, other: End<'_>) -> Result<String, Failure> {
    let group = Attribute::ObjectGroup(format!("qkd/{}", other.cluster));
    let create = client::create(CryptographicAlgorithm::Aes, 256, USAGE, [group]);
    let (here, there) = (one.kmip.to_string(), other.kmip.to_string());
    let created = kmip(one.files, &here, create.into()).await?;
    let Answer::Create(created) = created else {
        return Err(failed(format!("KMIP at {} answered no Create", one.cluster)));
    };
    let id = created.id.to_string();
    let ours = kmip(one.files, &here, client::get(&id).into()).await?;
    let theirs = kmip(other.files, &there, client::get(&id).into()).await?;
    match (material(ours), material(theirs)) {
        (Some(ours), Some(theirs)) if ours == theirs => Ok(id),
        _ => {
            let (one, other) = (one.cluster, other.cluster);
            Err(failed(format!("KMIP: key {id} differs between {one} and {other}")))
        }
    }
}

fn material(answer: Answer) -> Option<ClearBytes> {
    let Answer::Get(got) = answer else { return None };
    got.object.key_block()?.plain_bytes().map(|secret| secret.expose(ClearBytes::copy_from))
}

async fn kmip(files: &TlsFiles, address: &str, operation: Operation) -> Result<Answer, Failure> {
    let tls = client_config(files, Profile::Front).map_err(failed)?;
    let server = TlsClient::new(address, None, tls).map_err(failed)?;
    let (mut stream, _) = server.connect(Duration::from_secs(5)).await.map_err(failed)?;
    let broken = |e: std::io::Error| failed(format!("KMIP at {address}: {e}"));
    let client = Client::new(Version::V1_4);
    let request = client.request(operation).map_err(|e| failed(e.to_string()))?;
    stream.write_all(&request).await.map_err(broken)?;
    let mut head = [0; 8];
    stream.read_exact(&mut head).await.map_err(broken)?;
    let length = kmip::ttlv::frame_len(&head, LARGEST_ANSWER).map_err(|e| failed(e.to_string()))?;
    let mut frame = Wiped::zeros(length.unwrap_or(head.len()));
    frame[..head.len()].copy_from_slice(&head);
    stream.read_exact(&mut frame[head.len()..]).await.map_err(broken)?;
    client.answer(&frame).map_err(|e| failed(format!("KMIP at {address}: {e}")))
}
