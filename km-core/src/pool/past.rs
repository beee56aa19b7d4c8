//! What became of keys and blocks lately, for operators: records beside the others of the pool, in the same
//! commits. No key bits. The oldest are retired, many at a time.

use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::{Pool, keys, tables::Tables, trace::RunTrace};
use crate::{
    block::BlockHeader,
    clock::now_ms,
    hsm::Custody,
    journal::Change,
    key_id::Slice,
    records::{self, RecordError},
    run::{Bitmap, RunSpec},
    store::{Commit, MAX_OPS, MAX_RANGE, Outcome},
};

/// Blocks and runs remembered, of those with the highest numbers; of others nothing is known any more.
const MOST_BLOCKS: usize = 1024;
const MOST_RUNS: usize = 4096;
/// Records beyond these before the oldest are removed.
const SLACK: usize = 512;

/// How many records there are, once they were counted.
#[derive(Clone, Copy, Default)]
pub(super) struct Remembered {
    blocks: Option<usize>,
    runs: Option<usize>,
}

/// Which of them.
type Which = fn(&mut Remembered) -> &mut Option<usize>;

/// The header of a block that came here, and what was added to it.
#[derive(Deserialize)]
struct Known(BlockHeader, #[serde(deserialize_with = "records::added")] Option<Custody>);

/// A run that ended here.
#[derive(Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) spec: RunSpec,
    /// At the end that handed its keys out: how many, where that is known.
    pub(super) handed_out: Option<u16>,
    /// At the other: which keys each slave collected.
    pub(super) collected: Vec<Bitmap>,
}

/// An [`Ended`] as stored.
#[derive(Serialize, Deserialize)]
struct Entry {
    ended: Ended,
    at_ms: u64,
}

impl Pool {
    /// A block comes.
    pub(super) fn remember_block(
        &self,
        tables: &mut Tables,
        header: &BlockHeader,
        change: &mut Change,
    ) {
        let key = keys::past_block(header.id);
        let value = match header.provenance.custody() {
            Some(custody) => self.records.encode(&key, &(header, custody)),
            None => self.records.encode(&key, header),
        };
        change.records.push((key, Some(value)));
        tables.past.blocks = tables.past.blocks.map(|count| count + 1);
    }

    /// A run ends.
    pub(super) fn remember_run(&self, tables: &mut Tables, ended: Ended, change: &mut Change) {
        let key = keys::past_run(ended.spec.id);
        let value = self.records.encode(&key, &Entry { ended, at_ms: now_ms() });
        change.records.push((key, Some(value)));
        tables.past.runs = tables.past.runs.map(|count| count + 1);
    }

    pub(super) async fn past_header(
        &self,
        number: u64,
    ) -> Result<Option<BlockHeader>, RecordError> {
        let id = crate::ids::BlockId { pool: self.tag, number };
        let known: Option<Known> = self.records.get(&keys::past_block(id)).await?;
        Ok(known.map(|Known(mut header, custody)| {
            header.provenance.tell_custody(custody);
            header
        }))
    }

    /// What became of the run a key was in.
    pub(super) async fn past_run(&self, slice: Slice) -> Result<Option<RunTrace>, RecordError> {
        let mut found = None;
        let of_block = keys::past_runs_of(slice.block);
        self.records
            .each(&of_block, |_, Entry { ended, at_ms }: Entry| {
                let Some(index) = ended.spec.index_of(slice) else { return };
                let slaves = ended.spec.slaves.iter().zip(&ended.collected);
                let collected =
                    slaves.filter(|(_, keys)| keys.has(index)).map(|(sae, _)| sae.clone());
                found = Some(RunTrace {
                    handed_out: ended.handed_out.map(|count| index < count),
                    collected_by: collected.collect(),
                    ended_ms: Some(at_ms),
                    ..RunTrace::of(&ended.spec)
                });
            })
            .await?;
        Ok(found)
    }

    /// Removes the oldest of what is remembered, where there is too much. Call about once a second.
    pub async fn retire_past(&self) {
        // One that takes longer than a second goes on alone.
        let Ok(_alone) = self.retiring.try_lock() else { return };
        let kinds: [(Which, Vec<u8>, usize); 2] = [
            (|past| &mut past.blocks, keys::past_blocks(self.tag), MOST_BLOCKS),
            (|past| &mut past.runs, keys::past_runs(self.tag), MOST_RUNS),
        ];
        for (which, prefix, most) in kinds {
            if let Err(error) = self.retire(which, &prefix, most).await {
                tracing::warn!(%error, "old traces of keys stay for now");
            }
        }
    }

    async fn retire(&self, which: Which, prefix: &[u8], most: usize) -> Result<(), RecordError> {
        let known = *which(&mut self.tables().past);
        let (count, slack) = match known {
            Some(count) => (count, SLACK),
            None => (self.count_of(prefix).await?, 1),
        };
        if known.is_none() {
            *which(&mut self.tables().past) = Some(count);
        }
        let mut excess = count.saturating_sub(most);
        if excess < slack {
            return Ok(());
        }
        let store = self.records.store();
        while excess > 0 {
            let oldest = store.range(prefix, Bound::Unbounded, excess.min(MAX_RANGE)).await?;
            let gone = oldest.len();
            for some in oldest.chunks(MAX_OPS) {
                let keys = some.iter().map(|record| record.key.clone());
                // Nobody else writes them, and nothing is checked.
                let outcome = store.commit(keys.fold(Commit::new(), Commit::delete)).await?;
                if !matches!(outcome, Outcome::Committed(_)) {
                    // Perhaps they are still there: the next time they are counted.
                    *which(&mut self.tables().past) = None;
                    return Ok(());
                }
            }
            let mut tables = self.tables();
            let count = which(&mut tables.past);
            *count = count.map(|count| count.saturating_sub(gone));
            excess = if gone == 0 { 0 } else { excess.saturating_sub(gone) };
        }
        Ok(())
    }

    async fn count_of(&self, prefix: &[u8]) -> Result<usize, RecordError> {
        let (mut count, mut after) = (0, Bound::Unbounded);
        loop {
            let page = self.records.store().range(prefix, after, MAX_RANGE).await?;
            let Some(last) = page.last() else { return Ok(count) };
            count += page.len();
            after = Bound::Excluded(last.key.clone());
        }
    }
}
