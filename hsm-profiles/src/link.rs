//! The login to one token, and how it comes back when it is lost. Enter through [`Link`];
//! the login itself is in `link/login.rs`, changes of the KEKs in `link/keys.rs`.
//!
//! One thread at a time connects; the others wait for its result. A refused PIN ends it for
//! good, since every further try brings the token closer to locking. Any other failure is tried
//! again: a few times at once when a token is opened, later with growing pauses, driven by requests
//! and by idle workers. Each of these tries restarts the library once: SoftHSM looks for tokens and
//! their objects only when it starts, and other libraries need it as well after their device was
//! away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cryptoki::error::Error;
use cryptoki::mechanism::MechanismType;
use cryptoki::session::Session;
use cryptoki::slot::{Limit, Slot, TokenInfo};
use km_core::hsm::{HsmError, HsmStatus, KekId, KekInfo, TokenRoom};
use serde::{Deserialize, Serialize};

use crate::config::TokenConfig;
use crate::health::Health;
use crate::kek::{KekSet, SealCounts};
use crate::lane::{Forgotten, Generator, Lane, OpError, Pairs};
use crate::library::{Held, Library};
use crate::profile::Profile;
use crate::slot::{check_mechanisms, find_token, mechanisms};

mod keys;
mod login;
mod words;

pub(crate) use words::code;
use words::sentence;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Pauses between the tries of who opens a token, ms: while another process logs in to a token of SoftHSM,
/// the library shows none, or one without a PIN, or fails.
const SETTLING: [u64; 4] = [1, 5, 20, 100];

/// One login: valid until the token or the login is lost.
pub(crate) struct Connection {
    pub(crate) generation: u64,
    /// The initialization of the library to which slot, sessions and key handles belong.
    pub(crate) epoch: u64,
    pub(crate) slot: Slot,
    pub(crate) keks: KekSet,
    /// Holds the login: a token logs out when its last session closes.
    anchor: Arc<Mutex<Held>>,
    /// Pairs for key encapsulation, objects of the anchor.
    pub(crate) pairs: Arc<Pairs>,
    /// Sessions the token allows to this process; none means it sets no limit.
    pub(crate) session_limit: Option<usize>,
    /// What the token can do.
    pub(crate) mechanisms: Arc<[MechanismType]>,
}

/// The KEKs of the last connection; outlives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// The one that seals, by what the profile uses keys for; none before the first login.
    pub(crate) sealing: Option<KekId>,
    /// All that may open something, oldest first.
    pub(crate) keks: Vec<KekInfo>,
}

impl Connection {
    /// The same login with other keys.
    fn with(&self, generation: u64, keks: KekSet) -> Self {
        let (anchor, pairs) = (Arc::clone(&self.anchor), Arc::clone(&self.pairs));
        let (epoch, slot, session_limit) = (self.epoch, self.slot, self.session_limit);
        let mechanisms = Arc::clone(&self.mechanisms);
        Self { generation, epoch, slot, keks, anchor, pairs, session_limit, mechanisms }
    }

    /// Runs `op` with the session that lasts as long as the login. Objects it makes do as well.
    pub(crate) fn anchored<T>(
        &self,
        op: impl FnOnce(&Session) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        let anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        op(anchor.get()?)
    }
}

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    counts: SealCounts,
    refused_for_good: Option<HsmError>,
    failures: u32,
    retry_at: Option<Instant>,
    last: String,
}

/// The way to the token, shared by all workers.
pub(crate) struct Link {
    pub(crate) config: TokenConfig,
    pub(crate) profile: Arc<Profile>,
    pub(crate) library: Arc<Library>,
    pub(crate) health: Arc<Health>,
    pub(crate) generator: Arc<Generator>,
    /// Keys that no session is to have at hand any more.
    pub(crate) forgotten: Arc<Forgotten>,
    state: Mutex<State>,
    /// Zero while there is no connection, so that workers check theirs without a lock.
    generation: AtomicU64,
    generations: AtomicU64,
    known: RwLock<Known>,
}

/// Why a connection failed, and whether to try again.
enum Refusal {
    ForGood(HsmError),
    ForNow(HsmError),
    /// For now, and nothing a restart of the library could mend.
    Ours(HsmError),
}

impl Refusal {
    fn into_error(self) -> HsmError {
        match self {
            Self::ForGood(error) | Self::ForNow(error) | Self::Ours(error) => error,
        }
    }
}

/// A login for the time of one look.
pub(crate) struct Entered {
    pub(crate) slot: Slot,
    pub(crate) info: TokenInfo,
    /// The session that keeps it.
    pub(crate) held: Held,
    pub(crate) profile: Arc<Profile>,
}

impl Link {
    /// Connects for the first time. A failure that lasts says what to change, and whether trying again
    /// would do harm.
    pub(crate) fn open(
        config: TokenConfig,
        profile: Profile,
        library: Arc<Library>,
    ) -> Result<Self, (HsmError, bool)> {
        let link = Self::new(config, profile, library);
        let connected = link.settled(|| link.connect(&mut link.lock()));
        connected.map_err(|refusal| {
            let for_good = matches!(refusal, Refusal::ForGood(_));
            (refusal.into_error(), for_good)
        })?;
        Ok(link)
    }

    fn new(config: TokenConfig, profile: Profile, library: Arc<Library>) -> Self {
        let health = Arc::new(Health::new());
        Self {
            config,
            profile: Arc::new(profile),
            library,
            generator: Arc::new(Generator::new(Arc::clone(&health))),
            health,
            forgotten: Arc::default(),
            state: Mutex::default(),
            generation: AtomicU64::new(0),
            generations: AtomicU64::new(0),
            known: RwLock::default(),
        }
    }

    /// Logs in once and makes nothing: for who only looks at the token.
    ///
    /// # Errors
    /// As [`Link::open`]; a refused PIN is not tried again.
    pub(crate) fn enter_once(
        config: TokenConfig,
        profile: Profile,
        library: &Arc<Library>,
    ) -> Result<Entered, HsmError> {
        let link = Self::new(config, profile, Arc::clone(library));
        let enter = || {
            library.initialize().map_err(|e| link.no_start(&e))?;
            let (slot, info) = find_token(library, &link.config.token).map_err(Refusal::ForNow)?;
            let held = Held::open(library, slot).map_err(|e| link.no_session(&e))?;
            link.login(&held, slot, &info)?;
            Ok(Entered { slot, info, held, profile: Arc::clone(&link.profile) })
        };
        link.settled(enter).map_err(Refusal::into_error)
    }

    /// Tries a few times at once what failed for now, each with the library started anew.
    fn settled<T>(&self, attempt: impl Fn() -> Result<T, Refusal>) -> Result<T, Refusal> {
        for pause in SETTLING {
            let epoch = self.library.epoch();
            match attempt() {
                Err(Refusal::ForNow(_)) => {}
                done => return done,
            }
            sleep(Duration::from_millis(pause));
            self.library.restart(epoch).map_err(|e| self.no_start(&e))?;
        }
        attempt()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The KEK new data is sealed under.
    pub(crate) fn current_kek(&self) -> KekId {
        self.known().sealing.unwrap_or_else(|| KekId(String::new()))
    }

    /// The KEKs the token held at the last look; does not block.
    pub(crate) fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As of the last operation or probe; does not block.
    pub(crate) fn status(&self) -> HsmStatus {
        let (ready, shown) = (self.health.is_ready(), self.health.shown());
        let detail = if ready { shown.library } else { shown.trouble };
        HsmStatus { ready, token: shown.token, serial: shown.serial, detail }
    }

    pub(crate) fn is_current(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    /// The connection, made anew when it was lost and the pause is over.
    pub(crate) fn connection(&self) -> Result<Arc<Connection>, HsmError> {
        let mut state = self.lock();
        if let Some(connection) = &state.connection {
            return Ok(Arc::clone(connection));
        }
        if let Some(error) = &state.refused_for_good {
            return Err(error.clone());
        }
        if let Some(wait) = state.retry_at.and_then(|at| at.checked_duration_since(Instant::now()))
        {
            return Err(HsmError::Unavailable(format!(
                "{}; trying again in {} ms",
                state.last,
                wait.as_millis()
            )));
        }
        match self.reconnect(&mut state) {
            Ok(connection) => Ok(connection),
            Err(Refusal::ForGood(error)) => {
                self.health.failed(sentence(&error));
                state.refused_for_good = Some(error.clone());
                Err(error)
            }
            Err(Refusal::ForNow(error) | Refusal::Ours(error)) => {
                let why = sentence(&error).to_owned();
                self.health.failed(&why);
                state.pause(why.clone());
                Err(HsmError::Unavailable(why))
            }
        }
    }

    /// The connection `generation` does not work any more because of `why`.
    pub(crate) fn lost(&self, generation: u64, why: &str) {
        let mut state = self.lock();
        if state.connection.as_ref().is_none_or(|c| c.generation != generation) {
            return;
        }
        state.connection = None;
        self.generation.store(0, Ordering::Release);
        self.health.failed(why);
        if state.failures == 0 {
            // The first loss is mended at once: mostly it is a login that somebody closed.
            state.failures = 1;
            state.retry_at = None;
            why.clone_into(&mut state.last);
        } else {
            state.pause(why.to_owned());
        }
    }

    /// An operation succeeded: the next loss counts as the first again.
    pub(crate) fn succeeded(&self) {
        if !self.health.is_ready() {
            self.lock().failures = 0;
        }
        self.health.succeeded();
    }

    /// Connects after a loss: when the library as it stands does not give the token back, with
    /// the library restarted.
    fn reconnect(&self, state: &mut State) -> Result<Arc<Connection>, Refusal> {
        let epoch = self.library.epoch();
        match self.connect(state) {
            Err(Refusal::ForNow(_)) => {
                self.library.restart(epoch).map_err(|e| self.no_start(&e))?;
                self.connect(state)
            }
            done => done,
        }
    }

    fn no_start(&self, error: &Error) -> Refusal {
        Refusal::ForNow(self.explain("the PKCS#11 library does not start", error))
    }

    fn no_session(&self, error: &Error) -> Refusal {
        Refusal::ForNow(self.explain("the token opens no session", error))
    }

    fn connect(&self, state: &mut State) -> Result<Arc<Connection>, Refusal> {
        self.library.initialize().map_err(|e| self.no_start(&e))?;
        let _inside = self.library.enter().map_err(|e| self.no_start(&e))?;
        let epoch = self.library.epoch();
        let (slot, info) =
            find_token(&self.library, &self.config.token).map_err(Refusal::ForNow)?;
        let shown = self.library.path.display().to_string();
        self.health.connected(info.label(), info.serial_number(), &shown);
        check_mechanisms(&self.library, slot, &self.profile, info.label())
            .map_err(Refusal::ForNow)?;
        let anchor = Held::open(&self.library, slot).map_err(|e| self.no_session(&e))?;
        self.login(&anchor, slot, &info)?;
        let keks = self.keks(&anchor, state).map_err(Refusal::ForNow)?;
        let mechanisms = mechanisms(&self.library, slot)
            .map_err(|e| Refusal::ForNow(self.explain("the token tells no mechanisms", &e)))?;
        let session_limit = match info.max_session_count() {
            Limit::Max(n) => usize::try_from(n).ok(),
            Limit::Unavailable | Limit::Infinite => None,
        };
        let anchor = Arc::new(Mutex::new(anchor));
        Ok(self.publish(state, |generation| Connection {
            generation,
            epoch,
            slot,
            keks,
            anchor,
            pairs: Arc::default(),
            session_limit,
            mechanisms,
        }))
    }

    fn publish(&self, state: &mut State, make: impl FnOnce(u64) -> Connection) -> Arc<Connection> {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        let connection = Arc::new(make(generation));
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Known {
            sealing: connection.keks.current().map(|kek| kek.id.clone()),
            keks: connection.keks.list(),
        };
        state.connection = Some(Arc::clone(&connection));
        self.generation.store(generation, Ordering::Release);
        self.health.changed();
        connection
    }

    /// What the token says of its memory for private objects.
    pub(crate) fn room(&self, lane: &Lane) -> Result<TokenRoom, OpError> {
        let info = self.library.pkcs11.get_token_info(lane.connection.slot)?;
        let bytes = |known: Option<usize>| known.map(|bytes| bytes as u64);
        let (free, total) = (info.free_private_memory(), info.total_private_memory());
        Ok(TokenRoom { free_bytes: bytes(free), total_bytes: bytes(total) })
    }

    /// A sentence about a PKCS#11 error that waiting may mend.
    pub(crate) fn explain(&self, what: &str, error: &Error) -> HsmError {
        HsmError::Unavailable(format!(
            "{what} (token with {}): {}; check that the device is connected and its service runs",
            self.config.token,
            code(error)
        ))
    }
}

impl State {
    fn pause(&mut self, why: String) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(7)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(Instant::now() + pause);
        self.last = why;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut state = State::default();
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            let before = Instant::now();
            state.pause("gone".to_owned());
            let pause = state.retry_at.unwrap() - before;
            assert!(pause + Duration::from_millis(50) >= last);
            last = pause;
        }
        assert!(last >= LONGEST_PAUSE && last < LONGEST_PAUSE * 2);
    }
}
