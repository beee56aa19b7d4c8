//! KMs that the cluster at the other end took out: who shows one of these certificates is not the peer any
//! more, whatever else the certificate says.

use std::{
    collections::BTreeSet,
    sync::{MutexGuard, PoisonError},
};

use super::{Pool, keys};
use crate::{journal::Change, peer::Fingerprint};

/// Certificates of one peer's KMs, at most.
const MOST: usize = 4096;

impl Pool {
    /// The peer took the KMs with these certificates out. They stay out: one that comes back has another.
    /// Durable soon.
    pub fn bar(&self, certificates: &[Fingerprint]) {
        let mut barred = self.barred();
        let before = barred.len();
        barred.extend(certificates);
        if barred.len() == before {
            return;
        }
        let peer = &self.config.peer;
        if barred.len() > MOST {
            tracing::error!(%peer, alarm = "too-many-revoked", "the peer took out more than {MOST}");
            while barred.len() > MOST {
                barred.pop_last();
            }
        }
        tracing::warn!(%peer, certificates = barred.len(), "the peer took key managers out");
        let key = keys::barred(self.tag);
        let value = self.records.encode(&key, &*barred);
        // Under the lock of what it tells.
        self.journal.append(Change { records: vec![(key, Some(value))], ..Change::default() });
    }

    /// Whether whoever shows this certificate was taken out by its cluster.
    pub fn is_barred(&self, certificate: &Fingerprint) -> bool {
        self.barred().contains(certificate)
    }

    fn barred(&self) -> MutexGuard<'_, BTreeSet<Fingerprint>> {
        self.barred.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
