//! The door to hardware security modules as the domain sees it. Implemented in `hsm-profiles`.
//!
//! A key-encryption key (KEK) is generated in the token and never leaves it; everything else is
//! sealed by it with AES-GCM, the record's header as associated data (seed clause 9.3).

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::material::ClearBytes;

/// Names one KEK in the token: `CKA_ID` of the key, in hexadecimal where a person reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KekId(pub String);

/// What the token returned for a sealed message. Safe to store; worthless without the KEK.
///
/// Only an [`Hsm`] makes a meaningful one, and only the vault binds it to a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The KEK that opens it.
    pub kek: KekId,
    /// The 96-bit GCM nonce.
    #[serde(with = "serde_bytes")]
    pub iv: Vec<u8>,
    /// Ciphertext with the 128-bit tag at its end.
    #[serde(with = "serde_bytes")]
    pub ciphertext: Vec<u8>,
}

/// Why the token did not do it. `Temporary` kinds may be tried again, the others need a person.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum HsmError {
    /// The token is gone, busy past the deadline, or restarting. Trying again may help.
    #[error("the HSM is not available: {0}")]
    Unavailable(String),
    /// The sealed message does not open: changed, moved to another record, or sealed elsewhere.
    #[error("sealed data was refused by the HSM: {0}")]
    Refused(String),
    /// The request can never work on this token (mechanism, size, rights, missing KEK).
    #[error("the HSM cannot do this: {0}")]
    Unsupported(String),
    /// The configuration is wrong (library, token, PIN). The text says what to change.
    #[error("{0}")]
    Setup(String),
}

/// What a readiness probe and an operator want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HsmStatus {
    /// Logged in, and the last operation or probe succeeded.
    pub ready: bool,
    /// Token label, e.g. `north-1`.
    pub token: String,
    /// Token serial number as the library prints it.
    pub serial: String,
    /// One line for a person: why it is not ready, or the library's description.
    pub detail: String,
}

/// One token (or HSM cluster) with the KEKs of this KM.
#[async_trait]
pub trait Hsm: Send + Sync + 'static {
    /// The KEK new data is sealed under.
    fn current_kek(&self) -> KekId;

    /// Seals `clear` in the token (AES-256-GCM, fresh 96-bit nonce) with `aad` authenticated.
    async fn seal(&self, aad: &[u8], clear: &ClearBytes) -> Result<Sealed, HsmError>;

    /// Opens what [`Hsm::seal`] made, under the same `aad`.
    async fn open(&self, aad: &[u8], sealed: &Sealed) -> Result<ClearBytes, HsmError>;

    /// `len` bytes from the token's random number generator.
    async fn random(&self, len: usize) -> Result<ClearBytes, HsmError>;

    /// Does a seal/open round trip and reports.
    async fn probe(&self) -> HsmStatus;

    /// Status as of the last operation or probe; never blocks.
    fn status(&self) -> HsmStatus;
}
