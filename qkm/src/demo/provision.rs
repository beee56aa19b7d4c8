//! Makes a demonstration network on disk. Enter through [`provision`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use cluster::EtcdConfig;
use hsm_profiles::soft::{self, SoftToken};
use transport::{
    TlsFiles,
    pki::{DemoCa, San, Validity},
};

use super::{
    files,
    layout::{Layout, Site},
};
use crate::fault::{Code, Failure};

/// How to make it.
#[derive(Debug)]
pub struct Options {
    /// First of the ports on 127.0.0.1; busy ones are skipped. Tests that run side by side choose
    /// ranges of their own, 32 apart.
    pub base_port: u16,
    /// The `qkm` program; default: the one that runs now.
    pub program: Option<PathBuf>,
    /// The key rate of the simulated link in place of the physical one: bits per second, or
    /// `"max"` in quotes, as `rate_override` in its configuration.
    pub rate: Option<String>,
    /// Most MiB a pool holds.
    pub max_stored_mib: u64,
    /// Lets debuggers of the same user read the key managers; for tests that take core dumps.
    pub dumpable: bool,
    /// The etcd that three key managers at north share; `None`: one with a store of its own.
    pub shared: Option<EtcdConfig>,
}

/// Key managers of north, where they share a store.
const SHARING: usize = 3;

impl Default for Options {
    fn default() -> Self {
        Self {
            base_port: super::BASE_PORT,
            program: None,
            rate: None,
            max_stored_mib: 64,
            dumpable: false,
            shared: None,
        }
    }
}

/// Certificates are valid this long, in days.
const DAYS: u32 = 30;

/// Makes tokens, certificates and configuration files under `dir`, which must be new or empty.
pub fn provision(dir: &Path, options: &Options) -> Result<Layout, Failure> {
    let dir = private_dir(dir).map_err(|e| failed("making the directory", &e))?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|e| failed("finding the qkm program", &e))?,
    };
    let mut ports = Ports::after(options.base_port);
    let pki = Pki(DemoCa::create(&dir.join("pki")).map_err(|e| failed("the demo CA", &e))?);
    let mut north = site(&dir, "north", &program, &pki, &mut ports)?;
    let south = site(&dir, "south", &program, &pki, &mut ports)?;
    let modules = [ports.take()?, ports.take()?];
    let module_files = [
        pki.server("module-north", "urn:qkm:module:north")?,
        pki.server("module-south", "urn:qkm:module:south")?,
    ];
    let applications = ["sae-n1", "sae-s1", "sae-s2", "sae-x"]
        .into_iter()
        .map(|name| Ok((name, pki.client(name)?)))
        .collect::<Result<BTreeMap<_, _>, Failure>>()?;
    let more = match &options.shared {
        Some(_) => share(&dir, &mut north, &mut ports)?,
        None => Vec::new(),
    };
    let layout = Layout {
        more,
        sim: dir.join("sim.toml"),
        kmip_script: dir.join("kmip-demo.py"),
        ca: pki.0.ca(),
        sim_admin: pki.client("sim-admin")?,
        operator: pki.client("operator")?,
        custodians: [pki.client("custodian-1")?, pki.client("custodian-2")?],
        dir,
        program,
        modules,
        north,
        south,
        applications,
    };
    let sim = files::sim(&layout, &module_files, options);
    write(&layout.sim, &sim)?;
    let [north, south] = layout.sites();
    for north in std::iter::once(north).chain(&layout.more) {
        write(&north.config, &files::site(&layout, north, south, modules[0], options))?;
    }
    write(&south.config, &files::site(&layout, south, north, modules[1], options))?;
    write(&layout.kmip_script, &files::kmip_script(&layout))?;
    Ok(layout)
}

pub(super) fn site(
    dir: &Path,
    cluster: &'static str,
    program: &Path,
    pki: &Pki,
    ports: &mut Ports,
) -> Result<Site, Failure> {
    let home = private_dir(&dir.join(cluster)).map_err(|e| failed(cluster, &e))?;
    let mut child = Command::new(program);
    child.arg("demo-token");
    let token = soft::provision(SoftToken::SoftHsm, &home, cluster, child).map_err(|e| {
        failed("a SoftHSM token", &e).help("install the package softhsm2 (make demo does)")
    })?;
    Ok(Site {
        cluster,
        name: cluster.to_owned(),
        desk: None,
        config: dir.join(format!("{cluster}.toml")),
        softhsm_conf: token.conf,
        token: token.label,
        pin_file: token.pin_file,
        store: home.join("store"),
        tls: pki.server(&format!("km-{cluster}"), &format!("urn:qkm:km:{cluster}"))?,
        etsi014: ports.take()?,
        kmip: ports.take()?,
        km_link: ports.take()?,
        monitor: ports.take()?,
        admin: ports.take()?,
        kmip_https: ports.take()?,
    })
}

/// Makes `first` one of several that share its token and its certificate; gives the others.
fn share(dir: &Path, first: &mut Site, ports: &mut Ports) -> Result<Vec<Site>, Failure> {
    let mut more = Vec::new();
    for number in 2..=SHARING {
        let name = format!("{}-{number}", first.cluster);
        more.push(Site {
            config: dir.join(format!("{name}.toml")),
            name,
            cluster: first.cluster,
            softhsm_conf: first.softhsm_conf.clone(),
            token: first.token.clone(),
            pin_file: first.pin_file.clone(),
            store: first.store.clone(),
            tls: first.tls.clone(),
            etsi014: ports.take()?,
            kmip: ports.take()?,
            km_link: ports.take()?,
            monitor: ports.take()?,
            admin: ports.take()?,
            kmip_https: ports.take()?,
            desk: Some(ports.take()?),
        });
    }
    first.name = format!("{}-1", first.cluster);
    first.desk = Some(ports.take()?);
    Ok(more)
}

pub(super) struct Pki(pub(super) DemoCa);

impl Pki {
    pub(super) fn server(&self, name: &str, uri: &str) -> Result<TlsFiles, Failure> {
        let mut names = San::loopback();
        names.push(San::Uri(uri.to_owned()));
        self.0.issue(name, &names, Validity::days(DAYS)).map_err(|e| failed("a certificate", &e))
    }

    pub(super) fn client(&self, name: &str) -> Result<TlsFiles, Failure> {
        let uri = San::Uri(format!("urn:qkm:sae:{name}"));
        self.0.issue(name, &[uri], Validity::days(DAYS)).map_err(|e| failed("a certificate", &e))
    }
}

/// Free ports of loopback in rising order, none twice.
pub(super) struct Ports {
    next: u16,
    given: BTreeSet<u16>,
}

impl Ports {
    pub(super) fn after(base: u16) -> Self {
        Self { next: base, given: BTreeSet::new() }
    }

    pub(super) fn take(&mut self) -> Result<SocketAddr, Failure> {
        loop {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.next));
            self.next = self.next.checked_add(1).ok_or_else(|| {
                failed("choosing ports", &"none is free up to 65535").help("use --base-port")
            })?;
            if TcpListener::bind(address).is_ok() && self.given.insert(address.port()) {
                return Ok(address);
            }
        }
    }
}

/// Creates `dir` with mode 0700 if it is absent; gives its absolute path.
pub(super) fn private_dir(dir: &Path) -> std::io::Result<PathBuf> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(dir, private)?;
    dir.canonicalize()
}

pub(super) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|e| failed(&path.display().to_string(), &e))
}

pub(super) fn failed(what: &str, error: &dyn fmt::Display) -> Failure {
    Failure::new(Code::D001, format!("{what}: {error}"))
}
