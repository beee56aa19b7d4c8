//! Locks by name, for the two things that must happen once in this process although the store
//! checks only single records: taking a Name, and turning a pool key into an object.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

type Table = Arc<Mutex<HashMap<String, Arc<AsyncMutex<()>>>>>;

#[derive(Default)]
pub(crate) struct Locks(Table);

/// Holds names until dropped.
pub(crate) struct Held {
    guards: Vec<(String, Option<OwnedMutexGuard<()>>)>,
    table: Table,
}

impl Locks {
    /// Waits for all of `names`. They are taken in one order, so holders cannot block each other
    /// for ever.
    pub(crate) async fn hold(&self, mut names: Vec<String>) -> Held {
        names.sort();
        names.dedup();
        let mut held = Held { guards: Vec::with_capacity(names.len()), table: self.0.clone() };
        for name in names {
            let lock = {
                let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                table.entry(name.clone()).or_default().clone()
            };
            // Entered before the wait, so that a wait that is given up also cleans up.
            held.guards.push((name, None));
            let guard = lock.lock_owned().await;
            if let Some((_, place)) = held.guards.last_mut() {
                *place = Some(guard);
            }
        }
        held
    }
}

impl Held {
    /// Whether it holds `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.guards.iter().any(|(held, _)| held == name)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, guard) in self.guards.drain(..) {
            drop(guard);
            // Everyone who waits holds a clone of the lock, taken under the table's lock.
            if table.get(&name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
                table.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_held_once_and_forgotten_afterwards() {
        let locks = Arc::new(Locks::default());
        let first = locks.hold(vec!["b".into(), "a".into(), "a".into()]).await;
        let other = locks.clone();
        let second = tokio::spawn(async move { drop(other.hold(vec!["a".into()]).await) });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap();
        assert!(locks.0.lock().unwrap().is_empty());
    }
}
