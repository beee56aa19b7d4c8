//! The accounts of pools from their records alone.

use super::{keys, tables};
use crate::{
    block::BlockState,
    ids::PoolTag,
    ledger::{Ledger, bits},
    pad::PadRecord,
    records::{RecordError, Records},
    run::RunRecord,
};

/// The pools that have records, whatever the configuration names.
pub async fn pools_in(records: &Records) -> Result<Vec<PoolTag>, RecordError> {
    let mut tags = Vec::new();
    records.each(keys::LEDGER, |key, _: Ledger| tags.extend(keys::pool_in(key))).await?;
    Ok(tags)
}

/// How often an audit begins anew because the pool changed under it.
const AUDITS: usize = 50;

/// Recomputes the account of a pool from its records alone; for audits and tests. Every change of a pool
/// writes its account, so what was read while that stayed the same is of one moment. In a pool that
/// never rests the last reading counts.
pub async fn audit(records: &Records, tag: PoolTag) -> Result<(Ledger, u64), RecordError> {
    let key = keys::ledger(tag);
    let written = async || {
        let account = records.store().get(&key).await?;
        Ok::<_, RecordError>(account.map(|account| account.version))
    };
    let mut tries = 1;
    loop {
        let before = written().await?;
        let found = read_account(records, tag).await?;
        if tries == AUDITS || written().await? == before {
            return Ok(found);
        }
        tries += 1;
    }
}

async fn read_account(records: &Records, tag: PoolTag) -> Result<(Ledger, u64), RecordError> {
    let ledger = records.get(&keys::ledger(tag)).await?.unwrap_or_default();
    let mut stored = 0u64;
    records
        .each(&keys::states(tag), |_, state: BlockState| stored += bits(state.remaining()))
        .await?;
    records
        .each(&keys::runs(tag), |_, run: RunRecord| stored += bits(tables::outstanding(&run)))
        .await?;
    records
        .each(&keys::pads(tag), |_, pad: PadRecord| match pad {
            PadRecord::Lent(span) | PadRecord::Borrowed(span) => stored += bits(span.len),
            PadRecord::Through(_) => {}
        })
        .await?;
    Ok((ledger, stored))
}
