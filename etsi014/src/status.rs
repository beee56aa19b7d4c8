//! The answer to "Get status" (clause 6.1).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::FormatError;

/// Stock and limits for one pair of SAEs. Sizes are in bits, counts in keys of `key_size`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The KME that answers.
    #[serde(rename = "source_KME_ID")]
    pub source_kme_id: String,
    /// The KME of the slave SAE.
    #[serde(rename = "target_KME_ID")]
    pub target_kme_id: String,
    /// The SAE that asks.
    #[serde(rename = "master_SAE_ID")]
    pub master_sae_id: String,
    /// The SAE named in the URL.
    #[serde(rename = "slave_SAE_ID")]
    pub slave_sae_id: String,
    /// Size of a key when none is asked for.
    pub key_size: u64,
    /// Keys there are now.
    pub stored_key_count: u64,
    /// Most keys there can be.
    pub max_key_count: u64,
    /// Most keys one request may ask for.
    pub max_key_per_request: u64,
    /// Largest key.
    pub max_key_size: u64,
    /// Smallest key.
    pub min_key_size: u64,
    /// Most additional slaves; 0: no multicast.
    #[serde(rename = "max_SAE_ID_count", default)]
    pub max_sae_id_count: u64,
    /// Anything a vendor adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_extension: Option<Map<String, Value>>,
}

impl Status {
    /// Reads an answer; the caller bounds its length.
    pub fn parse(json: &[u8]) -> Result<Self, FormatError> {
        serde_json::from_slice(json).map_err(|e| FormatError::quoting("status", &e))
    }

    /// The JSON text.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}
