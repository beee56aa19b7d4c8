//! What this end knows about one key, for operators. Enter through [`Pool::trace`]; no key bits.

use serde::Serialize;

use super::{DURABLE_DEADLINE, Pool, keys};
use crate::{
    block::{BlockHeader, Phase, SealedBlock},
    ids::{ClusterId, SaeId},
    key_id::{KeyId, Slice},
    records::RecordError,
    run::{RunId, RunSpec},
};

/// One key of a pool as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyTrace {
    /// The cluster at the other end of the pool.
    pub peer: ClusterId,
    /// Block number.
    pub block: u64,
    /// First byte in the block.
    pub offset: u16,
    /// Bytes.
    pub length: u16,
    /// Where it stands.
    pub state: KeyState,
    /// The applications it was assigned to, and what became of it; of runs that ended the last 4,096.
    pub run: Option<RunTrace>,
    /// The block's public metadata, while it is stored; of others the last 1,024.
    pub header: Option<BlockHeader>,
}

/// Where a key stands at this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// The pool never had this block.
    NeverHere,
    /// Its block is erased: everything in it was delivered or burned.
    Erased,
    /// Its block is stored but not usable: not confirmed by the other end, or held.
    NotUsable,
    /// Not assigned to anybody.
    Unassigned,
    /// In a run that this end hands out.
    Issuing,
    /// The other end may have handed it out; it waits here to be collected.
    Waiting,
    /// Delivered or burned here.
    Spent,
}

/// The run a key belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunTrace {
    /// The application at the owner's end.
    pub master: SaeId,
    /// Those that may collect it.
    pub slaves: Vec<SaeId>,
    /// Whether the master was given it, or it was burned; where this end handed the run out and it ended.
    pub handed_out: Option<bool>,
    /// Of these, those that did, where this end counts them.
    pub collected_by: Vec<SaeId>,
    /// Milliseconds since the Unix epoch when it is burned, where this end counts it.
    pub expires_ms: Option<u64>,
    /// Milliseconds since the Unix epoch when the run ended here.
    pub ended_ms: Option<u64>,
}

impl Pool {
    /// What is known about `id`, which must be of this pool.
    pub async fn trace(&self, id: KeyId) -> Result<KeyTrace, RecordError> {
        let slice = id.slice();
        let (state, mut run) = self.place(slice);
        // What ended just now may not be in the store yet.
        let _ = tokio::time::timeout(DURABLE_DEADLINE, self.settled()).await;
        if run.is_none() {
            run = self.past_run(slice).await?;
        }
        let number = slice.block.number;
        let block: Option<SealedBlock> = self.records.get(&keys::payload(self.tag, number)).await?;
        let header = match block {
            Some(block) => Some(block.header().clone()),
            None => self.past_header(number).await?,
        };
        Ok(KeyTrace {
            peer: self.config.peer.clone(),
            block: number,
            offset: slice.offset,
            length: slice.len,
            state,
            run,
            header,
        })
    }

    fn place(&self, slice: Slice) -> (KeyState, Option<RunTrace>) {
        let tables = self.tables();
        let number = slice.block.number;
        let Some(block) = tables.block(number) else {
            let never = number > tables.high;
            let state = if never { KeyState::NeverHere } else { KeyState::Erased };
            return (state, None);
        };
        if let Some((run, index)) = tables.find_collecting(slice) {
            let run = &tables.collecting[&run];
            let state = if run.spent(index) { KeyState::Spent } else { KeyState::Waiting };
            let slaves = run.spec.slaves.iter().zip(&run.collected);
            let collected = slaves.filter(|(_, by)| by.has(index)).map(|(sae, _)| sae.clone());
            let trace = RunTrace {
                collected_by: collected.collect(),
                expires_ms: Some(run.expires_ms),
                ..RunTrace::of(&run.spec)
            };
            return (state, Some(trace));
        }
        let at = RunId { block: slice.block, offset: slice.offset };
        let issuing = tables.issuing.range(..=at).next_back();
        if let Some((_, spec)) = issuing.filter(|(_, spec)| spec.index_of(slice).is_some()) {
            return (KeyState::Issuing, Some(RunTrace::of(spec)));
        }
        let state = match block.phase {
            Phase::Agreed | Phase::Held => KeyState::NotUsable,
            Phase::Stored if slice.offset >= block.cursor => KeyState::Unassigned,
            Phase::Stored => KeyState::Spent,
        };
        (state, None)
    }
}

impl RunTrace {
    pub(super) fn of(spec: &RunSpec) -> Self {
        Self {
            master: spec.master.clone(),
            slaves: spec.slaves.clone(),
            handed_out: None,
            collected_by: Vec::new(),
            expires_ms: None,
            ended_ms: None,
        }
    }
}
