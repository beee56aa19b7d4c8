//! Nonces and data keys from the token's generator, which is tested as long as the process lives: of two
//! messages under one key and nonce both are as good as read, and whoever has them can forge more. Enter
//! through [`Lane::next_iv`] and [`Lane::tested`].
//!
//! What fails a test is used for nothing, nor is what was fetched before; the token is not ready until
//! what it gives passes again.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use km_core::hsm::HsmError;
use km_core::material::ClearBytes;
use km_core::random::HealthTests;
use lru::LruCache;

use super::gcm::IV_BYTES;
use super::{Lane, OpError};
use crate::health::Health;

/// Nonces fetched at once: one token call for 128 seals. More bytes than a test before first use needs
/// (1,024, SP 800-90B 4.3), and none is used before all passed.
const BATCH: usize = 128;
/// Nonces that are remembered. A generator that stands still gives the same at once.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

type Iv = [u8; IV_BYTES];

/// The generator of one token, for all its sessions.
pub(crate) struct Generator {
    health: Arc<Health>,
    state: Mutex<State>,
}

struct State {
    tests: HealthTests,
    /// Tested, and not used yet.
    ready: Vec<Iv>,
    /// Fetched lately.
    seen: LruCache<Iv, ()>,
}

impl Generator {
    pub(crate) fn new(health: Arc<Health>) -> Self {
        let (tests, seen) = (HealthTests::of_full_entropy(), LruCache::new(REMEMBERED));
        Self { health, state: Mutex::new(State { tests, ready: Vec::new(), seen }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self) -> Option<Iv> {
        self.lock().ready.pop()
    }

    /// Takes fresh bytes in; one nonce of them.
    fn fetched(&self, bytes: &[u8; IV_BYTES * BATCH]) -> Result<Iv, OpError> {
        let mut state = self.lock();
        self.feed(&mut state, bytes)?;
        let (ivs, _) = bytes.as_chunks::<IV_BYTES>();
        let again = ivs.iter().filter(|iv| state.seen.put(**iv, ()).is_some()).count();
        if again > 0 {
            return Err(self.fails(&mut state, &format!("{again} nonces came a second time")));
        }
        self.health.generator(Ok(()));
        state.ready.extend_from_slice(ivs);
        state.ready.pop().ok_or_else(|| self.fails(&mut state, "it gave nothing"))
    }

    fn feed(&self, state: &mut State, bytes: &[u8]) -> Result<(), OpError> {
        state.tests.feed(bytes).map_err(|test| self.fails(state, &test.to_string()))
    }

    fn fails(&self, state: &mut State, test: &str) -> OpError {
        state.tests = HealthTests::of_full_entropy();
        state.ready.clear();
        let why = format!(
            "the token's random generator failed its health test: {test}; nothing is sealed until it is \
             well: if this goes on, take the token out of service"
        );
        self.health.generator(Err(&why));
        OpError::Close(HsmError::Unavailable(why))
    }
}

impl Lane {
    /// A nonce from the token's generator, never used before.
    pub(super) fn next_iv(&self) -> Result<Iv, OpError> {
        if let Some(iv) = self.generator.ready() {
            return Ok(iv);
        }
        let mut bytes = [0u8; IV_BYTES * BATCH];
        self.session()?.generate_random_slice(&mut bytes)?;
        self.generator.fetched(&bytes)
    }

    /// `bytes` of the token's generator, once they passed the tests.
    pub(super) fn tested(&self, bytes: ClearBytes) -> Result<ClearBytes, OpError> {
        let generator = &self.generator;
        bytes.expose(|bytes| generator.feed(&mut generator.lock(), bytes))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise() -> [u8; IV_BYTES * BATCH] {
        let mut bytes = [0; IV_BYTES * BATCH];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_fetched_before_a_failure_is_not_used() {
        let health = Arc::new(Health::new());
        let generator = Generator::new(Arc::clone(&health));
        let first = noise();
        generator.fetched(&first).unwrap_or_else(|_| panic!());
        health.succeeded();
        assert!(health.is_ready() && generator.ready().is_some());
        assert!(generator.feed(&mut generator.lock(), &[7; 8]).is_err());
        assert!(generator.ready().is_none());
        health.succeeded();
        assert!(!health.is_ready(), "whatever else succeeds");
        assert!(generator.fetched(&first).is_err(), "the same once more");
        generator.fetched(&noise()).unwrap_or_else(|_| panic!());
        health.succeeded();
        assert!(health.is_ready() && health.shown().trouble.is_empty());
    }
}
