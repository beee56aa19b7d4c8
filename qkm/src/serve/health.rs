//! Whether this key manager is ready: HSM logged in, store open. Enter through [`watch`].

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use km_core::{hsm::Hsm, store::Store};
use transport::Shutdown;

use super::Node;

/// How often token and store are tried while nobody uses them.
const EVERY: Duration = Duration::from_secs(5);
/// Longest wait for the store's answer.
const STORE_WAIT: Duration = Duration::from_secs(3);
/// Any key does; it need not exist.
const PROBE_KEY: &[u8] = b"meta/record-key";

/// What the probes found last.
#[derive(Debug, Default)]
pub(crate) struct Health {
    started: AtomicBool,
    stopping: AtomicBool,
    store: Mutex<Option<String>>,
}

impl Health {
    pub(super) fn started(&self) {
        self.started.store(true, Relaxed);
    }

    pub(super) fn stopping(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Whether the store answered when it was last asked.
    pub(crate) fn store_ready(&self) -> bool {
        self.store_trouble().is_none()
    }

    fn store_trouble(&self) -> Option<String> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why it is not ready; empty when it is.
    pub(crate) fn reasons(&self, hsm: &dyn Hsm) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.started.load(Relaxed) {
            reasons.push("starting".to_owned());
        }
        if self.stopping.load(Relaxed) {
            reasons.push("stopping".to_owned());
        }
        let token = hsm.status();
        if !token.ready {
            reasons.push(format!("HSM token {:?}: {}", token.token, token.detail));
        }
        reasons.extend(self.store_trouble().map(|trouble| format!("store: {trouble}")));
        reasons
    }
}

/// Tries token and store at intervals until `shutdown`.
pub(super) async fn watch(health: Arc<Health>, node: Arc<Node>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.requested() => return,
        }
        node.hsm().probe().await;
        let asked = tokio::time::timeout(STORE_WAIT, node.store.get(PROBE_KEY)).await;
        let trouble = match asked {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {STORE_WAIT:?}")),
        };
        *health.store.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}
