//! Whether what clients saw of one object could have happened one thing after the other, each between its
//! request and its answer. The object is a register: writes of values that are written once, and reads.
//! Enter through [`linearizable`].

use std::{collections::HashSet, time::Instant};

/// What a client asked of the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Write(u64),
    /// With what it answered.
    Read(u64),
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub act: Act,
    pub began: Instant,
    /// When it was answered. `None`: the answer is missing, so it may take effect at any time, or never.
    pub ended: Option<Instant>,
}

/// Most events of a history: each is one bit of what was done.
pub const MOST: usize = 64;

/// Searches for an order (Wing and Gong 1993), without looking twice at what was found to lead nowhere (Lowe
/// 2017). The register holds `first` before anything was asked.
pub fn linearizable(first: u64, events: &[Event]) -> bool {
    assert!(events.len() <= MOST, "a history has at most {MOST} events");
    let answered = mask(events, |event| event.ended.is_some());
    let (mut open, mut seen) = (vec![(0_u64, first)], HashSet::new());
    while let Some((done, value)) = open.pop() {
        if done & answered == answered {
            return true;
        }
        if !seen.insert((done, value)) {
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
            match event.act {
                Act::Write(new) => open.push((done | 1 << at, new)),
                Act::Read(found) if found == value => open.push((done | 1 << at, value)),
                Act::Read(_) => {}
            }
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

    #[test]
    fn a_read_sees_the_last_write_or_one_at_the_same_time() {
        use Act::{Read, Write};
        assert!(history(&[]));
        assert!(history(&[(Write(1), 0, Some(2)), (Read(1), 3, Some(4))]));
        assert!(!history(&[(Write(1), 0, Some(2)), (Read(0), 3, Some(4))]), "stale");
        assert!(history(&[(Write(1), 0, Some(5)), (Read(0), 1, Some(2)), (Read(1), 3, Some(4))]));
        let back = [(Write(1), 0, Some(9)), (Read(1), 1, Some(2)), (Read(0), 3, Some(4))];
        assert!(!history(&back), "what was seen is not unseen");
        assert!(!history(&[(Read(7), 0, Some(1))]), "nobody wrote it");
    }

    #[test]
    fn a_write_without_an_answer_happens_once_at_any_time_or_never() {
        use Act::{Read, Write};
        assert!(history(&[(Write(1), 0, None), (Read(0), 5, Some(6))]));
        assert!(history(&[(Write(1), 0, None), (Read(0), 5, Some(6)), (Read(1), 7, Some(8))]));
        assert!(!history(&[(Write(1), 0, None), (Read(1), 5, Some(6)), (Read(0), 7, Some(8))]));
        assert!(!history(&[(Write(1), 4, None), (Read(1), 1, Some(2))]), "before it was asked");
        let twice = [
            (Write(1), 0, None),
            (Read(1), 1, Some(2)),
            (Write(2), 3, Some(4)),
            (Read(2), 5, Some(6)),
            (Read(1), 7, Some(8)),
        ];
        assert!(!history(&twice), "it comes a second time");
    }
}
