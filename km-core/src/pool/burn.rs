//! Giving up all that is stored: of an older copy of the store nobody knows what was handed out since.

use super::{Pool, keys};
use crate::{
    block::BlockState, journal::Change, ledger::bits, pad::PadSpan, records::RecordError,
    run::RunId,
};

impl Pool {
    /// Burns every block, run and span, durably on return; how many bits that were. For a pool that is
    /// connected to no peer: the other end learns of it from the greeting.
    ///
    /// # Errors
    /// Another KM took the lead; nothing may be burned then.
    pub async fn burn_all(&self) -> Result<u64, RecordError> {
        let before = self.journal.account().burned;
        {
            let mut tables = self.tables();
            let runs: Vec<RunId> = tables.collecting.keys().copied().collect();
            for id in runs {
                self.limit_run(&mut tables, id, 0);
            }
            let spans: Vec<PadSpan> = tables.borrowed.values().copied().collect();
            for span in spans {
                tables.borrowed.remove(&span.id);
                let mut change = Change::default();
                change.ledger.burned += bits(span.len);
                change.records.push((keys::pad(span.id), None));
                self.erase_if_finished(&mut tables, span.id.block.number, &mut change);
                self.journal.append(change);
            }
            let blocks: Vec<(u64, BlockState)> =
                tables.blocks().iter().map(|(number, state)| (*number, state.clone())).collect();
            for (number, state) in blocks {
                let mut change = Change::default();
                self.burn_rest(&mut tables, number, state, &mut change);
                self.journal.append(change);
            }
        }
        self.all_durable().await?;
        Ok(self.journal.account().burned - before)
    }
}
