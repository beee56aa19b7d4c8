//! Keys that the module gave out for a `collect` that did not finish. A module gives a key once,
//! so without this a retry would never find the keys of the batches that had arrived.
//!
//! Invariants: bounded in bytes; each key leaves after [`HELD_TIME`] or for one `collect`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use km_core::material::ClearBytes;
use tokio::runtime::Handle;

use super::seen::Ident;

/// How long a retry may take to come.
const HELD_TIME: Duration = Duration::from_secs(60);
/// Most key bytes held.
const HELD_BYTES: usize = 4 << 20;
/// Most keys held; small keys cost more than their bytes.
const HELD_KEYS: usize = 65_536;

#[derive(Default)]
pub(super) struct Held(Mutex<HashMap<Ident, (ClearBytes, Instant)>>);

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<Ident, (ClearBytes, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Overwrites what no retry came for.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().retain(|_, (_, since)| now.saturating_duration_since(*since) < HELD_TIME);
    }

    fn put(&self, keys: HashMap<Ident, ClearBytes>, now: Instant) {
        let mut held = self.lock();
        let mut bytes: usize = held.values().map(|(key, _)| key.len()).sum();
        for (ident, key) in keys {
            bytes += key.len();
            if bytes > HELD_BYTES || held.len() >= HELD_KEYS {
                break;
            }
            held.insert(ident, (key, now));
        }
    }
}

/// The keys of one `collect` so far. What is left in it when dropped, by error or cancellation,
/// is held for the retry.
pub(super) struct Gathered {
    held: Arc<Held>,
    keys: HashMap<Ident, ClearBytes>,
}

impl Gathered {
    /// Starts with what an earlier try left.
    pub(super) fn resume(held: &Arc<Held>, idents: &[Ident]) -> Self {
        held.sweep(Instant::now());
        let mut all = held.lock();
        let keys = idents.iter().filter_map(|i| Some((*i, all.remove(i)?.0))).collect();
        drop(all);
        Self { held: held.clone(), keys }
    }

    pub(super) fn has(&self, ident: Ident) -> bool {
        self.keys.contains_key(&ident)
    }

    pub(super) fn add(&mut self, ident: Ident, key: ClearBytes) {
        self.keys.insert(ident, key);
    }

    pub(super) fn remove(&mut self, ident: Ident) -> Option<ClearBytes> {
        self.keys.remove(&ident)
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        self.held.put(std::mem::take(&mut self.keys), Instant::now());
        // Without a runtime the next `collect` or `rest` sweeps.
        if let Ok(runtime) = Handle::try_current() {
            let held = Arc::downgrade(&self.held);
            runtime.spawn(async move {
                tokio::time::sleep(HELD_TIME).await;
                if let Some(held) = held.upgrade() {
                    held.sweep(Instant::now());
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use etsi014::KeyName;

    use super::{super::seen::ident, *};

    fn id(text: &str) -> Ident {
        ident(&KeyName::parse(text).unwrap())
    }

    #[test]
    fn an_unfinished_collect_is_resumed_once() {
        let held = Arc::new(Held::default());
        let mut first = Gathered::resume(&held, &[id("a"), id("b")]);
        first.add(id("a"), ClearBytes::from_vec(vec![1]));
        drop(first);
        let mut second = Gathered::resume(&held, &[id("a"), id("b")]);
        assert!(second.has(id("a")) && !second.has(id("b")));
        assert!(second.remove(id("a")).is_some());
        drop(second);
        assert!(held.lock().is_empty());
    }

    #[test]
    fn held_keys_are_bounded_and_leave_in_time() {
        let (held, now) = (Held::default(), Instant::now());
        let keys = (0..10).map(|n| (id(&n.to_string()), ClearBytes::from_vec(vec![0; 1 << 20])));
        held.put(keys.collect(), now);
        assert_eq!(held.lock().len(), 4);
        held.sweep(now + HELD_TIME / 2);
        assert_eq!(held.lock().len(), 4);
        held.sweep(now + HELD_TIME);
        assert!(held.lock().is_empty());
    }
}
