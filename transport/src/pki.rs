//! Keys with requests for certificates ([`request`]), and a small certification authority **for
//! demonstrations and tests only**: its private key lies unencrypted in a file. Enter there through
//! [`DemoCa`]. Keys are ECDSA P-256.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, string::Ia5String,
};
use time::OffsetDateTime;

use crate::TlsFiles;

const DAY: Duration = Duration::from_secs(86_400);

/// Why no certificate came out.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file or directory cannot be written.
    #[error(
        "cannot write {path}: {source}. Check that the directory exists, is writable and has no older files"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The CA's key cannot be read.
    #[error("cannot read {path}: {source}. Name the directory of a demo CA")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A name is not allowed in a certificate or the key could not be made.
    #[error("cannot make the certificate {name:?}: {source}")]
    Make {
        /// The certificate's common name.
        name: String,
        /// What rcgen said.
        source: rcgen::Error,
    },
    /// The common name would not be a plain file name.
    #[error("{0:?} cannot name a certificate file. Use letters, digits, '.', '-' and '_'")]
    Name(String),
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// First moment.
    pub not_before: SystemTime,
    /// Last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// From an hour ago (clocks differ) for `days` days.
    pub fn days(days: u32) -> Self {
        let now = SystemTime::now();
        Self { not_before: now - Duration::from_secs(3600), not_after: now + DAY * days }
    }

    /// Ended yesterday; for tests of refusal.
    pub fn expired() -> Self {
        let now = SystemTime::now();
        Self { not_before: now - DAY * 3, not_after: now - DAY }
    }
}

/// A subject alternative name to put in.
#[derive(Clone, Debug)]
pub enum San {
    /// A DNS name.
    Dns(String),
    /// A URI, such as `urn:qkm:sae:ada`.
    Uri(String),
    /// An IP address.
    Ip(std::net::IpAddr),
}

impl San {
    /// `localhost`, `127.0.0.1` and `::1`: what a server on loopback needs.
    pub fn loopback() -> Vec<San> {
        let (v4, v6) = (std::net::Ipv4Addr::LOCALHOST, std::net::Ipv6Addr::LOCALHOST);
        vec![San::Dns("localhost".into()), San::Ip(v4.into()), San::Ip(v6.into())]
    }

    fn to_rcgen(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            San::Dns(name) => SanType::DnsName(Ia5String::try_from(name.as_str())?),
            San::Uri(uri) => SanType::URI(Ia5String::try_from(uri.as_str())?),
            San::Ip(address) => SanType::IpAddress(*address),
        })
    }
}

/// A new key, written to the new file `key` (mode 0600), and a request in PEM (PKCS #10) for a certificate
/// that names the hosts `sans`.
///
/// # Errors
/// When the file is there or cannot be written, and of names that no certificate can have.
pub fn request(name: &str, sans: &[San], key: &Path) -> Result<String, PkiError> {
    let (request, pair) = asked(name, sans)?;
    write_key(key, &pair)?;
    Ok(request)
}

/// As [`request`], without names of hosts; the key in PEM stays in memory.
///
/// # Errors
/// Of a name that no certificate can have.
pub fn request_in_memory(name: &str) -> Result<(String, zeroize::Zeroizing<String>), PkiError> {
    let (request, pair) = asked(name, &[])?;
    Ok((request, zeroize::Zeroizing::new(pair.serialize_pem())))
}

fn asked(name: &str, sans: &[San]) -> Result<(String, KeyPair), PkiError> {
    let make = |source| PkiError::Make { name: name.to_owned(), source };
    let mut params = params(name, Validity::days(1)).map_err(make)?;
    params.subject_alt_names =
        sans.iter().map(San::to_rcgen).collect::<Result<_, _>>().map_err(make)?;
    let pair = KeyPair::generate().map_err(make)?;
    let request = params.serialize_request(&pair).and_then(|request| request.pem());
    Ok((request.map_err(make)?, pair))
}

/// Demo only. Writes `ca.crt`, `ca.key` and one `<name>.crt`, `<name>.key` per certificate.
pub struct DemoCa {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl DemoCa {
    /// Makes a new CA, valid ten years, in `dir` (created if absent, mode 0700).
    pub fn create(dir: &Path) -> Result<Self, PkiError> {
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .recursive(true)
            .create(dir)
            .map_err(|source| PkiError::Write { path: dir.to_owned(), source })?;
        let key = KeyPair::generate().map_err(of_ca)?;
        let params = ca_params().map_err(of_ca)?;
        let certificate = params.self_signed(&key).map_err(of_ca)?;
        write(&dir.join("ca.crt"), 0o644, certificate.pem().as_bytes())?;
        write_key(&dir.join("ca.key"), &key)?;
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// Opens the CA that [`DemoCa::create`] made in `dir`, to issue more.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let path = dir.join("ca.key");
        let pem = fs::read_to_string(&path).map(zeroize::Zeroizing::new);
        let pem = pem.map_err(|source| PkiError::Read { path, source })?;
        let key = KeyPair::from_pem(&pem).map_err(of_ca)?;
        let issuer = Issuer::new(ca_params().map_err(of_ca)?, key);
        Ok(Self { dir: dir.to_owned(), issuer })
    }

    /// Issues a certificate usable as server and as client, common name `name`, and writes it.
    pub fn issue(&self, name: &str, sans: &[San], valid: Validity) -> Result<TlsFiles, PkiError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(plain) {
            return Err(PkiError::Name(name.chars().take(80).collect()));
        }
        let make = |source| PkiError::Make { name: name.to_owned(), source };
        let key = KeyPair::generate().map_err(make)?;
        let mut params = params(name, valid).map_err(make)?;
        params.subject_alt_names =
            sans.iter().map(San::to_rcgen).collect::<Result<_, _>>().map_err(make)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        let files = TlsFiles {
            certificate: self.dir.join(format!("{name}.crt")),
            key: self.dir.join(format!("{name}.key")),
            ca: self.ca(),
        };
        write(&files.certificate, 0o644, certificate.pem().as_bytes())?;
        write_key(&files.key, &key)?;
        Ok(files)
    }

    /// The CA certificate's file.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }
}

const CA_NAME: &str = "qkm demo CA";

fn of_ca(source: rcgen::Error) -> PkiError {
    PkiError::Make { name: CA_NAME.to_owned(), source }
}

fn ca_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(CA_NAME, Validity::days(3650))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(name: &str, valid: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::from(valid.not_before);
    params.not_after = OffsetDateTime::from(valid.not_after);
    Ok(params)
}

fn write_key(path: &Path, key: &KeyPair) -> Result<(), PkiError> {
    write(path, 0o600, zeroize::Zeroizing::new(key.serialize_pem()).as_bytes())
}

/// Refuses to overwrite: a key that is in use must not disappear.
fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), PkiError> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|source| PkiError::Write { path: path.to_owned(), source })
}
