//! The classical channels of one KM link (7.2), at the end that dials: which is in use, and which worked
//! when it was last tried. The first serves until it fails, then the next.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// A channel as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelView {
    /// Where it leads.
    pub address: String,
    /// Whether it worked when it was last tried; so does one that was not tried yet.
    pub well: bool,
    /// Whether the link uses it now.
    pub in_use: bool,
}

pub(crate) struct Channels(Mutex<State>);

struct State {
    current: usize,
    well: Vec<bool>,
}

impl Channels {
    pub(crate) fn new(count: usize) -> Self {
        Self(Mutex::new(State { current: 0, well: vec![true; count] }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one in use, or to be tried next.
    pub(crate) fn current(&self) -> usize {
        self.state().current
    }

    /// It was dialled and answered as it should.
    pub(crate) fn works(&self, channel: usize) {
        if let Some(well) = self.state().well.get_mut(channel) {
            *well = true;
        }
    }

    /// It did not answer, or its connection ended: the next one's turn. Whether there is another.
    pub(crate) fn failed(&self, channel: usize) -> bool {
        let mut state = self.state();
        if let Some(well) = state.well.get_mut(channel) {
            *well = false;
        }
        state.current = (channel + 1) % state.well.len().max(1);
        state.well.len() > 1
    }

    pub(crate) fn views(&self, addresses: &[String], up: bool) -> Vec<ChannelView> {
        let state = self.state();
        let view = |(at, address): (usize, &String)| ChannelView {
            address: address.clone(),
            well: state.well.get(at).copied().unwrap_or(false),
            in_use: up && at == state.current,
        };
        addresses.iter().enumerate().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_takes_over_and_the_first_comes_again_when_all_failed() {
        let channels = Channels::new(2);
        let addresses = ["one:1".to_owned(), "two:2".to_owned()];
        let seen = |up| {
            let views = channels.views(&addresses, up);
            views.iter().map(|view| (view.well, view.in_use)).collect::<Vec<_>>()
        };
        assert_eq!(seen(true), [(true, true), (true, false)]);
        assert!(channels.failed(0));
        channels.works(1);
        assert_eq!(seen(true), [(false, false), (true, true)]);
        channels.failed(1);
        assert_eq!((channels.current(), seen(false)), (0, vec![(false, false); 2]));
        assert!(!Channels::new(1).failed(0), "one alone has no other");
    }
}
