//! A pool as its operator and its peer see it.

use std::sync::{MutexGuard, PoisonError, atomic::Ordering};

use super::Pool;
use crate::{
    ids::ClusterId,
    ledger::{Ledger, bits},
};

/// A pool as an operator sees it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PoolView {
    /// The cluster at the other end.
    pub peer: ClusterId,
    /// The account, in bits.
    pub ledger: Ledger,
    /// Bits in blocks and runs.
    pub stored_bits: u64,
    /// Of these, bits this end may assign from.
    pub own_bits: u64,
    /// Whether the account balances.
    pub balanced: bool,
    /// Blocks stored.
    pub blocks: usize,
    /// Runs open at this end as owner.
    pub issuing: usize,
    /// Runs open at this end for collection.
    pub collecting: usize,
    /// Whether the link to the peer is up.
    pub link_up: bool,
    /// The peer's account of the same pool, as it last said.
    pub peer_ledger: Option<Ledger>,
    /// Whether both ends say the same of the pad they spent for each other; absent while the relay
    /// uses some, as then they need not, and until the peer has said so since.
    pub ends_agree: Option<bool>,
}

impl Pool {
    /// The account and what is stored, at one instant.
    pub fn view(&self) -> PoolView {
        let tables = self.tables();
        let ledger = self.journal.account();
        let stored_bits = bits(tables.stored_bytes());
        let peer_ledger = *self.told();
        let pads = tables.lent.len() + tables.through.len() + tables.borrowed.len();
        let settled = pads == 0 && self.link_up();
        PoolView {
            peer: self.config.peer.clone(),
            ledger,
            stored_bits,
            own_bits: bits(tables.own.all()),
            balanced: ledger.balanced_with(stored_bits),
            blocks: tables.blocks().len(),
            issuing: tables.issuing.len(),
            collecting: tables.collecting.len(),
            link_up: self.link_up(),
            peer_ledger,
            ends_agree: settled.then(|| Some(peer_ledger?.pad == ledger.pad)).flatten(),
        }
    }

    /// The peer tells its account of this pool. What it told before a change of ours to pad is
    /// forgotten at that change: it need not agree. `Some` when that is news: whether the ends agree
    /// again, after they did not, or differ, after they did.
    pub fn peer_account(&self, theirs: Ledger) -> Option<bool> {
        *self.told() = Some(theirs);
        let agree = self.view().ends_agree?;
        let differed = self.ends_differ.swap(!agree, Ordering::Relaxed);
        (agree == differed).then_some(agree)
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Option<Ledger>> {
        self.peer_ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This end's account.
    pub fn account(&self) -> Ledger {
        self.journal.account()
    }
}
