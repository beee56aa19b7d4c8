//! Where everything of a demonstration network is. Made by [`super::provision`].

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use hsm_profiles::soft::CONF_VARIABLE;
use transport::TlsFiles;

/// A network on disk, ready to be started.
#[derive(Debug)]
pub struct Layout {
    /// The directory of everything.
    pub dir: PathBuf,
    /// The program that runs the parts.
    pub program: PathBuf,
    /// The authority that issued all certificates.
    pub ca: PathBuf,
    /// Configuration of the simulated link.
    pub sim: PathBuf,
    /// Where the simulated modules listen, north's first.
    pub modules: [SocketAddr; 2],
    /// A certificate that may switch faults of the simulated link.
    pub sim_admin: TlsFiles,
    /// The cluster whose key manager dials.
    pub north: Site,
    /// The other.
    pub south: Site,
    /// Further key managers of north, where several share a store.
    pub more: Vec<Site>,
    /// Certificates of the applications by name: `sae-n1` at north; `sae-s1`, `sae-s2` at south;
    /// `sae-x` at both.
    pub applications: BTreeMap<&'static str, TlsFiles>,
    /// The operator's certificate at both admin APIs.
    pub operator: TlsFiles,
    /// Those of the two who together may destroy a KEK epoch.
    pub custodians: [TlsFiles; 2],
    /// A PyKMIP script that creates at north and gets at south.
    pub kmip_script: PathBuf,
}

/// One cluster with one key manager.
#[derive(Debug)]
pub struct Site {
    /// Its name.
    pub cluster: &'static str,
    /// The name of its key manager: the cluster's, or one of its own among several.
    pub name: String,
    /// Its configuration file.
    pub config: PathBuf,
    /// Value of `SOFTHSM2_CONF` for its process.
    pub softhsm_conf: PathBuf,
    /// Label of its token.
    pub token: String,
    /// File with the token's PIN.
    pub pin_file: PathBuf,
    /// Directory of its store.
    pub store: PathBuf,
    /// Its own certificate.
    pub tls: TlsFiles,
    /// ETSI GS QKD 014.
    pub etsi014: SocketAddr,
    /// KMIP.
    pub kmip: SocketAddr,
    /// KMIP over HTTPS.
    pub kmip_https: SocketAddr,
    /// KM link.
    pub km_link: SocketAddr,
    /// Metrics and health.
    pub monitor: SocketAddr,
    /// Admin API.
    pub admin: SocketAddr,
    /// Where the other key managers of the cluster ask it, where several share a store.
    pub desk: Option<SocketAddr>,
}

impl Layout {
    /// Both clusters.
    pub fn sites(&self) -> [&Site; 2] {
        [&self.north, &self.south]
    }

    /// Certificate of the application `name`.
    ///
    /// # Panics
    /// When there is no such application; see [`Layout::applications`].
    pub fn application(&self, name: &str) -> &TlsFiles {
        &self.applications[name]
    }

    /// The command that runs the simulated link; see [`Layout::serve_command`].
    pub fn sim_command(&self) -> Command {
        self.command("sim", &self.sim)
    }

    /// The command that runs the key manager of `site`. It stops in order when its standard
    /// input, a pipe, is closed: keep the child's `stdin` for as long as it should run.
    pub fn serve_command(&self, site: &Site) -> Command {
        let mut command = self.command("serve", &site.config);
        command.env(CONF_VARIABLE, &site.softhsm_conf);
        command
    }

    fn command(&self, part: &str, config: &Path) -> Command {
        part_of(&self.program, &[part], config)
    }
}

/// The command that runs a part until its standard input, a pipe, is closed.
pub(super) fn part_of(program: &Path, part: &[&str], config: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(part).arg("--config").arg(config).arg("--with-parent").stdin(Stdio::piped());
    command
}
