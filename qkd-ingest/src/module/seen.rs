//! Identifiers as numbers, and the window of those seen lately. Enter through [`ident`] and
//! [`Seen`].

use std::collections::{HashSet, VecDeque};

use aws_lc_rs::digest::{SHA256, digest};
use etsi014::KeyName;

/// How many identifiers back a repetition is noticed.
const WINDOW: usize = 65_536;

/// What an identifier names, however it is spelled: upper case and missing hyphens do not make
/// another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ident(u128);

/// The number of an identifier: the UUID, or a digest of any other text.
pub(super) fn ident(name: &KeyName) -> Ident {
    name.uuid().map_or_else(
        || {
            let hash = name.with_str(|text| digest(&SHA256, text.as_bytes()));
            Ident(hash.as_ref().iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte)))
        },
        |uuid| Ident(uuid.as_u128()),
    )
}

/// The identifiers seen last. Bounded; both fields hold the same identifiers.
#[derive(Default)]
pub(super) struct Seen {
    order: VecDeque<Ident>,
    set: HashSet<Ident>,
}

impl Seen {
    /// Notes an identifier; false when it is in the window already.
    pub(super) fn is_new(&mut self, ident: Ident) -> bool {
        if !self.set.insert(ident) {
            return false;
        }
        self.order.push_back(ident);
        if self.order.len() > WINDOW
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_does_not_make_another_key() {
        let uuid = "0190163d-8694-739b-aea5-966c26f8ad91";
        let of = |text: &str| ident(&KeyName::parse(text).unwrap());
        assert_eq!(of(uuid), of(&uuid.to_uppercase()));
        assert_eq!(of(uuid), of(&uuid.replace('-', "")));
        assert_ne!(of("vendor:7"), of("vendor:8"));
    }

    #[test]
    fn the_window_forgets_only_the_oldest() {
        let mut seen = Seen::default();
        assert!((0..=WINDOW as u128).all(|n| seen.is_new(Ident(n))));
        assert!(!seen.is_new(Ident(1)) && !seen.is_new(Ident(WINDOW as u128)));
        assert!(seen.is_new(Ident(0)));
        assert_eq!((seen.order.len(), seen.set.len()), (WINDOW, WINDOW));
    }
}
