//! The etcd of a demonstration: three members on loopback, with mutual TLS. Enter through
//! [`Engine::provision`].

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cluster::EtcdConfig;
use transport::{
    TlsFiles,
    pki::{DemoCa, San, Validity},
};

use super::{
    children::Children,
    provision::{Ports, failed, private_dir},
};
use crate::fault::{Code, Failure};

/// Majority of them must live.
const MEMBERS: usize = 3;
const DAYS: u32 = 30;

/// Becomes a program, and ends it when standard input closes, so that it does not outlive us.
const WITH_PARENT: &str =
    r#"exec 3<&0; me=$$; (read -r _ <&3; kill $me) & exec "$@" </dev/null 3<&-"#;

/// Its files, and where it will listen.
pub(super) struct Engine {
    program: PathBuf,
    dir: PathBuf,
    /// Certificate of every member, and of the key managers towards them.
    own: TlsFiles,
    km: TlsFiles,
    /// For clients and for the others, of each member.
    ports: Vec<[SocketAddr; 2]>,
}

impl Engine {
    /// Makes certificates under `dir`, and looks for etcd, as `program` or as such.
    pub(super) fn provision(
        dir: &Path,
        base_port: u16,
        program: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let program = program.unwrap_or_else(|| "etcd".into());
        check(&program)?;
        let dir = private_dir(&dir.join("etcd")).map_err(|e| failed("making a directory", &e))?;
        let ca = DemoCa::create(&dir.join("pki")).map_err(|e| failed("the CA of etcd", &e))?;
        let issue = |name: &str| {
            let made = ca.issue(name, &San::loopback(), Validity::days(DAYS));
            made.map_err(|e| failed("a certificate", &e))
        };
        let mut ports = Ports::after(base_port);
        let ports = (0..MEMBERS)
            .map(|_| Ok([ports.take()?, ports.take()?]))
            .collect::<Result<Vec<_>, Failure>>()?;
        Ok(Self { program, own: issue("etcd")?, km: issue("km")?, dir, ports })
    }

    /// For the key managers.
    pub(super) fn config(&self) -> EtcdConfig {
        EtcdConfig {
            endpoints: self.ports.iter().map(|[clients, _]| clients.to_string()).collect(),
            files: self.km.clone(),
            prefix: "/qkm/north/".into(),
            allow_unmaintained: true,
        }
    }

    /// Names of its members among the children.
    pub(super) fn names() -> impl Iterator<Item = String> {
        (1..=MEMBERS).map(|number| format!("etcd-{number}"))
    }

    /// Starts those members that `children` does not have.
    pub(super) fn start(&self, children: &mut Children, log_dir: &Path) -> Result<(), Failure> {
        for (name, ports) in Self::names().zip(&self.ports) {
            if children.pid(&name).is_none() {
                children.add(&name, self.command(&name, ports), log_dir)?;
            }
        }
        Ok(())
    }

    fn command(&self, name: &str, [clients, peers]: &[SocketAddr; 2]) -> Command {
        let url = |address: &SocketAddr| format!("https://{address}");
        let all = Self::names().zip(&self.ports);
        let all: Vec<String> =
            all.map(|(name, [_, peers])| format!("{name}={}", url(peers))).collect();
        let TlsFiles { certificate, key, ca } = &self.own;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WITH_PARENT, "sh"]).arg(&self.program);
        command.args(["--name", name, "--data-dir"]).arg(self.dir.join(name));
        command.args(["--listen-client-urls", &url(clients)]);
        command.args(["--advertise-client-urls", &url(clients)]);
        command.args(["--listen-peer-urls", &url(peers)]);
        command.args(["--initial-advertise-peer-urls", &url(peers)]);
        command.args(["--initial-cluster", &all.join(",")]);
        command.args(["--client-cert-auth", "--peer-client-cert-auth"]);
        for (of, file) in [
            ("--cert-file", certificate),
            ("--key-file", key),
            ("--trusted-ca-file", ca),
            ("--peer-cert-file", certificate),
            ("--peer-key-file", key),
            ("--peer-trusted-ca-file", ca),
        ] {
            command.arg(of).arg(file);
        }
        command.args(["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "5m"]);
        // As in deploy/cluster/etcd.env, and as maintained releases do by themselves.
        command.args(["--heartbeat-interval", "50", "--election-timeout", "500", "--pre-vote"]);
        command.stdin(Stdio::piped());
        command
    }
}

fn check(program: &Path) -> Result<(), Failure> {
    let found = Command::new(program).arg("--version").output();
    let why = match found {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => format!("{} --version ended with {}", program.display(), output.status),
        Err(error) => format!("{} does not start: {error}", program.display()),
    };
    Err(Failure::new(Code::D001, format!("three key managers share a store on etcd, and {why}"))
        .help("install etcd (Debian: the package etcd-server), or name its program with --etcd"))
}
