//! Managed objects that the relay copies to another cluster when somebody names them (clause 9.3b: on
//! demand for specific keys). Enter through [`Copies`], which the front implements that knows what the
//! objects mean; `relay` asks it.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{ClusterId, SaeId},
    material::ClearBytes,
    objects::ObjectState,
    provenance::{Grade, Provenance},
};

/// A copy of an object without its bytes, as one cluster tells it to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectCopy {
    /// Unique Identifier, the same at both.
    pub uid: String,
    /// The application whose it is where it comes from.
    pub from: SaeId,
    /// The application whose the copy will be. The two are a pair (clause 7.4).
    pub to: SaeId,
    /// State when it left.
    pub state: ObjectState,
    /// How the bytes came to where the copy comes from.
    pub provenance: Provenance,
    /// As in [`crate::objects::Object::attributes`].
    #[serde(with = "serde_bytes")]
    pub attributes: Vec<u8>,
}

/// A copy about to leave.
pub struct Leaving {
    /// What it is.
    pub copy: ObjectCopy,
    /// Its bytes.
    pub clear: Arc<ClearBytes>,
    /// The cluster it goes to.
    pub cluster: ClusterId,
    /// The least its way must claim, by policy of the pair.
    pub grade: Grade,
}

/// What became of a copy that got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placed {
    /// It is durable there.
    Stored,
    /// The application has that object already, with the same bytes.
    There,
}

/// Why an object was not copied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CopyError {
    /// No object of that name that may go to that application.
    #[error("{0}")]
    NotFound(String),
    /// It may not, and asking again does not help.
    #[error("{0}")]
    Refused(String),
    /// It cannot now. Whether the other end stored it may be unknown; asking again is safe.
    #[error("{0}; ask again")]
    Unavailable(String),
}

/// Gives and takes copies of objects.
#[async_trait]
pub trait Copies: Send + Sync {
    /// The object of that Unique Identifier, or else Name, of an application that is paired with `to`.
    async fn leaving(&self, name: &str, to: &SaeId) -> Result<Leaving, CopyError>;

    /// Makes a copy that came from `cluster` an object; durable on return.
    async fn arrived(
        &self,
        cluster: &ClusterId,
        copy: ObjectCopy,
        clear: ClearBytes,
    ) -> Result<Placed, CopyError>;
}
