//! Who hears of changes. The writer never waits for a listener: one that falls behind is told
//! `Compacted` and let go.

use std::{collections::VecDeque, sync::Mutex};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::lock;
use crate::store::{Event, Record, StoreError, Version};

/// Most watchers at once.
const MAX_WATCHERS: usize = 1000;
/// Events one watcher may be behind; one more place is kept for `Compacted`.
const MAX_EVENTS: usize = 1024;
/// Bytes one watcher may be behind.
const MAX_BYTES: usize = 4 << 20;

/// All current watchers.
#[derive(Default)]
pub(super) struct Watchers(Mutex<Vec<Watcher>>);

struct Watcher {
    prefix: Vec<u8>,
    sender: Sender<Event>,
    // Sizes of the events not yet taken out, oldest first.
    waiting: VecDeque<usize>,
    bytes: usize,
}

/// One key's change: the new value, or `None` when it was deleted.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

impl Watchers {
    pub(super) fn add(&self, prefix: &[u8]) -> Result<Receiver<Event>, StoreError> {
        let mut all = lock(&self.0);
        all.retain(|watcher| !watcher.sender.is_closed());
        if all.len() >= MAX_WATCHERS {
            return Err(StoreError::TooLarge(format!("more than {MAX_WATCHERS} watchers")));
        }
        let (sender, receiver) = channel(MAX_EVENTS + 1);
        let waiting = VecDeque::new();
        all.push(Watcher { prefix: prefix.to_vec(), sender, waiting, bytes: 0 });
        Ok(receiver)
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// Tells every watcher about durable changes, in their order.
    pub(super) fn tell(&self, commits: &[(Version, Vec<Change>)]) {
        let mut all = lock(&self.0);
        if all.is_empty() {
            return;
        }
        for (version, changes) in commits {
            for change in changes {
                all.retain_mut(|watcher| {
                    !change.0.starts_with(&watcher.prefix) || watcher.send(change, *version)
                });
            }
        }
    }
}

impl Watcher {
    /// `false` when this watcher is to be forgotten.
    fn send(&mut self, (key, value): &Change, version: Version) -> bool {
        let behind = self.sender.max_capacity() - self.sender.capacity();
        while self.waiting.len() > behind {
            self.bytes -= self.waiting.pop_front().unwrap_or(0);
        }
        let size = key.len() + value.as_ref().map_or(0, Vec::len);
        if behind >= MAX_EVENTS || self.bytes + size > MAX_BYTES {
            // The place kept free; a receiver that is gone needs no word.
            let _ = self.sender.try_send(Event::Compacted);
            return false;
        }
        self.bytes += size;
        self.waiting.push_back(size);
        let event = match value {
            Some(value) => Event::Put(Record { key: key.clone(), value: value.clone(), version }),
            None => Event::Deleted(key.clone(), version),
        };
        self.sender.try_send(event).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(n: u64, size: usize) -> Vec<(Version, Vec<Change>)> {
        vec![(Version(n), vec![(b"k".to_vec(), Some(vec![0; size]))])]
    }

    #[test]
    fn a_slow_watcher_is_told_compacted_last() {
        let watchers = Watchers::default();
        let mut slow = watchers.add(b"k").unwrap();
        for n in 0..2 * MAX_EVENTS as u64 {
            watchers.tell(&put(n, 1));
        }
        for _ in 0..MAX_EVENTS {
            assert!(matches!(slow.try_recv(), Ok(Event::Put(_))));
        }
        assert_eq!(slow.try_recv(), Ok(Event::Compacted));
        assert!(slow.try_recv().is_err());
        assert!(lock(&watchers.0).is_empty());
    }

    #[test]
    fn memory_behind_a_watcher_is_bounded_in_bytes() {
        let watchers = Watchers::default();
        let mut slow = watchers.add(b"").unwrap();
        for n in 0..10 {
            watchers.tell(&put(n, 1 << 20));
        }
        let mut events = 0;
        while let Ok(Event::Put(_)) = slow.try_recv() {
            events += 1;
        }
        assert_eq!(events, 3);
    }

    #[test]
    fn a_watcher_that_keeps_up_is_never_compacted() {
        let watchers = Watchers::default();
        let mut quick = watchers.add(b"k").unwrap();
        for n in 0..20 {
            watchers.tell(&put(n, 1 << 20));
            assert!(matches!(quick.try_recv(), Ok(Event::Put(r)) if r.version == Version(n)));
        }
    }
}
