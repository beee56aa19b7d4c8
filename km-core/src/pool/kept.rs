//! Blocks kept inside the token: compared with the records at the start, destroyed after them.
//!
//! An object is made before the commit that names it and destroyed after the commit that erases
//! its record. A crash in between leaves an object without a record, never a record without its
//! object; the next start removes it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Pool, keys, tables::Tables};
use crate::{
    block::SealedBlock,
    hsm::HsmError,
    ids::PoolTag,
    records::{RecordError, Records},
};

/// The names of the objects in the token that the records speak of, by block.
pub(super) async fn names(
    records: &Records,
    tag: PoolTag,
    tables: &Tables,
) -> Result<BTreeMap<u64, String>, RecordError> {
    let mut names = BTreeMap::new();
    for (number, _) in tables.blocks().iter().filter(|(_, state)| state.in_token) {
        let block: Option<SealedBlock> = records.get(&keys::payload(tag, *number)).await?;
        if let Some(name) = block.as_ref().and_then(|block| block.payload().object()) {
            names.insert(*number, name.to_owned());
        }
    }
    Ok(names)
}

impl Pool {
    /// Removes objects without a record, and holds blocks whose object is missing.
    pub(super) async fn compare_with_token(&self) {
        let found = match self.vault.kept_of(self.tag).await {
            Ok(found) => found,
            // No cabinet and nothing to look for: nothing is kept.
            Err(HsmError::Unsupported(_)) if self.tables().kept.is_empty() => return,
            Err(error) => {
                tracing::error!(%error, alarm = "token-objects",
                    "the objects in the token could not be compared with the records");
                return;
            }
        };
        let found: BTreeSet<String> = found.into_iter().collect();
        let kept = self.tables().kept.clone();
        for (number, name) in kept.iter().filter(|(_, name)| !found.contains(*name)) {
            tracing::error!(block = number, %name, alarm = "token-object-missing",
                "the token does not have the bits of a block any more; it is held");
            self.hold(*number);
        }
        let named: BTreeSet<&String> = kept.values().collect();
        for name in found.iter().filter(|name| !named.contains(name)) {
            tracing::info!(%name, "removing an object in the token that no record names");
            self.tables().doomed.push(name.clone());
        }
        self.destroy_erased().await;
    }

    /// Destroys the objects of erased blocks, once the erasure is durable. What fails is tried
    /// again by the next call; what never gets durable, by whoever opens the pool next. Call about once a second.
    pub async fn destroy_erased(&self) {
        let doomed = std::mem::take(&mut self.tables().doomed);
        if doomed.is_empty() {
            return;
        }
        if self.settled().await.is_err() {
            return;
        }
        for name in doomed {
            if let Err(error) = self.vault.discard(&name).await {
                tracing::warn!(%name, %error, "an object in the token is not destroyed yet");
                self.tables().doomed.push(name);
            }
        }
    }
}
