//! The leader's side of key acquisition: takes keys from the module while there is room, and
//! puts them together into blocks (resizing, clause 6.1.1a).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use km_core::{
    module::{MAX_MODULE_ID, ModuleError, ModuleKey, ModuleSource},
    pool::Pool,
};
use tokio::sync::mpsc;

use crate::agreement::{MAX_KEYS, MAX_RAW, MIN_RAW};

/// A block is proposed short of its full size when the module was this slow to fill it.
const FLUSH_AFTER: Duration = Duration::from_secs(2);
/// A block proposed short carries at least this many bytes, so that the tag keys stay a small
/// part; below it the module's keys wait.
const MIN_SHORT: usize = 1024;
const EMPTY_PAUSE: Duration = Duration::from_millis(100);
const FAULT_PAUSE: Duration = Duration::from_millis(500);
const FULL_PAUSE: Duration = Duration::from_millis(250);

/// Takes keys until the receiver is gone; each message is the keys of one block.
pub(crate) async fn run(
    source: Arc<dyn ModuleSource>,
    pool: Arc<Pool>,
    blocks: mpsc::Sender<Vec<ModuleKey>>,
) {
    let mut assembly = Assembly::default();
    loop {
        if !pool.has_room() {
            source.rest().await;
            tokio::time::sleep(FULL_PAUSE).await;
            continue;
        }
        let Ok(place) = blocks.reserve().await else { return };
        match assembly.wanted() {
            0 => {}
            wanted => match source.take(wanted).await {
                Ok(keys) => assembly.extend(keys),
                Err(ModuleError::Empty) => tokio::time::sleep(EMPTY_PAUSE).await,
                Err(error) => {
                    tracing::warn!(%error, "no keys from the QKD module");
                    tokio::time::sleep(FAULT_PAUSE).await;
                }
            },
        }
        if let Some(block) = assembly.ready(Instant::now()) {
            place.send(block);
        }
    }
}

/// Keys on their way to become blocks.
#[derive(Default)]
struct Assembly {
    keys: std::collections::VecDeque<ModuleKey>,
    bytes: usize,
    since: Option<Instant>,
}

impl Assembly {
    /// Bytes that still fit a block; a module may have given more than it was asked for.
    fn wanted(&self) -> usize {
        MAX_RAW.saturating_sub(self.bytes)
    }

    fn extend(&mut self, keys: Vec<ModuleKey>) {
        for key in keys {
            let len = key.bytes.len();
            if !(1..=MAX_MODULE_ID).contains(&key.id.len()) {
                tracing::warn!(
                    bytes = key.id.len(),
                    "a module key with an unusable ID was dropped"
                );
                continue;
            }
            if len == 0 || len > usize::from(u16::MAX) || len > MAX_RAW {
                tracing::warn!(bytes = len, "a module key of unusable size was dropped");
                continue;
            }
            self.since.get_or_insert_with(Instant::now);
            self.bytes += len;
            self.keys.push_back(key);
        }
    }

    /// The keys of one block when it is full, or old and not too small.
    fn ready(&mut self, now: Instant) -> Option<Vec<ModuleKey>> {
        let (mut count, mut bytes) = (0, 0);
        // What was relayed together becomes a block of its own, at once.
        let alone = |key: &ModuleKey| key.came.as_ref().is_some_and(|came| !came.path.is_empty());
        if self.keys.front().is_some_and(alone) {
            let key = self.keys.pop_front()?;
            self.bytes -= key.bytes.len();
            return (key.bytes.len() >= MIN_RAW).then(|| vec![key]);
        }
        let came = self.keys.front()?.came.clone();
        let mut others = false;
        for key in &self.keys {
            others = key.came != came;
            if others || count == MAX_KEYS || bytes + key.bytes.len() > MAX_RAW {
                break;
            }
            count += 1;
            bytes += key.bytes.len();
        }
        if others && bytes < MIN_RAW {
            tracing::warn!(bytes, "the last keys of a QKD link are too few for a block; dropped");
            self.bytes -= bytes;
            self.keys.drain(..count);
            return None;
        }
        let next_fits = self.keys.front().is_some_and(|key| bytes + key.bytes.len() <= MAX_RAW);
        let full = count < self.keys.len() || count == MAX_KEYS || !next_fits;
        let old = self.since.is_some_and(|since| now.duration_since(since) >= FLUSH_AFTER);
        let enough = bytes >= MIN_RAW && (full || (old && bytes >= MIN_SHORT));
        if !enough {
            return None;
        }
        self.bytes -= bytes;
        self.since = (count < self.keys.len()).then_some(now);
        Some(self.keys.drain(..count).collect())
    }
}

#[cfg(test)]
mod tests {
    use km_core::{ids::LinkId, material::ClearBytes, provenance::Provenance};

    use super::*;

    fn keys(count: usize, len: usize) -> Vec<ModuleKey> {
        let key = |i| ModuleKey {
            id: format!("k{i}"),
            bytes: ClearBytes::from_vec(vec![1; len]),
            came: None,
        };
        (0..count).map(key).collect()
    }

    #[test]
    fn a_full_block_goes_at_once_and_the_rest_waits() {
        let mut assembly = Assembly::default();
        assembly.extend(keys(2100, 32));
        let block = assembly.ready(Instant::now()).unwrap();
        assert_eq!(block.len() * 32, MAX_RAW - MAX_RAW % 32);
        assert!(assembly.ready(Instant::now()).is_none());
        assert_eq!(assembly.bytes, 2100 * 32 - block.len() * 32);
    }

    #[test]
    fn no_block_has_keys_of_two_links() {
        let of = |link: &str, count| {
            let came = Provenance::direct(LinkId::parse(link).unwrap());
            keys(count, 32)
                .into_iter()
                .map(move |key| ModuleKey { came: Some(came.clone()), ..key })
        };
        let mut assembly = Assembly::default();
        assembly.extend(of("one", 40).chain(of("two", 1)).chain(of("one", 3)).collect());
        assert_eq!(assembly.ready(Instant::now()).map(|block| block.len()), Some(40));
        assert!(assembly.ready(Instant::now()).is_none(), "one key is no block, and is dropped");
        assert_eq!((assembly.keys.len(), assembly.bytes), (3, 96));
    }

    #[test]
    fn a_slow_module_still_fills_short_blocks() {
        let mut assembly = Assembly::default();
        assembly.extend(keys(40, 32));
        assert!(assembly.ready(Instant::now()).is_none());
        let later = Instant::now() + FLUSH_AFTER;
        assert_eq!(assembly.ready(later).unwrap().len(), 40);
    }

    #[test]
    fn a_module_may_give_more_than_it_was_asked_for() {
        let mut assembly = Assembly::default();
        assembly.extend(keys(3 * MAX_RAW / 32, 32));
        for left in [2, 1, 0] {
            assert_eq!(assembly.wanted(), 0);
            assert_eq!(assembly.ready(Instant::now()).unwrap().len(), MAX_RAW / 32);
            assert_eq!(assembly.bytes, left * MAX_RAW);
        }
        assert_eq!(assembly.wanted(), MAX_RAW);
    }

    #[test]
    fn an_id_that_does_not_fit_a_frame_is_dropped() {
        let mut assembly = Assembly::default();
        for id in [String::new(), "x".repeat(MAX_MODULE_ID + 1)] {
            assembly.extend(vec![ModuleKey { id, ..keys(1, 32).remove(0) }]);
        }
        assert_eq!(assembly.bytes, 0);
    }

    #[test]
    fn keys_as_large_as_a_block_pass_one_by_one() {
        let mut assembly = Assembly::default();
        assembly.extend(keys(2, 65_535));
        assert_eq!(assembly.ready(Instant::now()).unwrap().len(), 1);
    }
}
