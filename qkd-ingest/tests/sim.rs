//! The simulated link as a key manager meets it: ETSI GS QKD 014 over mutual TLS.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use etsi014::{
    ErrorBody, KeyContainer, KeyIds, KeyName, KeyRequest, Status,
    path::{self, Method},
    text,
};
use qkd_ingest::sim::{
    End, Fault, LinkState, LinkStatus, Sim, SimConfig, SimError, SimHandle, run,
};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use transport::{
    Profile, Shutdown, ShutdownHandle, TlsFiles, client_config,
    http::{ClientError, ClientLimits, HttpClient},
    pki::{DemoCa, San, Validity},
};
use wiped::Wiped;

const PATIENCE: Duration = Duration::from_secs(10);

/// A running link and one client per end, as `km-a` and `km-b`.
struct Lab {
    _dir: TempDir,
    ca: DemoCa,
    addresses: [String; 2],
    a: HttpClient,
    b: HttpClient,
    handle: SimHandle,
    stop: ShutdownHandle,
    ended: JoinHandle<()>,
}

fn toml_files(files: &TlsFiles) -> String {
    let TlsFiles { certificate, key, ca } = files;
    format!("{{ certificate = {certificate:?}, key = {key:?}, ca = {ca:?} }}")
}

fn config(ca: &DemoCa, extra: &str) -> SimConfig {
    let module = |end: &str| {
        let files =
            ca.issue(&format!("module-{end}"), &San::loopback(), Validity::days(1)).unwrap();
        format!(
            "[{end}]\nkme_id = \"MOD-{end}\"\nlisten = \"127.0.0.1:0\"\nsae_id = \"km {end}\"\n\
             clients = [\"cn:km-{end}\"]\ntls = {}\n",
            toml_files(&files)
        )
    };
    let text = format!("admins = [\"cn:admin\"]\n{extra}\n{}{}", module("a"), module("b"));
    toml::from_str(&text).unwrap()
}

fn client(files: &TlsFiles, address: &str) -> HttpClient {
    let limits = ClientLimits { response_bytes: 64 << 20, ..ClientLimits::default() };
    let tls = client_config(files, Profile::Front).unwrap();
    HttpClient::new(address, None, tls, limits).unwrap()
}

impl Lab {
    async fn start(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = DemoCa::create(dir.path()).unwrap();
        let sim = Sim::start(config(&ca, extra)).await.unwrap();
        let addresses = [End::A, End::B].map(|end| sim.address(end).to_string());
        let issue = |name: &str| ca.issue(name, &[], Validity::days(1)).unwrap();
        let a = client(&issue("km-a"), &addresses[0]);
        let b = client(&issue("km-b"), &addresses[1]);
        let (handle, (stop, shutdown)) = (sim.handle(), Shutdown::pair());
        let ended = tokio::spawn(sim.run(shutdown));
        Self { _dir: dir, ca, addresses, a, b, handle, stop, ended }
    }

    async fn max() -> Self {
        Self::start("rate_override = \"max\"").await
    }

    fn as_name(&self, name: &str, end: End) -> HttpClient {
        let files = self.ca.issue(name, &[], Validity::days(1)).unwrap();
        client(&files, &self.addresses[end as usize])
    }

    async fn enc(&self, number: u64, size: u64) -> KeyContainer {
        let request = KeyRequest { number: Some(number), size: Some(size), ..Default::default() };
        let json = Wiped::new(request.to_json());
        let (status, body) = self.a.post(&enc_path("km b"), json).await.unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        KeyContainer::parse(&body).unwrap()
    }

    async fn dec(&self, keys: &KeyContainer) -> (u16, Wiped) {
        let names = keys.iter().map(|(name, _)| name.clone()).collect();
        let json = Wiped::new(KeyIds { names, ..KeyIds::default() }.to_json());
        self.b.post(&path::build("km a", Method::DecKeys), json).await.unwrap()
    }
}

fn enc_path(sae: &str) -> String {
    path::build(sae, Method::EncKeys)
}

fn bytes(container: &KeyContainer) -> Vec<(KeyName, Vec<u8>)> {
    container.iter().map(|(name, key)| (name.clone(), key.to_vec())).collect()
}

async fn link_status(client: &HttpClient) -> LinkStatus {
    let (status, body) = client.get("/api/v1/link").await.unwrap();
    assert_eq!(status, 200);
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn etsi014_keys_of_one_module_are_collected_once_at_the_other() {
    let lab = Lab::max().await;
    let made = lab.enc(4096, 256).await;
    assert_eq!(made.len(), 4096);
    let (status, body) = lab.dec(&made).await;
    assert_eq!(status, 200);
    assert_eq!(bytes(&KeyContainer::parse(&body).unwrap()), bytes(&made));
    let (status, body) = lab.dec(&made).await;
    assert_eq!(status, 400);
    assert_eq!(ErrorBody::parse(&body).unwrap().message, text::KEYS_NOT_FOUND);
}

#[tokio::test]
async fn etsi014_get_and_large_keys() {
    let lab = Lab::max().await;
    let (_, body) = lab.a.get(&format!("{}?number=2", enc_path("km b"))).await.unwrap();
    let made = KeyContainer::parse(&body).unwrap();
    assert_eq!(made.iter().map(|(_, key)| key.len()).collect::<Vec<_>>(), [32, 32]);
    for (name, key) in made.iter() {
        let path = format!("{}?key_ID={name}", path::build("km a", Method::DecKeys));
        let (status, body) = lab.b.get(&path).await.unwrap();
        assert_eq!(status, 200);
        assert_eq!(KeyContainer::parse(&body).unwrap().iter().next().unwrap(), (name, key));
    }
    let large = lab.enc(8, 524_288).await;
    let (_, body) = lab.dec(&large).await;
    assert_eq!(bytes(&KeyContainer::parse(&body).unwrap()), bytes(&large));
}

#[tokio::test]
async fn etsi014_status_names_both_ends_and_the_limits() {
    let lab = Lab::max().await;
    let (_, body) = lab.a.get(&path::build("km b", Method::Status)).await.unwrap();
    let status = Status::parse(&body).unwrap();
    assert_eq!((status.source_kme_id.as_str(), status.target_kme_id.as_str()), ("MOD-a", "MOD-b"));
    assert_eq!((status.master_sae_id.as_str(), status.slave_sae_id.as_str()), ("km a", "km b"));
    assert_eq!((status.key_size, status.max_key_per_request), (256, 4096));
    assert_eq!(status.stored_key_count, status.max_key_count);
}

#[tokio::test]
async fn etsi014_wrong_requests_get_their_error() {
    let lab = Lab::max().await;
    for (json, expected) in [
        (r#"{"size":255}"#, text::SIZE_MULTIPLE_OF_8),
        (r#"{"extension_mandatory":[{"x":1}]}"#, text::MANDATORY_NOT_SUPPORTED),
        (r#"{"size":32}"#, "size must be"),
        (r#"{"size":524296}"#, "size must be"),
        (r#"{"number":0}"#, "number must be"),
        (r#"{"number":4097}"#, "number must be"),
        (r#"{"number":4096,"size":524288}"#, "a request may ask for"),
        (r#"{"additional_slave_SAE_IDs":["c"]}"#, "additional_slave"),
        ("{", "key request"),
    ] {
        let body = Wiped::copy_of(json.as_bytes());
        let (status, body) = lab.a.post(&enc_path("km b"), body).await.unwrap();
        assert_eq!(status, 400, "{json}");
        let message = ErrorBody::parse(&body).unwrap().message;
        assert!(message.starts_with(expected), "{json}: {message}");
    }
    let huge = Wiped::new(vec![b' '; 100_000]);
    assert_eq!(lab.a.post(&enc_path("km b"), huge).await.unwrap().0, 413);
    assert_eq!(lab.a.get("/api/v1/keys").await.unwrap().0, 404);
    let post = lab.a.post(&path::build("km b", Method::Status), Wiped::default()).await;
    assert_eq!(post.unwrap().0, 405);
}

#[tokio::test]
async fn only_the_configured_key_manager_is_let_in() {
    let lab = Lab::max().await;
    assert_eq!(lab.a.get(&enc_path("km c")).await.unwrap().0, 401);
    let stranger = lab.as_name("stranger", End::A);
    for path in [&enc_path("km b"), "/api/v1/link", "/nowhere"] {
        let (status, body) = stranger.get(path).await.unwrap();
        assert_eq!((status, body.len()), (401, 0), "{path}");
    }
    let wrong_end = lab.as_name("km-b-again", End::A);
    assert_eq!(wrong_end.get(&enc_path("km b")).await.unwrap().0, 401);
    let fault = Wiped::copy_of(br#"{"fault":"cut"}"#);
    assert_eq!(lab.a.post("/api/v1/sim/fault", fault).await.unwrap().0, 401);
    assert_eq!(link_status(&lab.a).await.state, LinkState::Up);
}

#[tokio::test]
async fn the_rate_follows_from_the_physics() {
    let lab = Lab::start("[link.fibre]\nlength_km = 50.0").await;
    let status = link_status(&lab.a).await;
    assert_eq!(status.state, LinkState::Up);
    assert!((1e6..4e6).contains(&status.key_rate_bps.unwrap()), "{status:?}");
    assert!((status.loss_db - 10.0).abs() < 1e-9 && status.qber.unwrap() < 0.02);
    let far = Lab::start("[link.fibre]\nlength_km = 300.0").await;
    assert_eq!(link_status(&far.b).await.state, LinkState::Aborted);
    assert_eq!(far.a.get(&enc_path("km b")).await.unwrap().0, 503);
}

#[tokio::test]
async fn faults_switch_over_http_and_come_back() {
    let lab = Lab::max().await;
    let admin = lab.as_name("admin", End::B);
    let switch = async |json: &str| {
        let body = Wiped::copy_of(json.as_bytes());
        let (status, body) = admin.post("/api/v1/sim/fault", body).await.unwrap();
        (status, serde_json::from_slice::<LinkStatus>(&body).ok().map(|link| link.state))
    };
    for (fault, state) in [("cut", LinkState::Down), ("eavesdrop", LinkState::Aborted)] {
        let on = switch(&format!(r#"{{"fault":"{fault}","on":true}}"#)).await;
        assert_eq!(on, (200, Some(state)));
        let off = switch(&format!(r#"{{"fault":"{fault}","on":false}}"#)).await;
        assert_eq!(off, (200, Some(LinkState::Up)));
    }
    for bad in [
        r#"{"fault":"flood"}"#,
        r#"{"fault":"late","on":true}"#,
        r#"{"fault":"wrong_bits","module":"a","percent":101}"#,
        r#"{"fault":"cut","extra":1}"#,
    ] {
        assert_eq!(switch(bad).await.0, 400, "{bad}");
    }
    assert_eq!(switch(r#"{"fault":"wrong_bits","module":"b"}"#).await.0, 200);
    let made = lab.enc(8, 256).await;
    let got = KeyContainer::parse(&lab.dec(&made).await.1).unwrap();
    assert!(made.iter().zip(got.iter()).all(|(made, got)| made.0 == got.0 && made.1 != got.1));
}

#[tokio::test]
async fn a_cut_link_drains_to_503() {
    let keys = "rate_override = 1e9\n[keys]\nbuffer_bits = 524288\nmax_request_bits = 524288";
    let lab = Lab::start(keys).await;
    while link_status(&lab.a).await.buffered_bits < 524_288 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lab.handle.switch(Fault::Cut { on: true });
    assert_eq!(lab.enc(2048, 256).await.len(), 2048);
    assert_eq!(lab.a.get(&enc_path("km b")).await.unwrap().0, 503);
    lab.handle.switch(Fault::Cut { on: false });
    let again = async {
        while lab.a.get(&enc_path("km b")).await.unwrap().0 != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("keys come again");
}

#[tokio::test]
async fn a_late_end_and_a_repeated_identifier() {
    let lab = Lab::max().await;
    lab.handle.switch(Fault::Late { end: End::B, delay: Duration::from_secs(3600) });
    let made = lab.enc(2, 256).await;
    assert_eq!(lab.dec(&made).await.0, 400);
    lab.handle.switch(Fault::Late { end: End::B, delay: Duration::ZERO });
    assert_eq!(lab.dec(&made).await.0, 200);

    lab.handle.switch(Fault::DuplicateId { end: End::A, on: true });
    let repeated = lab.enc(2, 256).await;
    let last = |keys: &KeyContainer| bytes(keys).pop().unwrap();
    assert_eq!(last(&repeated).0, last(&made).0);
    assert_ne!(last(&repeated).1, last(&made).1);
}

#[tokio::test]
async fn a_restart_drops_connections_and_forgets() {
    let lab = Lab::max().await;
    let made = lab.enc(2, 256).await;
    link_status(&lab.b).await;
    lab.handle.switch(Fault::Restart { end: End::B });
    let names = made.iter().map(|(name, _)| name.clone()).collect();
    let json = || Wiped::new(KeyIds { names: Vec::clone(&names), ..KeyIds::default() }.to_json());
    let dec = path::build("km a", Method::DecKeys);
    let status = match lab.b.post(&dec, json()).await {
        Ok((status, _)) => status,
        // The cut may be seen only when the request is under way.
        Err(ClientError::Broken { .. }) => lab.b.post(&dec, json()).await.unwrap().0,
        Err(other) => panic!("{other}"),
    };
    assert_eq!(status, 400);
    assert_eq!(lab.enc(1, 256).await.len(), 1);
}

#[tokio::test]
async fn shutdown_ends_both_modules() {
    let lab = Lab::max().await;
    lab.enc(1, 256).await;
    lab.stop.start();
    timeout(PATIENCE, lab.ended).await.expect("in time").unwrap();
    assert!(matches!(lab.b.get("/api/v1/link").await, Err(ClientError::Connect(_))));
}

#[tokio::test]
async fn a_wrong_configuration_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DemoCa::create(dir.path()).unwrap();
    let right = config(&ca, "");
    let refusal = async |config: SimConfig| {
        run(config, Shutdown::pair().1).await.expect_err("refused").to_string()
    };
    let mut same = right.clone();
    same.b.sae_id = same.a.sae_id.clone();
    assert!(refusal(same).await.contains("sae_id must differ"));
    let mut odd = right.clone();
    odd.keys.size = 257;
    assert!(refusal(odd).await.contains("multiples of 8"));
    let mut lossy = right.clone();
    lossy.link.decoy = 5.0;
    assert!(refusal(lossy).await.contains("decoy"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut busy = right.clone();
    busy.b.listen = taken.local_addr().unwrap();
    let error = Sim::start(busy).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, SimError::Listen { end: End::B, .. }), "{error}");
    assert!(toml::from_str::<SimConfig>("colour = 1").is_err());
}
