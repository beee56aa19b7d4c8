//! Where everything of the square is.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use hsm_profiles::soft::CONF_VARIABLE;
use transport::{TlsFiles, pki::DemoCa};

use super::super::{
    children::Children,
    files,
    layout::{Site, part_of},
    provision::{Pki, Ports, failed, private_dir, site, write},
};
use crate::fault::Failure;

/// In the order of their names; the neighbours of [`LINKS`] have QKD links, the last has none at all.
pub(super) const CLUSTERS: [&str; 5] = ["east", "north", "south", "village", "west"];
/// By the places of their ends in [`CLUSTERS`].
pub(super) const LINKS: [(&str, usize, usize); 4] =
    [("east-north", 0, 1), ("east-south", 0, 2), ("north-west", 1, 4), ("south-west", 2, 4)];
/// Pairs whose KM link fills their pool.
const WITHOUT_QKD: [(&str, &str); 2] = [("east", "village"), ("village", "west")];
/// Pairs fed by relay, with the hop ciphers they allow.
const RELAYED: [(&str, &str, &str); 2] =
    [("north", "south", "otp-only"), ("north", "village", "otp-else-aes")];

/// They stand by for each other; KMs follow the first there is.
pub(super) const CONTROLLERS: [&str; 2] = ["controller", "controller-2"];

/// Bits per second of each link: few enough that applications use them up faster, on a busy machine too.
const RATE: &str = "1500000";
/// A pool with a QKD link holds so much, in MiB.
const POOL_MIB: u64 = 2;
/// Below this a pool no longer carries others' keys, in bits.
pub(super) const LOW_BITS: u64 = 4 << 20;

pub(super) struct Square {
    dir: PathBuf,
    program: PathBuf,
    sites: Vec<Site>,
    /// Of each link, the modules of its ends.
    pub(super) modules: Vec<[SocketAddr; 2]>,
    pub(super) controllers: [SocketAddr; 2],
    pub(super) operator: TlsFiles,
    pub(super) sim_admin: TlsFiles,
    /// One application at each cluster, by its place: `sae-<cluster>`.
    pub(super) applications: Vec<TlsFiles>,
}

impl Square {
    pub(super) fn provision(dir: &Path, base_port: u16) -> Result<Self, Failure> {
        let dir = private_dir(dir).map_err(|e| failed("making the directory", &e))?;
        let program = std::env::current_exe().map_err(|e| failed("finding the qkm program", &e))?;
        let mut ports = Ports::after(base_port);
        let pki = Pki(DemoCa::create(&dir.join("pki")).map_err(|e| failed("the demo CA", &e))?);
        let sites = CLUSTERS.map(|name| site(&dir, name, &program, &pki, &mut ports));
        let sites = sites.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut modules = Vec::new();
        for (id, a, b) in LINKS {
            let ends = [ports.take()?, ports.take()?];
            let server = |at: usize| {
                let name = CLUSTERS[at];
                pki.server(&format!("module-{id}-{name}"), &format!("urn:qkm:module:{name}"))
            };
            let (one, other) = (server(a)?, server(b)?);
            let ends_of = [(CLUSTERS[a], ends[0], &one), (CLUSTERS[b], ends[1], &other)];
            write(&dir.join(format!("{id}.toml")), &files::link(ends_of, Some(RATE)))?;
            modules.push(ends);
        }
        let clients = CLUSTERS.map(|name| pki.client(&format!("sae-{name}")));
        let square = Self {
            controllers: [ports.take()?, ports.take()?],
            operator: pki.client("operator")?,
            sim_admin: pki.client("sim-admin")?,
            applications: clients.into_iter().collect::<Result<_, _>>()?,
            dir,
            program,
            sites,
            modules,
        };
        for (name, listen) in CONTROLLERS.into_iter().zip(square.controllers) {
            let files = pki.server(name, "urn:qkm:controller")?;
            let text = square.controller_text(name, listen, &files);
            write(&square.dir.join(format!("{name}.toml")), &text)?;
        }
        for at in 0..square.sites.len() {
            write(&square.sites[at].config, &square.site_text(at))?;
        }
        Ok(square)
    }

    pub(super) fn sites(&self) -> Vec<&Site> {
        self.sites.iter().collect()
    }

    pub(super) fn site(&self, name: &str) -> Option<(&Site, &TlsFiles)> {
        let at = CLUSTERS.iter().position(|cluster| *cluster == name)?;
        Some((&self.sites[at], &self.applications[at]))
    }

    /// Starts everything.
    pub(super) fn start(&self) -> Result<Children, Failure> {
        let mut children = Children::none();
        let config = |name: &str| self.dir.join(format!("{name}.toml"));
        for (id, _, _) in LINKS {
            self.start_link(&mut children, id)?;
        }
        for name in CONTROLLERS {
            let controller = self.command(&["controller", "run"], &config(name));
            children.add(name, controller, &self.dir)?;
        }
        for site in &self.sites {
            let mut command = self.command(&["serve"], &site.config);
            command.env(CONF_VARIABLE, &site.softhsm_conf);
            children.add(site.cluster, command, &self.dir)?;
        }
        Ok(children)
    }

    /// Starts both modules of a link.
    pub(super) fn start_link(
        &self,
        children: &mut Children,
        id: &'static str,
    ) -> Result<(), Failure> {
        let config = self.dir.join(format!("{id}.toml"));
        children.add(id, self.command(&["sim"], &config), &self.dir)
    }

    fn command(&self, part: &[&str], config: &Path) -> Command {
        part_of(&self.program, part, config)
    }

    fn controller_text(&self, name: &str, listen: SocketAddr, files: &TlsFiles) -> String {
        let mut text = format!(
            "[controller]\nlisten = \"{}\"\n{}orders = {}\noperators = [\"cn:operator\"]\n\n\
             [operator]\n{}\n[thresholds]\nsilence_ms = 3000\nlow_bits = {LOW_BITS}\n\
             ample_bits = {LOW_BITS}\n\
             better_percent = 90\n\n",
            listen,
            files::tls(files),
            files::q(self.dir.join(format!("{name}-orders.json"))),
            files::tls(&self.operator),
        );
        for other in self.controllers.iter().filter(|other| **other != listen) {
            let identity = "uri:urn:qkm:controller";
            text += &format!("[[other]]\naddress = \"{other}\"\nidentity = \"{identity}\"\n");
        }
        for name in CLUSTERS {
            text +=
                &format!("[[km]]\ncluster = \"{name}\"\nidentity = \"uri:urn:qkm:km:{name}\"\n");
        }
        text
    }

    fn site_text(&self, at: usize) -> String {
        let here = &self.sites[at];
        let mut text = files::own(here, &self.operator, false, None);
        text += &format!(
            "[controller]\naddresses = [\"{}\", \"{}\"]\nidentity = \"uri:urn:qkm:controller\"\n{}\
             report_ms = 300\n\n",
            self.controllers[0],
            self.controllers[1],
            files::tls(&here.tls),
        );
        for ((id, a, b), modules) in LINKS.into_iter().zip(&self.modules) {
            let (far, module) = match at {
                at if at == a => (b, modules[0]),
                at if at == b => (a, modules[1]),
                _ => continue,
            };
            let there = &self.sites[far];
            text += &files::peer(there, POOL_MIB);
            let often = "status_interval_ms = 250\n";
            text += &files::qkd_link(id, here, there.cluster, module, often);
        }
        let far = |(a, b): (&str, &str)| match here.cluster {
            name if name == a => self.site(b),
            name if name == b => self.site(a),
            _ => None,
        };
        for (there, _) in WITHOUT_QKD.into_iter().filter_map(far) {
            text += files::peer(there, POOL_MIB).trim_end();
            text += "\ncombine = \"required\"\n\n";
            let fill = "via = []\nlow_kib = 1024\nhigh_kib = 1536\n";
            text += &format!("[[relay]]\nto = \"{}\"\n{fill}\n", there.cluster);
        }
        for (a, b, cipher) in RELAYED {
            if let Some((there, _)) = far((a, b)) {
                text += &files::peer(there, 1);
                let to = there.cluster;
                text += &format!("[[relay]]\nto = \"{to}\"\ncipher = \"{cipher}\"\n\n");
            }
        }
        for name in CLUSTERS {
            let sae = format!("sae-{name}");
            text += &format!(
                "[[sae]]\nid = \"{sae}\"\nclusters = [\"{name}\"]\ncertificate = \"cn:{sae}\"\n\n"
            );
        }
        for (one, other) in
            [("north", "south"), ("north", "village"), ("north", "east"), ("north", "west")]
        {
            text += &format!("[[pair]]\nsaes = [\"sae-{one}\", \"sae-{other}\"]\n\n");
        }
        text
    }
}
