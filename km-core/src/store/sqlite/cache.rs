//! Records read lately, so that a busy object costs no read of the file. Enter through
//! [`Cache::get`] and [`Cache::fill`].
//!
//! Invariant: what is in here equals what the file shows. Before a transaction is ended its keys
//! are dropped and nothing is taken in until it has ended; what was read before then is refused,
//! for it may be older.

use std::{num::NonZeroUsize, sync::Mutex};

use lru::LruCache;

use super::lock;
use crate::store::Record;

/// Largest record kept, in bytes; blocks are larger and read once.
const LARGEST: usize = 8 << 10;
/// Most bytes kept in all.
const ROOM: usize = 16 << 20;
/// Most records kept.
const COUNT: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

pub(super) struct Cache(Mutex<Inner>);

struct Inner {
    records: LruCache<Vec<u8>, Record>,
    bytes: usize,
    /// Transactions begun to end so far.
    transactions: u64,
    ending: bool,
}

/// Taken before a read; the record read is kept only if no transaction ended since.
#[derive(Clone, Copy)]
pub(super) struct Ticket(u64);

impl Cache {
    pub(super) fn new() -> Self {
        let records = LruCache::new(COUNT);
        Self(Mutex::new(Inner { records, bytes: 0, transactions: 0, ending: false }))
    }

    /// The record if it is here, or the ticket for reading it.
    pub(super) fn get(&self, key: &[u8]) -> Result<Record, Ticket> {
        let mut inner = lock(&self.0);
        let ticket = Ticket(inner.transactions);
        inner.records.get(key).cloned().ok_or(ticket)
    }

    /// Keeps a record that was read after `ticket` was given.
    pub(super) fn fill(&self, ticket: Ticket, record: &Record) {
        let size = size(record);
        let mut inner = lock(&self.0);
        if size > LARGEST || inner.ending || inner.transactions != ticket.0 {
            return;
        }
        let old = inner.records.push(record.key.clone(), record.clone());
        inner.bytes += size;
        inner.bytes -= old.map_or(0, |(_, old)| self::size(&old));
        while inner.bytes > ROOM
            && let Some((_, least)) = inner.records.pop_lru()
        {
            inner.bytes -= self::size(&least);
        }
    }

    /// A transaction that changes `keys` is about to end.
    pub(super) fn ending<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        let mut inner = lock(&self.0);
        inner.ending = true;
        inner.transactions += 1;
        for key in keys {
            if let Some(old) = inner.records.pop(key) {
                inner.bytes -= size(&old);
            }
        }
    }

    /// It has ended, one way or the other.
    pub(super) fn ended(&self) {
        let mut inner = lock(&self.0);
        inner.ending = false;
        inner.transactions += 1;
    }
}

fn size(record: &Record) -> usize {
    record.key.len() + record.value.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Version;

    fn record(key: &[u8], value: &[u8]) -> Record {
        Record { key: key.to_vec(), value: value.to_vec(), version: Version(1) }
    }

    fn ticket(cache: &Cache, key: &[u8]) -> Ticket {
        match cache.get(key) {
            Ok(_) => panic!("it is there already"),
            Err(ticket) => ticket,
        }
    }

    #[test]
    fn what_was_read_before_a_commit_ended_is_not_kept() {
        let cache = Cache::new();
        let before = ticket(&cache, b"k");
        cache.ending([b"k".as_slice()].into_iter());
        let during = ticket(&cache, b"k");
        cache.fill(during, &record(b"k", b"old"));
        assert!(cache.get(b"k").is_err(), "the commit has not ended");
        cache.ended();
        cache.fill(before, &record(b"k", b"old"));
        cache.fill(during, &record(b"k", b"old"));
        assert!(cache.get(b"k").is_err(), "it may be older than the commit");
        let after = ticket(&cache, b"k");
        cache.fill(after, &record(b"k", b"new"));
        assert_eq!(cache.get(b"k").ok(), Some(record(b"k", b"new")));
    }

    #[test]
    fn a_commit_drops_its_keys_alone_and_room_is_bounded() {
        let cache = Cache::new();
        for key in [b"a", b"b"] {
            cache.fill(ticket(&cache, key), &record(key, b"v"));
        }
        cache.ending([b"a".as_slice()].into_iter());
        cache.ended();
        assert!(cache.get(b"a").is_err());
        assert!(cache.get(b"b").is_ok());
        let large = vec![0; LARGEST];
        cache.fill(ticket(&cache, b"large"), &record(b"large", &large));
        assert!(cache.get(b"large").is_err());
        for n in 0..40_000u32 {
            let key = n.to_be_bytes();
            cache.fill(ticket(&cache, &key), &record(&key, &large[..2048]));
        }
        let inner = lock(&cache.0);
        let counted: usize = inner.records.iter().map(|(_, r)| size(r)).sum();
        assert_eq!(inner.bytes, counted);
        assert!(counted <= ROOM);
    }
}
