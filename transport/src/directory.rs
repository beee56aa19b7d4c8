//! Who a verified certificate belongs to. Enter through [`Directory::find`].

use crate::{IdentityRule, PeerIdentity};

/// Certificates mapped to what they stand for here (an application, an operator, a peer KM).
#[derive(Clone, Debug)]
pub struct Directory<T> {
    entries: Vec<Entry<T>>,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    rule: IdentityRule,
    issuer: Option<String>,
    subject: T,
}

impl<T> Entry<T> {
    fn fits(&self, peer: &PeerIdentity) -> bool {
        let issuer = self.issuer.as_deref();
        peer.matches(&self.rule) && issuer.is_none_or(|issuer| issuer == peer.issuer())
    }
}

impl<T> Default for Directory<T> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<T: PartialEq> Directory<T> {
    /// Adds a rule. Several rules may stand for the same subject.
    pub fn add(&mut self, rule: IdentityRule, subject: T) {
        self.entries.push(Entry { rule, issuer: None, subject });
    }

    /// Adds a rule for certificates of one issuer alone: its distinguished name as
    /// [`PeerIdentity::issuer`] writes it.
    pub fn add_issued_by(&mut self, issuer: String, rule: IdentityRule, subject: T) {
        self.entries.push(Entry { rule, issuer: Some(issuer), subject });
    }

    /// The subject `peer` stands for. `None` when no rule fits, and also when rules of different
    /// subjects fit: an ambiguous certificate is nobody's.
    pub fn find(&self, peer: &PeerIdentity) -> Option<&T> {
        match self.find_all(peer).as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Every subject `peer` may stand for, each once: more than one only where something besides the
    /// certificate tells them apart.
    pub fn find_all(&self, peer: &PeerIdentity) -> Vec<&T> {
        let mut found: Vec<&T> = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.fits(peer)) {
            if !found.contains(&&entry.subject) {
                found.push(&entry.subject);
            }
        }
        found
    }

    /// Every subject of a rule, once for each rule.
    pub fn subjects(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.subject)
    }
}
