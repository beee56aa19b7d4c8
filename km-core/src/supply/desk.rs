//! The KM of a cluster that leads, as the others ask it for pool keys. Implemented in `cluster`.

use async_trait::async_trait;

use super::{Level, SupplyError};
use crate::{ids::SaeId, key_id::KeyId, pool::SuppliedKey};

/// Whoever leads. [`SupplyError::NotLed`]: nobody does, or another one by now, and nothing was done.
/// Any other error of a request that was sent may leave keys burned, never delivered twice.
#[async_trait]
pub trait Desk: Send + Sync + 'static {
    /// As [`super::Supply::issue`].
    async fn issue(
        &self,
        master: &SaeId,
        slaves: &[SaeId],
        size: u32,
        count: u32,
    ) -> Result<Vec<SuppliedKey>, SupplyError>;

    /// As [`super::Supply::collect`].
    async fn collect(
        &self,
        slave: &SaeId,
        master: Option<&SaeId>,
        ids: &[KeyId],
    ) -> Result<Vec<SuppliedKey>, SupplyError>;

    /// Makes the key an object of `owner` in the store, collected by `slave` and kept in one commit.
    async fn bring(&self, slave: &SaeId, owner: &SaeId, id: KeyId) -> Result<(), SupplyError>;

    /// As [`super::Supply::level`].
    async fn level(&self, master: &SaeId, slave: &SaeId) -> Result<Level, SupplyError>;
}
