//! Sessions of the embedded store: deadlines in memory, because the process is the only owner.
//!
//! A restart ends them all. Their ids carry the number of the opening (`epoch`), which is durable,
//! so an id is never given twice.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::store::{SessionId, StoreError};

/// Most sessions alive at once.
const MAX_SESSIONS: usize = 10_000;

/// Deadlines of the sessions of this opening.
pub(super) struct Sessions {
    epoch: u32,
    issued: u32,
    deadlines: HashMap<SessionId, (Instant, Duration)>,
}

impl Sessions {
    pub(super) fn new(epoch: u32) -> Self {
        Self { epoch, issued: 0, deadlines: HashMap::new() }
    }

    pub(super) fn open(&mut self, ttl: Duration, now: Instant) -> Result<SessionId, StoreError> {
        let deadline = now
            .checked_add(ttl)
            .ok_or_else(|| StoreError::TooLarge(format!("a session of {} s", ttl.as_secs())))?;
        if self.deadlines.len() >= MAX_SESSIONS {
            self.deadlines.retain(|_, (deadline, _)| *deadline > now);
        }
        if self.deadlines.len() >= MAX_SESSIONS {
            return Err(StoreError::TooLarge(format!("more than {MAX_SESSIONS} open sessions")));
        }
        self.issued = self.issued.checked_add(1).ok_or_else(|| {
            StoreError::Unavailable("session ids are used up; restart qkm".into())
        })?;
        let id = SessionId(u64::from(self.epoch) << 32 | u64::from(self.issued));
        self.deadlines.insert(id, (deadline, ttl));
        Ok(id)
    }

    pub(super) fn keep_alive(&mut self, id: SessionId, now: Instant) -> bool {
        if !self.is_alive(id, now) {
            self.deadlines.remove(&id);
            return false;
        }
        if let Some((deadline, ttl)) = self.deadlines.get_mut(&id) {
            // `ttl` fitted when the session was opened; at worst it is not extended.
            *deadline = now.checked_add(*ttl).unwrap_or(*deadline);
        }
        true
    }

    pub(super) fn end(&mut self, id: SessionId) {
        self.deadlines.remove(&id);
    }

    pub(super) fn is_alive(&self, id: SessionId, now: Instant) -> bool {
        self.deadlines.get(&id).is_some_and(|(deadline, _)| *deadline > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn keep_alive_moves_the_deadline() {
        let (mut sessions, start) = (Sessions::new(1), Instant::now());
        let id = sessions.open(TTL, start).unwrap();
        assert!(sessions.keep_alive(id, start + TTL / 2));
        assert!(sessions.is_alive(id, start + TTL));
        assert!(!sessions.is_alive(id, start + TTL / 2 + TTL));
        assert!(!sessions.keep_alive(id, start + TTL * 2));
        assert!(!sessions.is_alive(id, start), "an ended session came back");
    }

    #[test]
    fn ids_differ_across_openings() {
        let now = Instant::now();
        let first = Sessions::new(1).open(TTL, now).unwrap();
        assert_ne!(first, Sessions::new(2).open(TTL, now).unwrap());
    }

    #[test]
    fn the_number_of_sessions_is_bounded_and_expired_ones_make_room() {
        let (mut sessions, now) = (Sessions::new(1), Instant::now());
        for _ in 0..MAX_SESSIONS {
            sessions.open(TTL, now).unwrap();
        }
        assert!(matches!(sessions.open(TTL, now), Err(StoreError::TooLarge(_))));
        assert!(sessions.open(TTL, now + TTL).is_ok());
    }
}
