//! Certificate, key and CA files. Enter through [`TlsFiles`]; every error names the file.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use wiped::Wiped;

/// Largest PEM file accepted, in bytes.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// The three PEM files one end of a mutual TLS connection needs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Own certificate, followed by intermediates if there are any.
    pub certificate: PathBuf,
    /// Private key of `certificate` (PKCS#8, SEC1 or PKCS#1); not accessible to other users.
    pub key: PathBuf,
    /// Certificates of the authorities that issue the peers' certificates.
    pub ca: PathBuf,
}

/// Why no TLS configuration came out of the files. All need a person.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error(
        "cannot read {path}: {source}. Check the path in the configuration and the file's rights"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than 1 MiB and so not what was meant.
    #[error(
        "{path} is larger than 1 MiB; expected a PEM file. Check the path in the configuration"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no PEM item of the kind needed.
    #[error("{path} contains no usable {wanted}. Expected PEM (-----BEGIN …-----)")]
    Nothing {
        /// The file.
        path: PathBuf,
        /// "certificate" or "private key".
        wanted: &'static str,
    },
    /// Other users may read the private key.
    #[error(
        "{path} is a private key that other users may access (mode {mode:04o}). Run: chmod 600 {path}"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key is not the certificate's.
    #[error(
        "the key in {key} does not belong to the certificate in {certificate}. Use the pair issued together"
    )]
    Mismatch {
        /// Certificate file.
        certificate: PathBuf,
        /// Key file.
        key: PathBuf,
    },
    /// A certificate in the file cannot serve.
    #[error("{path} cannot be used: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What TLS said.
        reason: String,
    },
}

impl TlsFiles {
    /// SHA-256 of the own certificate (DER), as the other end sees it.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn fingerprint(&self) -> Result<[u8; 32], TlsError> {
        let chain = self.chain()?;
        let nothing =
            || TlsError::Nothing { path: self.certificate.clone(), wanted: "certificate" };
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, chain.first().ok_or_else(nothing)?).as_ref());
        Ok(sha256)
    }

    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(&self.certificate)
    }

    pub(crate) fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let mode = fs::metadata(&self.key).map_err(read_error(&self.key))?.permissions().mode();
        if mode & 0o007 != 0 {
            return Err(TlsError::Exposed { path: self.key.clone(), mode: mode & 0o7777 });
        }
        PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|_| TlsError::Nothing { path: self.key.clone(), wanted: "private key" })
    }

    pub(crate) fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(|e| unusable(&self.ca, &e))?;
        }
        Ok(roots)
    }

    pub(crate) fn pair_error(&self, error: &rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::Mismatch { certificate: self.certificate.clone(), key: self.key.clone() }
            }
            other => unusable(&self.certificate, other),
        }
    }
}

pub(crate) fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::Unusable { path: path.to_owned(), reason: reason.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let nothing = || TlsError::Nothing { path: path.to_owned(), wanted: "certificate" };
    let found = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, pem::Error>>()
        .map_err(|_| nothing())?;
    if found.is_empty() { Err(nothing()) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Wiped, TlsError> {
    let length = fs::metadata(path).map_err(read_error(path))?.len();
    if length > MAX_PEM_BYTES {
        return Err(TlsError::TooLarge { path: path.to_owned() });
    }
    fs::read(path).map(Wiped::new).map_err(read_error(path))
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> TlsError + '_ {
    move |source| TlsError::Read { path: path.to_owned(), source }
}
