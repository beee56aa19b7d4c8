//! The end of an epoch in a store that several KMs share. Enter through [`Keeper::begin_term`] and
//! [`Pin::guard`].
//!
//! What others sealed and did not store yet is not known. So an epoch that retired is *closed*: every
//! commit of something sealed under it requires that a certain record is absent, and that record is
//! written. From then on nothing sealed under it is ever stored, by whomever and however long that KM
//! stood still; a look through the store that begins afterwards and finds nothing proves it empty.
//!
//! Blocks are stored by the KM that leads alone, under its [`Fence`] and after it saw, at the beginning of
//! its term, which epochs retired. So only the KM that leads closes, under the same fence, and its own pins
//! tell about the blocks in its hands.

use std::{collections::BTreeSet, time::Duration};

use super::{EpochError, Epochs, Keeper, Pin, locked, sharing::SETTLED};
use crate::{
    clock::now_ms,
    journal::Fence,
    records::RecordError,
    store::{Check, Commit, Outcome},
};

const CLOSED: &[u8] = b"share/closed/";

fn closed_key(number: u64) -> Vec<u8> {
    [CLOSED, &number.to_be_bytes()].concat()
}

impl Pin {
    /// The record that must be absent where what it pins is stored.
    fn closing(&self) -> Option<Vec<u8>> {
        let held = self.held.as_ref().filter(|held| held.shared);
        held.map(|held| closed_key(held.number))
    }

    /// Stores what it pins only while its epoch is not closed.
    pub(crate) fn guard(&self, mut commit: Commit) -> Commit {
        let check = self.closing().map(Check::Absent);
        commit.checks.extend(check.filter(|check| !commit.checks.contains(check)));
        commit
    }
}

impl Epochs {
    /// Whether the epoch of a pin was closed. Then this KM was slow, and follows now.
    pub(crate) async fn is_closed(&self, pin: &Pin) -> Result<bool, EpochError> {
        let Some(key) = pin.closing() else { return Ok(false) };
        if self.records.store().get(&key).await.map_err(RecordError::from)?.is_none() {
            return Ok(false);
        }
        self.receive().await?;
        self.refresh().await?;
        Ok(true)
    }

    /// Whether a retiring epoch is closed now, and the KM of `fence` leads.
    async fn close(&self, number: u64, fence: &Fence) -> Result<bool, EpochError> {
        let (store, key) = (self.records.store(), closed_key(number));
        let commit = Commit::new().unchanged(fence.key.clone(), fence.version);
        let known = store.get(&key).await.map_err(RecordError::from)?;
        let commit = match &known {
            Some(known) => commit.unchanged(key, known.version),
            None => {
                let value = self.records.encode(&key, &());
                commit.absent(key.clone()).put(key, value)
            }
        };
        let outcome = store.commit(commit).await.map_err(RecordError::from)?;
        let closed = matches!(outcome, Outcome::Committed(_));
        if closed && known.is_none() {
            tracing::info!(
                epoch = number,
                "nothing sealed under this KEK epoch is stored any more"
            );
        }
        Ok(closed)
    }
}

impl Keeper {
    /// The KM of this keeper leads under `fence` from now on. Call it before its pools are opened.
    ///
    /// # Errors
    /// Those of token and store: then it cannot lead.
    pub async fn begin_term(&self, fence: Fence) -> Result<(), EpochError> {
        self.epochs.receive().await?;
        self.epochs.refresh().await?;
        *locked(&self.lead) = Some(fence);
        Ok(())
    }

    /// It leads no more.
    pub fn end_term(&self) {
        *locked(&self.lead) = None;
    }

    /// Whether it is the one to destroy epochs.
    pub(super) fn may_destroy(&self) -> bool {
        self.shared.is_none() || locked(&self.lead).is_some()
    }

    /// Which of `retiring` may still be stored under, as far as is known here: none of a KM with a store of
    /// its own. Closes those that retired long enough ago for the others to have followed.
    pub(super) async fn still_open(
        &self,
        retiring: impl Iterator<Item = u64>,
    ) -> Result<BTreeSet<u64>, EpochError> {
        let Some(again) = self.shared else { return Ok(BTreeSet::new()) };
        let mut open: BTreeSet<u64> = retiring.collect();
        let Some(fence) = locked(&self.lead).clone() else { return Ok(open) };
        let (active, _) = self.epochs.row(self.epochs.active().number)?;
        let age = Duration::from_millis(now_ms().saturating_sub(active.made_ms));
        if age < SETTLED.min(again) {
            return Ok(open);
        }
        for number in open.clone() {
            if self.epochs.close(number, &fence).await? {
                open.remove(&number);
            }
        }
        Ok(open)
    }
}
