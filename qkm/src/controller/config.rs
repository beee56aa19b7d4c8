//! The configuration of a controller: one TOML file, checked once.

use std::{collections::BTreeSet, fmt, path::Path, path::PathBuf};

use control::{
    policy::{MAX_POLICIES, Policy},
    settings::Settings,
};
use km_core::ids::ClusterId;
use serde::Deserialize;
use transport::{IdentityRule, TlsFiles};

use crate::{
    config::{Front, Monitor, parse_toml, read},
    fault::{Code, Failure},
};

/// A complete configuration with comments, as `qkm controller example` prints it.
pub const EXAMPLE: &str = include_str!("example.toml");

/// A checked configuration.
#[derive(Debug)]
pub struct ControllerConfig {
    /// Where it listens, and with which certificate.
    pub front: Front,
    /// Where its metrics and readiness are read, in plain HTTP.
    pub monitor: Option<std::net::SocketAddr>,
    /// Who may look and give orders.
    pub operators: Vec<IdentityRule>,
    /// Where orders of operators are kept.
    pub orders: PathBuf,
    /// Controllers that stand by for this one, and it for them.
    pub others: Vec<Other>,
    /// The certificate of the command line.
    pub operator: Option<TlsFiles>,
    /// Thresholds.
    pub settings: Settings,
    /// The KMs of the network.
    pub kms: Vec<Km>,
    /// Policies, the later before the earlier.
    pub policies: Vec<Policy>,
}

/// A KM that may report.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Km {
    /// For which cluster.
    pub cluster: ClusterId,
    /// What its certificate must carry.
    pub identity: IdentityRule,
}

/// Another controller of the same network.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Other {
    /// `host:port` where it listens.
    pub address: String,
    /// What its certificate must carry.
    pub identity: IdentityRule,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    controller: Table,
    monitor: Option<Monitor>,
    #[serde(default)]
    other: Vec<Other>,
    operator: Option<TlsFiles>,
    #[serde(default)]
    thresholds: Settings,
    #[serde(default)]
    km: Vec<Km>,
    #[serde(default)]
    policy: Vec<Policy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    listen: std::net::SocketAddr,
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
    orders: PathBuf,
    operators: Vec<IdentityRule>,
}

/// Most other controllers.
const MAX_OTHERS: usize = 4;
/// Connections open at once: two for each KM.
const CONNECTIONS: usize = 4096;

impl ControllerConfig {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Names the entry to change.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        Self::parse(&read(path)?, &path.display())
    }

    /// Checks `text`; errors call it `origin`.
    ///
    /// # Errors
    /// Names the entry to change.
    pub fn parse(text: &str, origin: &dyn fmt::Display) -> Result<Self, Failure> {
        let file: File = parse_toml(text, origin)?;
        let wrong = |what: String| Failure::new(Code::C003, format!("{origin}: {what}"));
        file.thresholds.check().map_err(|rule| wrong(format!("[thresholds] {rule}")))?;
        let mut seen = BTreeSet::new();
        if let Some(twice) = file.km.iter().find(|km| !seen.insert(&km.cluster)) {
            return Err(wrong(format!("the [[km]] of {} is there twice", twice.cluster)));
        }
        let mut rules: Vec<&IdentityRule> = Vec::new();
        for km in &file.km {
            if rules.contains(&&km.identity) {
                return Err(wrong(format!("two [[km]] have the identity {}", km.identity))
                    .help("give each KM its own certificate"));
            }
            rules.push(&km.identity);
        }
        if file.other.len() > MAX_OTHERS {
            return Err(wrong(format!("more than {MAX_OTHERS} [[other]]")));
        }
        if file.policy.len() > MAX_POLICIES {
            return Err(wrong(format!("more than {MAX_POLICIES} [[policy]]")));
        }
        let monitor = file.monitor.map(Monitor::checked).transpose();
        let Table { listen, certificate, key, ca, orders, operators } = file.controller;
        Ok(Self {
            front: Front { listen, certificate, key, ca, connections: CONNECTIONS },
            monitor: monitor.map_err(|(text, help)| wrong(text).help(help))?,
            operators,
            orders,
            others: file.other,
            operator: file.operator,
            settings: file.thresholds,
            kms: file.km,
            policies: file.policy,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_well_formed_and_shows_the_defaults() {
        let config = ControllerConfig::parse(EXAMPLE, &"example").unwrap();
        assert_eq!(config.settings, Settings::default());
        assert_eq!((config.kms.len(), config.policies.len()), (2, 0));
        let all: String = EXAMPLE.lines().fold(String::new(), |text, line| {
            let entry = line.strip_prefix("# ");
            let entry = entry.filter(|l| l.starts_with("[[") || l.contains(" = "));
            text + entry.unwrap_or(line) + "\n"
        });
        let config = ControllerConfig::parse(&all, &"example").unwrap();
        assert_eq!((config.policies.len(), config.others.len()), (6, 1));
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, says) in [
            ("qber = 0.08", "qber = 0.8", "qber must be"),
            ("listen = \"127.0.0.1", "listen = \"0.0.0.0", "would be open to others"),
            ("cluster = \"south\"", "cluster = \"north\"", "there twice"),
            ("uri:urn:qkm:km:south", "uri:urn:qkm:km:north", "own certificate"),
            ("\n[thresholds]", "\n[[policy]]\nhours = \"1\"\n[thresholds]", "has one of pin"),
        ] {
            assert!(EXAMPLE.contains(from), "{from}");
            let text = EXAMPLE.replacen(from, to, 1);
            let failure = ControllerConfig::parse(&text, &"example").unwrap_err();
            assert!(failure.to_string().contains(says), "{failure}");
        }
    }
}
