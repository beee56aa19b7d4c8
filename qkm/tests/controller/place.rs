//! Controllers of this test, and the KMs and operators that are their clients.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use control::{
    Directions,
    report::{Light, LinkReport, QkdReport, Report},
};
use km_core::ids::{ClusterId, LinkId};
use qkm::controller::{self, config::ControllerConfig};
use serde_json::Value;
use tempfile::TempDir;
use transport::{
    Profile, Shutdown, ShutdownHandle, TlsFiles, client_config,
    http::{ClientLimits, HttpClient},
    pki::{DemoCa, San, Validity},
};

pub(crate) const SQUARE: [(&str, &str); 4] = [("a", "b"), ("b", "d"), ("a", "c"), ("c", "d")];

pub(crate) fn name(text: &str) -> ClusterId {
    ClusterId::parse(text).unwrap()
}

pub(crate) struct Place {
    pub(crate) dir: Arc<TempDir>,
    pub(crate) ca: Arc<DemoCa>,
    pub(crate) files: TlsFiles,
    pub(crate) address: String,
    pub(crate) orders: &'static str,
    /// More of the configuration.
    pub(crate) more: String,
}

pub(crate) struct Running {
    pub(crate) stop: ShutdownHandle,
    pub(crate) task: tokio::task::JoinHandle<()>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = DemoCa::create(&dir.path().join("pki")).unwrap();
        let mut names = San::loopback();
        names.push(San::Uri("urn:qkm:controller".to_owned()));
        let files = ca.issue("controller", &names, Validity::days(2)).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (dir, ca, address) = (Arc::new(dir), Arc::new(ca), free.to_string());
        Self { dir, ca, files, address, orders: "orders.json", more: String::new() }
    }

    /// Two that stand by for each other.
    pub(crate) fn pair() -> [Self; 2] {
        let mut one = Self::new();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let other = |place: &Self| {
            let identity = "uri:urn:qkm:controller";
            format!("[[other]]\naddress = \"{}\"\nidentity = \"{identity}\"\n", place.address)
        };
        let two = Self {
            dir: one.dir.clone(),
            ca: one.ca.clone(),
            files: one.files.clone(),
            address: free.to_string(),
            orders: "orders-2.json",
            more: other(&one),
        };
        one.more = other(&two);
        [one, two]
    }

    pub(crate) fn client(&self, who: &str) -> HttpClient {
        let uri = San::Uri(format!("urn:qkm:km:{who}"));
        let pki = self.dir.path().join("pki");
        let [certificate, key] = ["crt", "key"].map(|end| pki.join(format!("{who}.{end}")));
        if !certificate.exists() {
            self.ca.issue(who, &[uri], Validity::days(2)).unwrap();
        }
        let files = TlsFiles { certificate, key, ca: self.ca.ca() };
        let tls = client_config(&files, Profile::Front).unwrap();
        HttpClient::new(&self.address, None, tls, ClientLimits::default()).unwrap()
    }

    pub(crate) fn config(&self) -> ControllerConfig {
        ControllerConfig::parse(&self.text(), &"test").unwrap()
    }

    pub(crate) fn text(&self) -> String {
        let path = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
        let TlsFiles { certificate, key, ca } = &self.files;
        let mut text = format!(
            "[controller]\nlisten = \"{}\"\ncertificate = {}\nkey = {}\nca = {}\norders = {}\n\
             operators = [\"cn:operator\"]\n[thresholds]\nsilence_ms = 60000\n",
            self.address,
            path(certificate),
            path(key),
            path(ca),
            path(&self.dir.path().join(self.orders)),
        );
        for km in ["a", "b", "c", "d"] {
            text += &format!("[[km]]\ncluster = \"{km}\"\nidentity = \"uri:urn:qkm:km:{km}\"\n");
        }
        text + &self.more
    }

    /// The file of the controller with an operator's certificate, for the command line.
    pub(crate) fn file(&self) -> PathBuf {
        let pki = self.dir.path().join("pki");
        let path = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
        let text = self.text()
            + &format!(
                "[operator]\ncertificate = {}\nkey = {}\nca = {}\n",
                path(&pki.join("operator.crt")),
                path(&pki.join("operator.key")),
                path(&self.ca.ca()),
            );
        let file = self.dir.path().join("controller.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    pub(crate) async fn start(&self) -> Running {
        let (stop, shutdown) = Shutdown::pair();
        let config = self.config();
        let task = tokio::spawn(async move { controller::run(config, shutdown).await.unwrap() });
        while tokio::net::TcpStream::connect(&self.address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Running { stop, task }
    }
}

impl Running {
    pub(crate) async fn end(self) {
        self.stop.start();
        self.task.await.unwrap();
    }
}

pub(crate) fn report(here: &str) -> Report {
    let neighbours = SQUARE.iter().filter_map(|(a, b)| match here {
        here if here == *a => Some((*a, *b, *b)),
        here if here == *b => Some((*a, *b, *a)),
        _ => None,
    });
    let link = |(a, b, peer): (&str, &str, &str)| LinkReport {
        peer: name(peer),
        up: true,
        channels: Vec::new(),
        stock_bits: 64 << 20,
        taken_bits: 64 << 20,
        spent_bits: 0,
        book: None,
        without_qkd: false,
        qkd: vec![QkdReport {
            link: LinkId::parse(&format!("{a}-{b}")).unwrap(),
            module_well: true,
            light: Some(Light::Up),
            rate_bps: Some(1e5),
            qber: Some(0.02),
        }],
    };
    let links = neighbours.map(link).collect();
    let wants = ["a", "d"].into_iter().filter(|other| *other != here).map(name).collect();
    Report { cluster: name(here), trouble: None, table: 0, wants, links }
}

pub(crate) async fn post(client: &HttpClient, path: &str, body: &Value) -> (u16, Value) {
    let (status, body) = client.post(path, body.to_string().into_bytes().into()).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

pub(crate) async fn tell(client: &HttpClient, report: &Report) {
    let (status, answer) = post(client, "/v1/report", &serde_json::to_value(report).unwrap()).await;
    assert_eq!(status, 200, "{answer}");
}

pub(crate) async fn get<T: serde::de::DeserializeOwned>(client: &HttpClient, path: &str) -> T {
    let (status, body) = client.get(path).await.unwrap();
    assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

pub(crate) fn best(directions: &Directions) -> String {
    let routes = directions.table.routes(&name("d"));
    let hops = routes.first().map(|route| route.hops().to_vec()).unwrap_or_default();
    hops.iter().map(ClusterId::as_str).collect::<Vec<_>>().join(" ")
}

pub(crate) fn to_d(report: &mut Report) -> &mut LinkReport {
    report.links.iter_mut().find(|link| link.peer.as_str() == "d").unwrap()
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Plain HTTP: status and body.
pub(crate) async fn watch(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
