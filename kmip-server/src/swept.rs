//! What waits in memory for somebody to come, and is forgotten when nobody does: it may be secret. Enter
//! through [`Swept`].

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Things that wait.
pub(crate) trait Waiting: Default + Send + 'static {
    /// Forgets those that waited too long.
    fn drop_late(&mut self);

    fn is_empty(&self) -> bool;
}

#[derive(Default)]
pub(crate) struct Inner<T> {
    things: T,
    /// A task looks after them.
    pub(crate) swept: bool,
}

/// Things that wait, and are looked after also when nobody comes any more.
pub(crate) struct Swept<T>(pub(crate) Arc<Mutex<Inner<T>>>);

impl<T: Waiting> Default for Swept<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Swept<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Inner<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.things
    }
}

impl<T> DerefMut for Inner<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.things
    }
}

impl<T: Waiting> Swept<T> {
    /// Without what waited too long.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.drop_late();
        inner
    }

    /// Looks `every` so often from now on, as long as anything is there.
    pub(crate) fn sweep(&self, every: Duration) {
        if std::mem::replace(&mut self.lock().swept, true) {
            return;
        }
        let all = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let mut inner = all.lock();
                if inner.is_empty() {
                    inner.swept = false;
                    return;
                }
            }
        });
    }
}
