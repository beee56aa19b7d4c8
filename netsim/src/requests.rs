//! Keys that pairs of clusters ask for: over one way, or split over disjoint ones.

use std::collections::BTreeMap;

use km_core::{module::ModuleKey, provenance::Grade, route::Route};
use relay::hop::split::joined;

use crate::{check::alike, rng::Rng};

/// How a pair asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Bits of the first hop are passed on.
    FirstKey,
    /// Random bits are sent.
    Random,
}

impl Scheme {
    pub(crate) fn any(rng: &mut Rng) -> Self {
        if rng.chance(0.7) { Self::FirstKey } else { Self::Random }
    }
}

/// Shares of keys that are split by exclusive or: the key is there when all shares are.
#[derive(Default)]
pub(crate) struct Splits {
    next: u64,
    open: BTreeMap<u64, Split>,
}

struct Split {
    missing: usize,
    /// At both ends.
    shares: [Vec<ModuleKey>; 2],
    /// What the worst of them may claim.
    truth: Grade,
}

impl Splits {
    /// A key in so many shares.
    ///
    /// # Errors
    /// When two of the ways share a trusted node, which then would know both shares.
    pub(crate) fn begin(&mut self, ways: &[Route]) -> Result<u64, String> {
        for (at, one) in ways.iter().enumerate() {
            if ways.iter().skip(at + 1).any(|two| !one.is_disjoint(two)) {
                return Err(format!("ways of a split key share a node: {ways:?}"));
            }
        }
        self.next += 1;
        let shares = [Vec::new(), Vec::new()];
        self.open.insert(self.next, Split { missing: ways.len(), shares, truth: Grade::ItsRelay });
        Ok(self.next)
    }

    /// One share is lost, so the key is.
    pub(crate) fn lost(&mut self, split: u64) {
        self.open.remove(&split);
    }

    /// A share is at both ends, and may claim `truth`. The bytes of the key once all are, and what it may
    /// claim.
    ///
    /// # Errors
    /// When the key differs between its ends, or claims more.
    pub(crate) fn arrived(
        &mut self,
        split: u64,
        [ours, theirs]: [ModuleKey; 2],
        truth: Grade,
    ) -> Result<Option<(usize, Grade)>, String> {
        let Some(open) = self.open.get_mut(&split) else { return Ok(None) };
        open.shares[0].push(ours);
        open.shares[1].push(theirs);
        open.truth = open.truth.min(truth);
        open.missing -= 1;
        if open.missing > 0 {
            return Ok(None);
        }
        let Some(Split { shares, truth, .. }) = self.open.remove(&split) else { return Ok(None) };
        let [Some(ours), Some(theirs)] = shares.map(joined) else {
            return Err(format!("the shares of split key {split} do not fit together"));
        };
        alike([&ours, &theirs], truth)?;
        Ok(Some((ours.bytes.len(), truth)))
    }
}
