//! Blocks of the pool under a new KEK.

use super::{Pool, PoolError, keys};
use crate::{
    block::SealedBlock,
    journal::{Change, Over},
};

impl Pool {
    /// Returns when whatever was sealed before the call and is to be stored is stored.
    ///
    /// # Errors
    /// It never will be.
    pub(crate) async fn drained(&self) -> Result<(), Over> {
        // Who holds the lock appends before it is free again.
        drop(self.tables());
        self.settled().await
    }

    /// Stores a block sealed anew, unless it was erased meanwhile; durable on return. Erasure and
    /// this are ordered by the one lock and the one journal, so an erased block never comes back.
    pub(crate) async fn put_resealed(&self, block: &SealedBlock) -> Result<bool, PoolError> {
        let number = block.header().id.number;
        let ticket = {
            let tables = self.tables();
            if tables.block(number).is_none() {
                return Ok(false);
            }
            let key = keys::payload(self.tag, number);
            let value = self.records.encode(&key, block);
            let records = vec![(key, Some(value))];
            self.journal.append(Change { records, ..Change::default() })
        };
        self.durable(ticket).await?;
        Ok(true)
    }
}
