//! What became of keys and blocks lately, for operators: in memory, since this KM opened the pool. No key
//! bits.

use std::collections::VecDeque;

use super::trace::RunTrace;
use crate::{
    block::BlockHeader,
    key_id::Slice,
    run::{Bitmap, RunSpec},
};

/// Blocks and runs remembered; of the oldest nothing is known any more.
const MOST_BLOCKS: usize = 1024;
const MOST_RUNS: usize = 4096;

#[derive(Default)]
pub(super) struct Past {
    blocks: VecDeque<BlockHeader>,
    runs: VecDeque<Ended>,
}

/// A run that ended here.
struct Ended {
    spec: RunSpec,
    /// At the end that handed its keys out: how many.
    handed_out: Option<u16>,
    /// At the other: which keys each slave collected.
    collected: Vec<Bitmap>,
    at_ms: u64,
}

impl Past {
    /// A block came.
    pub(super) fn block(&mut self, header: BlockHeader) {
        keep(&mut self.blocks, header, MOST_BLOCKS);
    }

    /// A run ended at the end that handed out so many of its keys.
    pub(super) fn handed_out(&mut self, spec: &RunSpec, count: u16, at_ms: u64) {
        let (spec, handed_out) = (spec.clone(), Some(count));
        let ended = Ended { spec, handed_out, collected: Vec::new(), at_ms };
        keep(&mut self.runs, ended, MOST_RUNS);
    }

    /// A run ended at the end whose applications collect.
    pub(super) fn collected(&mut self, spec: RunSpec, collected: Vec<Bitmap>, at_ms: u64) {
        keep(&mut self.runs, Ended { spec, handed_out: None, collected, at_ms }, MOST_RUNS);
    }

    pub(super) fn header(&self, number: u64) -> Option<&BlockHeader> {
        self.blocks.iter().rev().find(|header| header.id.number == number)
    }

    pub(super) fn run(&self, slice: Slice) -> Option<RunTrace> {
        let mut latest = self.runs.iter().rev();
        let (ended, index) = latest.find_map(|ended| Some((ended, ended.spec.index_of(slice)?)))?;
        let slaves = ended.spec.slaves.iter().zip(&ended.collected);
        let collected = slaves.filter(|(_, keys)| keys.has(index)).map(|(sae, _)| sae.clone());
        Some(RunTrace {
            handed_out: ended.handed_out.map(|count| index < count),
            collected_by: collected.collect(),
            ended_ms: Some(ended.at_ms),
            ..RunTrace::of(&ended.spec)
        })
    }
}

fn keep<T>(all: &mut VecDeque<T>, new: T, most: usize) {
    if all.len() >= most {
        all.pop_front();
    }
    all.push_back(new);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{BlockId, PoolTag, SaeId},
        run::RunId,
    };

    #[test]
    fn of_many_runs_the_last_are_known() {
        let run = |number: u64| {
            let block = BlockId { pool: PoolTag::from_bits(1), number };
            let (master, slave) = (SaeId::parse("m").unwrap(), SaeId::parse("s").unwrap());
            let id = RunId { block, offset: 64 };
            RunSpec { id, key_len: 32, count: 2, master, slaves: vec![slave] }
        };
        let mut past = Past::default();
        let all = MOST_RUNS as u64 + 10;
        (0..all).for_each(|number| past.handed_out(&run(number), 1, number));
        assert_eq!(past.run(run(9).slice(0)), None);
        let known = |number: u64, index| past.run(run(number).slice(index)).unwrap();
        assert_eq!((known(10, 0).handed_out, known(10, 0).ended_ms), (Some(true), Some(10)));
        assert_eq!(known(all - 1, 1).handed_out, Some(false), "it was burned");
    }
}
