//! Keys that pairs of clusters ask for: over one way, or split over disjoint ones.

use std::collections::BTreeMap;

use km_core::{material::ClearBytes, route::Route};

use crate::rng::Rng;

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
    sum: Option<[Vec<u8>; 2]>,
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
        self.open.insert(self.next, Split { missing: ways.len(), sum: None });
        Ok(self.next)
    }

    /// One share is lost, so the key is.
    pub(crate) fn lost(&mut self, split: u64) {
        self.open.remove(&split);
    }

    /// A share is at both ends. The bytes of the key, once all are.
    ///
    /// # Errors
    /// When the key differs between its ends.
    pub(crate) fn arrived(
        &mut self,
        split: u64,
        [ours, theirs]: [&ClearBytes; 2],
    ) -> Result<Option<usize>, String> {
        let Some(open) = self.open.get_mut(&split) else { return Ok(None) };
        let add = |sum: Option<Vec<u8>>, share: &ClearBytes| {
            share.expose(|share| match sum {
                None => share.to_vec(),
                Some(sum) => sum.iter().zip(share).map(|(a, b)| a ^ b).collect(),
            })
        };
        let (one, two) = match open.sum.take() {
            Some([one, two]) => (Some(one), Some(two)),
            None => (None, None),
        };
        open.sum = Some([add(one, ours), add(two, theirs)]);
        open.missing -= 1;
        if open.missing > 0 {
            return Ok(None);
        }
        let sum = self.open.remove(&split).and_then(|done| done.sum);
        match sum {
            Some([one, two]) if one == two => Ok(Some(one.len())),
            _ => Err(format!("split key {split} differs between its ends")),
        }
    }
}
