//! Who a verified certificate belongs to. Enter through [`Directory::find`].

use crate::{IdentityRule, PeerIdentity};

/// Certificates mapped to what they stand for here (an application, an operator, a peer KM).
#[derive(Clone, Debug)]
pub struct Directory<T> {
    entries: Vec<(IdentityRule, T)>,
}

impl<T> Default for Directory<T> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<T: PartialEq> Directory<T> {
    /// Adds a rule. Several rules may stand for the same subject.
    pub fn add(&mut self, rule: IdentityRule, subject: T) {
        self.entries.push((rule, subject));
    }

    /// The subject `peer` stands for. `None` when no rule fits, and also when rules of different
    /// subjects fit: an ambiguous certificate is nobody's.
    pub fn find(&self, peer: &PeerIdentity) -> Option<&T> {
        let mut fitting = self.entries.iter().filter(|(rule, _)| peer.matches(rule));
        let (_, first) = fitting.next()?;
        fitting.all(|(_, subject)| subject == first).then_some(first)
    }
}
