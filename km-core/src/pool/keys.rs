//! Where a pool's records are in the store. Block numbers are big-endian, so keys are sequential.

use crate::{
    ids::{BlockId, PoolTag},
    run::RunId,
};

/// All sealed blocks of all pools.
pub(crate) const PAYLOAD: &[u8] = b"block/";
const STATE: &[u8] = b"state/";
const RUN: &[u8] = b"run/";
/// The accounts of all pools.
pub(super) const LEDGER: &[u8] = b"ledger/";
const HIGH: &[u8] = b"high/";
const PAD: &[u8] = b"pad/";
const PAST_BLOCK: &[u8] = b"past/block/";
const PAST_RUN: &[u8] = b"past/run/";
const BARRED: &[u8] = b"barred/";

fn join(prefix: &[u8], rest: &[u8]) -> Vec<u8> {
    [prefix, rest].concat()
}

fn of_pool(prefix: &[u8], tag: PoolTag) -> Vec<u8> {
    join(prefix, &tag.bits().to_be_bytes()[1..])
}

fn of_block(prefix: &[u8], pool: PoolTag, number: u64) -> Vec<u8> {
    join(prefix, &BlockId { pool, number }.sort_key())
}

/// The sealed bits of a block; changed only when they are sealed under a new KEK.
pub(crate) fn payload(tag: PoolTag, number: u64) -> Vec<u8> {
    of_block(PAYLOAD, tag, number)
}

/// The changing record of a block.
pub(super) fn state(tag: PoolTag, number: u64) -> Vec<u8> {
    of_block(STATE, tag, number)
}

/// All block states of a pool.
pub(super) fn states(tag: PoolTag) -> Vec<u8> {
    of_pool(STATE, tag)
}

/// The block number a [`state`] key names.
pub(super) fn number_in(key: &[u8]) -> Option<u64> {
    let tail: [u8; 8] = key.strip_prefix(STATE)?.try_into().ok()?;
    Some(u64::from_be_bytes(tail) & crate::ids::MAX_BLOCK_NUMBER)
}

/// The record of a run.
pub(super) fn run(id: RunId) -> Vec<u8> {
    join(&of_block(RUN, id.block.pool, id.block.number), &id.offset.to_be_bytes())
}

/// All runs of a pool.
pub(super) fn runs(tag: PoolTag) -> Vec<u8> {
    of_pool(RUN, tag)
}

/// What is remembered of a block.
pub(super) fn past_block(id: BlockId) -> Vec<u8> {
    of_block(PAST_BLOCK, id.pool, id.number)
}

/// All that is remembered of blocks of a pool.
pub(super) fn past_blocks(tag: PoolTag) -> Vec<u8> {
    of_pool(PAST_BLOCK, tag)
}

/// What is remembered of a run.
pub(super) fn past_run(id: RunId) -> Vec<u8> {
    join(&past_runs_of(id.block), &id.offset.to_be_bytes())
}

/// All that is remembered of runs of a block.
pub(super) fn past_runs_of(id: BlockId) -> Vec<u8> {
    of_block(PAST_RUN, id.pool, id.number)
}

/// All that is remembered of runs of a pool.
pub(super) fn past_runs(tag: PoolTag) -> Vec<u8> {
    of_pool(PAST_RUN, tag)
}

/// The record of a span for the relay.
pub(super) fn pad(id: RunId) -> Vec<u8> {
    join(&of_block(PAD, id.block.pool, id.block.number), &id.offset.to_be_bytes())
}

/// All spans of a pool.
pub(super) fn pads(tag: PoolTag) -> Vec<u8> {
    of_pool(PAD, tag)
}

/// The account.
pub(super) fn ledger(tag: PoolTag) -> Vec<u8> {
    of_pool(LEDGER, tag)
}

/// The pool a [`ledger`] key names.
pub(super) fn pool_in(key: &[u8]) -> Option<PoolTag> {
    let bits: [u8; 3] = key.strip_prefix(LEDGER)?.try_into().ok()?;
    Some(PoolTag::from_bits(u32::from_be_bytes([0, bits[0], bits[1], bits[2]])))
}

/// The highest block number ever used.
pub(super) fn high(tag: PoolTag) -> Vec<u8> {
    of_pool(HIGH, tag)
}

/// Certificates that the other end took out.
pub(super) fn barred(tag: PoolTag) -> Vec<u8> {
    of_pool(BARRED, tag)
}
