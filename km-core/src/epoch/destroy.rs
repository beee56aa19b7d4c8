//! The end of an epoch: two operators approve, then its KEK is destroyed in the token. Of several KMs one decides,
//! and the others follow in their tokens.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Approval, Epoch, EpochError, EpochState, EpochStep, Epochs, Keeper, locked, receivers::forget,
};
use crate::{
    audit::{self, Deed},
    clock::now_ms,
    hsm::{HsmError, KekId, KekInfo},
};

/// How far the destruction of an epoch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destruction {
    /// A second operator must approve before `until_ms` (milliseconds since the Unix epoch).
    Approved {
        /// Who did.
        by: Approval,
        /// When the approval is void.
        until_ms: u64,
    },
    /// Both approved and the KEK is gone.
    Done(Epoch),
}

impl Keeper {
    /// One operator approves that the KEK of epoch `number` is destroyed; `operator` is who the
    /// certificate says. The second one's approval within the window destroys it, after the whole
    /// store was looked through once more.
    ///
    /// Run it in a task of its own: dropped half-way, the rest is done at the next start.
    ///
    /// # Errors
    /// When it is not retiring, not empty, or `operator` approved before; and those of token and
    /// store.
    pub async fn destroy(&self, number: u64, operator: &str) -> Result<Destruction, EpochError> {
        if self.epochs.row(number)?.0.state == EpochState::Destroying {
            return self.epochs.finish(number).await;
        }
        if !self.may_destroy() {
            return Err(EpochError::NotLeading);
        }
        self.epochs.may_be_decided(number)?;
        // Outside the lock: it may take a while, and what it finds stays true.
        locked(&self.epochs.seen).remove(&number);
        self.pass().await?;
        self.epochs.approve(number, operator).await
    }
}

impl Epochs {
    /// How long an approval waits.
    pub(super) fn waits(&self, approval: &Approval, now: u64) -> bool {
        now < approval.at_ms.saturating_add(self.policy.approval_window.as_millis() as u64)
    }

    fn may_be_decided(&self, number: u64) -> Result<Epoch, EpochError> {
        let (epoch, _) = self.row(number)?;
        epoch.state.after(EpochStep::Decide)?;
        Ok(epoch)
    }

    async fn approve(&self, number: u64, operator: &str) -> Result<Destruction, EpochError> {
        let _changing = self.changing.lock().await;
        let mut epoch = self.may_be_decided(number)?;
        let seen = locked(&self.seen).get(&number).copied();
        if !seen.is_some_and(|seen| seen.empty) {
            return Err(EpochError::NotEmpty { number, left: seen.map(|seen| seen.left) });
        }
        let now = now_ms();
        epoch.approvals.retain(|approval| self.waits(approval, now));
        if epoch.approvals.iter().any(|approval| approval.operator == operator) {
            return Err(EpochError::SameOperator { operator: operator.to_owned() });
        }
        let approval = Approval { operator: operator.to_owned(), at_ms: now };
        epoch.approvals.push(approval.clone());
        if epoch.approvals.len() < 2 {
            let deed = Deed::EpochDestructionApproved(number);
            self.save(vec![epoch], vec![audit::record(&self.records, operator, deed)]).await?;
            tracing::warn!(epoch = number, %operator, "one operator approved its destruction");
            let until_ms = now.saturating_add(self.policy.approval_window.as_millis() as u64);
            return Ok(Destruction::Approved { by: approval, until_ms });
        }
        let decided = epoch.after(EpochStep::Decide)?;
        let deed = Deed::EpochDestructionDecided(number);
        self.save(vec![decided], vec![audit::record(&self.records, operator, deed)]).await?;
        tracing::warn!(epoch = number, %operator, "two operators approved its destruction");
        self.finish_destructions().await?;
        Ok(Destruction::Done(self.row(number)?.0))
    }

    /// Goes on with a destruction that two operators approved and the token did not do.
    async fn finish(&self, number: u64) -> Result<Destruction, EpochError> {
        let _changing = self.changing.lock().await;
        self.finish_destructions().await?;
        Ok(Destruction::Done(self.row(number)?.0))
    }

    /// Destroys the KEKs of all epochs it is decided for. Call it while `changing` is held.
    pub(super) async fn finish_destructions(&self) -> Result<(), EpochError> {
        let decided: Vec<Epoch> = {
            let table = locked(&self.table);
            let rows = table.values().map(|(epoch, _)| epoch);
            rows.filter(|epoch| epoch.state == EpochState::Destroying).cloned().collect()
        };
        for epoch in decided {
            let kek = KekInfo { id: epoch.kek.clone(), number: epoch.number };
            // Before a token is told, which else took it anew; none of another KM finds it any more either.
            forget(&self.records, kek.number).await?;
            self.hsm.destroy_kek(&kek).await?;
            if self.hsm.keks_anywhere().await?.iter().any(|kek| kek.id == epoch.kek) {
                let why = "the HSM says the KEK is destroyed, and still holds it".to_owned();
                return Err(HsmError::Unavailable(why).into());
            }
            let mut gone = epoch.after(EpochStep::Destroy)?;
            gone.destroyed_ms = Some(now_ms());
            let who: Vec<&str> = gone.approvals.iter().map(|a| a.operator.as_str()).collect();
            let deed = Deed::EpochDestroyed(gone.number);
            let deed = audit::record(&self.records, &who.join(" and "), deed);
            tracing::warn!(epoch = gone.number, kek = %gone.kek.0, "KEK epoch destroyed");
            self.save(vec![gone], vec![deed]).await?;
        }
        Ok(())
    }

    /// Whether the token has a KEK of an epoch that was destroyed elsewhere, as far as is known.
    pub(super) fn has_destroyed(&self) -> bool {
        let Some(share) = &self.share else { return false };
        let (table, held) = (locked(&self.table), locked(&share.held));
        let mut rows = table.values().map(|(epoch, _)| epoch);
        rows.any(|epoch| epoch.state == EpochState::Destroyed && held.contains(&epoch.kek))
            || !locked(&share.undone).is_empty()
    }

    /// Whether tokens of this KM are still to destroy its KEK.
    pub(super) fn is_undone(&self, epoch: &Epoch) -> bool {
        let share = self.share.as_ref();
        share.is_some_and(|share| locked(&share.undone).contains_key(&epoch.number))
    }

    /// Destroys KEKs of this KM's tokens whose epochs two operators had destroyed at another KM; whether there
    /// were any. Of a KM with a store of its own they are for its operator to see.
    pub(super) async fn destroy_own(&self) -> Result<bool, EpochError> {
        let Some(share) = &self.share else { return Ok(false) };
        let destroyed: BTreeSet<KekId> = {
            let table = locked(&self.table);
            let rows = table.values().map(|(epoch, _)| epoch);
            let rows = rows.filter(|epoch| epoch.state == EpochState::Destroyed);
            rows.map(|epoch| epoch.kek.clone()).collect()
        };
        if destroyed.is_empty() {
            return Ok(false);
        }
        let undone: Vec<KekInfo> = locked(&share.undone).values().cloned().collect();
        let known = undone.into_iter().chain(self.hsm.keks_anywhere().await?);
        let left = known.filter(|kek| destroyed.contains(&kek.id)).map(|kek| (kek.number, kek));
        let left: BTreeMap<u64, KekInfo> = left.collect();
        let mut any = false;
        for (number, kek) in left {
            match self.hsm.destroy_kek(&kek).await {
                Ok(()) => drop(locked(&share.undone).remove(&number)),
                // A token of several is away. This KM works meanwhile, and tries again.
                Err(HsmError::Unavailable(why)) => {
                    if locked(&share.undone).insert(number, kek).is_none() {
                        let what = "destroyed elsewhere, and not yet here; it is tried again";
                        tracing::warn!(epoch = number, why, "{what}");
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            tracing::warn!(epoch = number, kek = %kek.id.0, "destroyed in this KM's tokens as well");
            any = true;
        }
        Ok(any)
    }
}
