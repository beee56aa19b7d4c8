//! The door to a QKD module as the domain sees it. Implemented in `qkd-ingest`.

use async_trait::async_trait;

use crate::{material::ClearBytes, provenance::Provenance};

/// Longest key identifier taken from a module, in bytes.
pub const MAX_MODULE_ID: usize = 128;

/// One key as a module gave it.
#[derive(Debug)]
pub struct ModuleKey {
    /// The module's identifier, equal at both ends of the link; at most [`MAX_MODULE_ID`] bytes.
    pub id: String,
    /// Its bits.
    pub bytes: ClearBytes,
    /// How they came to be; a module itself does not know. What was relayed becomes a block of its
    /// own, at once.
    pub came: Option<Provenance>,
}

/// Why a module gave no keys.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ModuleError {
    /// It has none now. Ask again later.
    #[error("the QKD module has no keys now")]
    Empty,
    /// It does not know some of the IDs, or not yet.
    #[error("the QKD module does not have a key the other end announced")]
    UnknownId,
    /// It cannot be reached, or answered with a temporary error.
    #[error("the QKD module is not available: {0}")]
    Unavailable(String),
    /// It answered something this KM cannot use. The text says what.
    #[error("the QKD module's answer cannot be used: {0}")]
    Protocol(String),
}

/// One QKD module of ours.
#[async_trait]
pub trait ModuleSource: Send + Sync + 'static {
    /// Takes new keys of about `bytes` bytes in all (fewer when the module has fewer).
    async fn take(&self, bytes: usize) -> Result<Vec<ModuleKey>, ModuleError>;

    /// Collects the keys the other end took, in the order of `ids`; `came` is what it says of them.
    async fn collect(
        &self,
        ids: &[String],
        came: &Provenance,
    ) -> Result<Vec<ModuleKey>, ModuleError>;

    /// Drops idle connections, so that no stale key bytes stay in their buffers.
    async fn rest(&self);
}
