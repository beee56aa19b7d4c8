//! Whether what clients saw of one object could have happened one thing after the other, each between its
//! request and its answer. The object is a register that can be destroyed: writes of values that are written
//! once, reads, and an end. Enter through [`linearizable`].

use std::{collections::HashSet, time::Instant};

/// What a client asked of the object, and what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// An attribute has this value from now on.
    Write(u64),
    /// The value of the attribute, and whether the object is destroyed. Also of a destroyed object.
    Read {
        /// The value.
        value: u64,
        /// Whether it is destroyed.
        destroyed: bool,
    },
    /// Its bytes were given.
    Use,
    /// Its bytes are gone from now on.
    Destroy,
    /// Refused, because it is destroyed.
    Refused,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub act: Act,
    pub began: Instant,
    /// When it was answered. `None`: the answer is missing, so it may take effect at any time, or never.
    pub ended: Option<Instant>,
}

/// An object as it is between two requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    value: u64,
    destroyed: bool,
}

impl State {
    /// What it is after this, if that can be asked and answered so now.
    fn after(self, act: Act) -> Option<Self> {
        let State { value, destroyed } = self;
        match act {
            Act::Write(value) => (!destroyed).then_some(Self { value, destroyed }),
            Act::Read { value: read, destroyed: gone } => {
                ((read, gone) == (value, destroyed)).then_some(self)
            }
            Act::Use => (!destroyed).then_some(self),
            Act::Destroy => (!destroyed).then_some(Self { value, destroyed: true }),
            Act::Refused => destroyed.then_some(self),
        }
    }
}

/// Most events of a history: each is one bit of what was done.
pub const MOST: usize = 64;

/// Searches for an order (Wing and Gong 1993), without looking twice at what was found to lead nowhere (Lowe
/// 2017). The attribute has the value `first` before anything was asked.
pub fn linearizable(first: u64, events: &[Event]) -> bool {
    assert!(events.len() <= MOST, "a history has at most {MOST} events");
    let answered = mask(events, |event| event.ended.is_some());
    let first = State { value: first, destroyed: false };
    let (mut open, mut seen) = (vec![(0_u64, first)], HashSet::new());
    while let Some((done, state)) = open.pop() {
        if done & answered == answered {
            return true;
        }
        if !seen.insert((done, state)) {
            continue;
        }
        let left = |at: usize| done & (1 << at) == 0;
        // Nothing that was answered before another began may come after it.
        let soonest = events.iter().enumerate().filter(|(at, _)| left(*at));
        let soonest = soonest.filter_map(|(_, event)| event.ended).min();
        for (at, event) in events.iter().enumerate().filter(|(at, _)| left(*at)) {
            if soonest.is_some_and(|ended| event.began > ended) {
                continue;
            }
            open.extend(state.after(event.act).map(|after| (done | 1 << at, after)));
        }
    }
    false
}

fn mask(events: &[Event], holds: impl Fn(&Event) -> bool) -> u64 {
    events
        .iter()
        .enumerate()
        .filter(|(_, event)| holds(event))
        .fold(0, |all, (at, _)| all | 1 << at)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use Act::{Destroy, Refused, Use, Write};

    use super::*;

    fn history(events: &[(Act, u64, Option<u64>)]) -> bool {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let event = |(act, began, ended): &(Act, u64, Option<u64>)| Event {
            act: *act,
            began: at(*began),
            ended: ended.map(at),
        };
        linearizable(0, &events.iter().map(event).collect::<Vec<_>>())
    }

    fn read(value: u64) -> Act {
        Act::Read { value, destroyed: false }
    }

    #[test]
    fn a_read_sees_the_last_write_or_one_at_the_same_time() {
        assert!(history(&[]));
        assert!(history(&[(Write(1), 0, Some(2)), (read(1), 3, Some(4))]));
        assert!(!history(&[(Write(1), 0, Some(2)), (read(0), 3, Some(4))]), "stale");
        assert!(history(&[(Write(1), 0, Some(5)), (read(0), 1, Some(2)), (read(1), 3, Some(4))]));
        let back = [(Write(1), 0, Some(9)), (read(1), 1, Some(2)), (read(0), 3, Some(4))];
        assert!(!history(&back), "what was seen is not unseen");
        assert!(!history(&[(read(7), 0, Some(1))]), "nobody wrote it");
    }

    #[test]
    fn a_write_without_an_answer_happens_once_at_any_time_or_never() {
        assert!(history(&[(Write(1), 0, None), (read(0), 5, Some(6))]));
        assert!(history(&[(Write(1), 0, None), (read(0), 5, Some(6)), (read(1), 7, Some(8))]));
        assert!(!history(&[(Write(1), 0, None), (read(1), 5, Some(6)), (read(0), 7, Some(8))]));
        assert!(!history(&[(Write(1), 4, None), (read(1), 1, Some(2))]), "before it was asked");
        let twice = [
            (Write(1), 0, None),
            (read(1), 1, Some(2)),
            (Write(2), 3, Some(4)),
            (read(2), 5, Some(6)),
            (read(1), 7, Some(8)),
        ];
        assert!(!history(&twice), "it comes a second time");
    }

    #[test]
    fn what_was_destroyed_stays_so_and_changes_no_more() {
        let gone = |value| Act::Read { value, destroyed: true };
        assert!(history(&[(Use, 0, Some(1)), (Destroy, 2, Some(3)), (Refused, 4, Some(5))]));
        assert!(!history(&[(Destroy, 0, Some(1)), (Use, 2, Some(3))]), "its bytes come back");
        assert!(!history(&[(Destroy, 0, Some(1)), (read(0), 2, Some(3))]), "it lives again");
        assert!(!history(&[(Destroy, 0, Some(1)), (Write(1), 2, Some(3))]), "it is changed");
        assert!(!history(&[(Destroy, 0, Some(1)), (Destroy, 2, Some(3))]), "it ends twice");
        assert!(!history(&[(Use, 0, Some(1)), (Refused, 2, Some(3))]), "nobody destroyed it");
        assert!(history(&[(Write(1), 0, Some(5)), (Destroy, 0, Some(5)), (gone(1), 6, Some(7))]));
        assert!(!history(&[(Destroy, 0, Some(1)), (Write(1), 2, None), (gone(1), 6, Some(7))]));
        assert!(history(&[(Destroy, 0, None), (Use, 2, Some(3)), (Refused, 4, Some(5))]));
        assert!(!history(&[(Destroy, 0, None), (Refused, 2, Some(3)), (Use, 4, Some(5))]));
    }
}
