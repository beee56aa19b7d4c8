//! Ways on which batches were lost rest for a while: each batch costs the pad of every hop it passed.
//! Enter through [`Rests::admit`].

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use km_core::route::Route;

const FIRST: Duration = Duration::from_millis(250);
/// Longest rest, and so how late a way that works again is found at most.
const LONGEST: Duration = Duration::from_secs(4);
/// A way nobody asked for since is forgotten.
const KEPT: Duration = Duration::from_secs(60);

struct Rest {
    until: Instant,
    length: Duration,
    /// One batch tries whether the way works again; the others wait for what becomes of it.
    tried: bool,
}

/// The ways that rest.
#[derive(Default)]
pub(crate) struct Rests(HashMap<Route, Rest>);

impl Rests {
    /// Whether a batch may be sent over `route`; after a rest one alone. [`Rests::lost`],
    /// [`Rests::arrived`] or [`Rests::not_sent`] says what became of it.
    pub(crate) fn admit(&mut self, route: &Route, now: Instant) -> bool {
        if self.is_resting(route, now) {
            return false;
        }
        if let Some(rest) = self.0.get_mut(route) {
            rest.tried = true;
        }
        true
    }

    /// Whether [`Rests::admit`] would say no.
    pub(crate) fn is_resting(&self, route: &Route, now: Instant) -> bool {
        self.0.get(route).is_some_and(|rest| rest.tried || now < rest.until)
    }

    /// Whether nothing arrived since something was lost.
    pub(crate) fn has_rested(&self, route: &Route) -> bool {
        self.0.contains_key(route)
    }

    pub(crate) fn arrived(&mut self, route: &Route) {
        self.0.remove(route);
    }

    /// It never left.
    pub(crate) fn not_sent(&mut self, route: &Route) {
        if let Some(rest) = self.0.get_mut(route) {
            rest.tried = false;
        }
    }

    pub(crate) fn lost(&mut self, route: &Route, now: Instant) {
        self.0.retain(|_, rest| rest.tried || now < rest.until + KEPT);
        match self.0.get_mut(route) {
            // Others were on their way when the first was lost.
            Some(rest) if !rest.tried => {}
            Some(rest) => {
                let length = (rest.length * 2).min(LONGEST);
                *rest = Rest { until: now + length, length, tried: false };
            }
            None => {
                let rest = Rest { until: now + FIRST, length: FIRST, tried: false };
                self.0.insert(route.clone(), rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use km_core::{ids::ClusterId, route::CipherPolicy};

    use super::*;

    #[test]
    fn after_losses_one_batch_in_growing_pauses_tries_the_way() {
        let way = |name| Route::new(vec![ClusterId::parse(name).unwrap()], CipherPolicy::OtpOnly);
        let (way, other) = (way("b").unwrap(), way("c").unwrap());
        let (mut rests, mut now) = (Rests::default(), Instant::now());
        (0..4).for_each(|_| assert!(rests.admit(&way, now)));
        (0..4).for_each(|_| rests.lost(&way, now));
        let mut sent = 0;
        for _ in 0..600 {
            now += Duration::from_millis(100);
            assert!(rests.admit(&other, now));
            if rests.admit(&way, now) {
                sent += 1;
                assert!(!rests.admit(&way, now), "one alone");
                rests.lost(&way, now);
            }
        }
        assert!((15..=20).contains(&sent), "{sent} in a minute");
        now += LONGEST;
        assert!(rests.admit(&way, now));
        rests.not_sent(&way);
        assert!(rests.admit(&way, now), "it cost nothing");
        rests.arrived(&way);
        (0..4).for_each(|_| assert!(rests.admit(&way, now)));
    }
}
