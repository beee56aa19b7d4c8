//! The accounts of all pools of the network, and whether they balance to the bit. Enter through
//! [`Controller::books`](crate::Controller::books).

use km_core::{ids::ClusterId, ledger::Ledger};
use serde::Serialize;

use crate::{component::Pair, report::Book};

/// What can be said of the two accounts of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Both balance, and both say the same of the pad they spent for each other.
    Balanced,
    /// Both balance; the relay uses pad just now, so that the ends need not say the same of it.
    InUse,
    /// Both balance, and the ends differ about the pad they spent.
    Differ,
    /// More, or less, is stored at one of the ends than its account leaves.
    NotBalanced,
    /// An end did not report.
    Unknown,
}

/// The two accounts of one pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolBooks {
    /// The two clusters.
    pub between: [ClusterId; 2],
    /// What each of them says, in that order.
    pub books: [Option<Book>; 2],
    /// Whether they fit.
    pub verdict: Verdict,
}

/// The accounts of a network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Books {
    /// By pool.
    pub pools: Vec<PoolBooks>,
    /// All accounts together, each end of each pool once.
    pub total: Ledger,
    /// Bits stored at all ends together.
    pub stored_bits: u64,
}

impl Books {
    pub(crate) fn of(pools: impl IntoIterator<Item = (Pair, [Option<Book>; 2])>) -> Self {
        let mut all = Self { pools: Vec::new(), total: Ledger::default(), stored_bits: 0 };
        for (pair, books) in pools {
            for book in books.iter().flatten() {
                all.total.add(&book.ledger);
                all.stored_bits += book.stored_bits;
            }
            let between = [pair.ends().0.clone(), pair.ends().1.clone()];
            all.pools.push(PoolBooks { between, books, verdict: verdict(&books) });
        }
        all
    }
}

fn verdict(books: &[Option<Book>; 2]) -> Verdict {
    let [Some(here), Some(there)] = books else { return Verdict::Unknown };
    let balanced = |book: &Book| book.ledger.balanced_with(book.stored_bits);
    match (here.ends_agree, there.ends_agree) {
        _ if !(balanced(here) && balanced(there)) => Verdict::NotBalanced,
        (Some(false), _) | (_, Some(false)) => Verdict::Differ,
        // The two reports are not of one instant, so each end compares what it heard of the other.
        (Some(true), Some(true)) => Verdict::Balanced,
        _ => Verdict::InUse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named_whatever_else_does() {
        let ledger = Ledger { absorbed: 100, pad: 20, delivered: 30, ..Ledger::default() };
        let book = |stored_bits, ends_agree| Some(Book { ledger, stored_bits, ends_agree });
        for (here, there, expected) in [
            (book(50, Some(true)), book(50, Some(true)), Verdict::Balanced),
            (book(50, Some(true)), book(50, None), Verdict::InUse),
            (book(50, Some(false)), book(50, None), Verdict::Differ),
            (book(50, Some(true)), book(49, Some(true)), Verdict::NotBalanced),
            (book(51, Some(false)), book(50, None), Verdict::NotBalanced),
            (book(50, Some(true)), None, Verdict::Unknown),
        ] {
            assert_eq!(verdict(&[here, there]), expected);
        }
        let pair = |a: &str, b: &str| {
            Pair::new(&ClusterId::parse(a).unwrap(), &ClusterId::parse(b).unwrap())
        };
        let books = Books::of([
            (pair("b", "a"), [book(50, None), book(50, None)]),
            (pair("b", "c"), [book(50, None), None]),
        ]);
        assert_eq!((books.total.absorbed, books.stored_bits), (300, 150));
        assert!(books.total.balanced_with(books.stored_bits));
    }
}
