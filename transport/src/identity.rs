//! Who is at the other end. [`PeerIdentity`] comes only from a certificate that TLS verified;
//! [`IdentityRule`] is what the configuration says about it.

use std::{
    fmt,
    net::SocketAddr,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// Most subject alternative names looked at in one certificate.
const MAX_NAMES: usize = 64;

/// The names in the peer's verified certificate. Cheap to share in an `Arc`; holds no secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    uris: Vec<String>,
    dns_names: Vec<String>,
    common_name: Option<String>,
    issuer: String,
    serial: String,
    sha256: [u8; 32],
    not_after: u64,
    address: SocketAddr,
}

/// The verified certificate cannot serve as an identity.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// TLS gave no certificate.
    #[error("the peer showed no certificate")]
    Absent,
    /// It cannot be parsed.
    #[error("the peer's certificate cannot be read")]
    Unreadable,
    /// Its validity ended (possible on a resumed session).
    #[error("the peer's certificate has expired")]
    Expired,
    /// The text of an [`IdentityRule`] is wrong.
    #[error("{0:?} is not an identity rule. Write uri:…, dns:…, cn:… or sha256:<64 hex digits>")]
    Rule(String),
}

impl PeerIdentity {
    /// From the chain a finished handshake left; checks the end of validity again because a
    /// resumed session does not.
    pub(crate) fn from_chain(
        chain: Option<&[CertificateDer<'_>]>,
        address: SocketAddr,
    ) -> Result<Self, IdentityError> {
        let leaf = chain.and_then(<[_]>::first).ok_or(IdentityError::Absent)?;
        let identity = Self::from_der(leaf, address)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |d| d.as_secs());
        if now > identity.not_after { Err(IdentityError::Expired) } else { Ok(identity) }
    }

    fn from_der(leaf: &[u8], address: SocketAddr) -> Result<Self, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(leaf).map_err(|_| IdentityError::Unreadable)?;
        let names =
            certificate.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?;
        let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
        for name in names.iter().flat_map(|n| &n.value.general_names).take(MAX_NAMES) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => dns_names.push(dns.to_ascii_lowercase()),
                _ => {}
            }
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, leaf).as_ref());
        let common_name = certificate.subject().iter_common_name().next();
        Ok(Self {
            uris,
            dns_names,
            common_name: common_name.and_then(|cn| cn.as_str().ok()).map(str::to_owned),
            issuer: certificate.issuer().to_string(),
            serial: hex::encode(certificate.raw_serial()),
            sha256,
            not_after: certificate.validity().not_after.timestamp().try_into().unwrap_or(0),
            address,
        })
    }

    /// URIs among the subject alternative names.
    pub fn uris(&self) -> &[String] {
        &self.uris
    }
    /// DNS names among the subject alternative names, in lower case.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }
    /// The first common name of the subject.
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }
    /// The issuer's distinguished name as text.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
    /// The serial number in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }
    /// SHA-256 of the certificate (DER).
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }
    /// Where the connection comes from.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the certificate carries what `rule` names.
    pub fn matches(&self, rule: &IdentityRule) -> bool {
        match rule {
            IdentityRule::Uri(uri) => self.uris.contains(uri),
            IdentityRule::Dns(dns) => self.dns_names.contains(dns),
            IdentityRule::CommonName(name) => self.common_name.as_ref() == Some(name),
            IdentityRule::Sha256(wanted) => self.sha256 == *wanted,
        }
    }
}

/// For logs: the common name if there is one, and the start of the fingerprint.
impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.common_name {
            write!(f, "{} ", name.escape_debug())?;
        }
        write!(f, "sha256:{}", hex::encode(&self.sha256[..8]))
    }
}

/// One certificate property that identifies a peer, written `uri:…`, `dns:…`, `cn:…` or
/// `sha256:…` (hexadecimal, colons allowed).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum IdentityRule {
    /// A URI among the subject alternative names, compared byte by byte.
    Uri(String),
    /// A DNS name among them, case ignored; no wildcards.
    Dns(String),
    /// The subject's first common name.
    CommonName(String),
    /// SHA-256 of the whole certificate.
    Sha256([u8; 32]),
}

impl FromStr for IdentityRule {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let bad = || IdentityError::Rule(text.chars().take(80).collect());
        match text.split_once(':').ok_or_else(bad)? {
            (_, "") => Err(bad()),
            ("uri", uri) => Ok(Self::Uri(uri.to_owned())),
            ("dns", dns) => Ok(Self::Dns(dns.to_ascii_lowercase())),
            ("cn", name) => Ok(Self::CommonName(name.to_owned())),
            ("sha256", digits) => {
                let mut wanted = [0; 32];
                hex::decode_to_slice(digits.replace(':', ""), &mut wanted).map_err(|_| bad())?;
                Ok(Self::Sha256(wanted))
            }
            _ => Err(bad()),
        }
    }
}

impl TryFrom<String> for IdentityRule {
    type Error = IdentityError;
    fn try_from(text: String) -> Result<Self, IdentityError> {
        text.parse()
    }
}

impl From<IdentityRule> for String {
    fn from(rule: IdentityRule) -> String {
        rule.to_string()
    }
}

impl fmt::Display for IdentityRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(uri) => write!(f, "uri:{uri}"),
            Self::Dns(dns) => write!(f, "dns:{dns}"),
            Self::CommonName(name) => write!(f, "cn:{name}"),
            Self::Sha256(wanted) => write!(f, "sha256:{}", hex::encode(wanted)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_survive_their_own_text() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for text in ["uri:urn:sae:a", "dns:km1.example", "cn:Ada L.", digest.as_str()] {
            assert_eq!(text.parse::<IdentityRule>().unwrap().to_string(), text);
        }
        let colons = format!("sha256:{}", vec!["AB"; 32].join(":"));
        assert_eq!(colons.parse::<IdentityRule>().unwrap(), digest.parse().unwrap());
    }

    #[test]
    fn wrong_rules_are_refused() {
        for text in ["", "ada", "cn:", "ou:x", "sha256:abcd", "sha256:zz", "CN:x"] {
            assert!(text.parse::<IdentityRule>().is_err(), "{text}");
        }
    }
}
