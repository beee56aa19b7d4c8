//! The login to one token, and how it comes back when it is lost. Enter through [`Link`].
//!
//! One thread at a time connects; the others wait for its result. A refused PIN ends it for
//! good, since every further try brings the token closer to locking. Any other failure is tried
//! again with growing pauses, driven by requests and by idle workers. Each of these tries restarts
//! the library once: SoftHSM looks for tokens and their objects only when it starts, and other
//! libraries need it as well after their device was away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use cryptoki::slot::{Limit, Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use km_core::hsm::{HsmError, HsmStatus, KekId, KekInfo, TokenRoom};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::config::TokenConfig;
use crate::fault::{Fault, classify};
use crate::health::Health;
use crate::kek::{self, KekSet, SealCounts};
use crate::lane::{Forgotten, Lane, OpError, Pairs};
use crate::library::{Held, Library};
use crate::profile::Profile;
use crate::slot::{check_mechanisms, find_token};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

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
        Self { generation, epoch, slot, keks, anchor, pairs, session_limit }
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
    pub(crate) health: Health,
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
    /// Connects for the first time. A failure says what to change, and whether trying again would
    /// do harm.
    pub(crate) fn open(
        config: TokenConfig,
        profile: Profile,
        library: Arc<Library>,
    ) -> Result<Self, (HsmError, bool)> {
        let link = Self::new(config, profile, library);
        let connected = link.connect(&mut link.lock());
        connected.map_err(|refusal| {
            let for_good = matches!(refusal, Refusal::ForGood(_));
            (refusal.into_error(), for_good)
        })?;
        Ok(link)
    }

    fn new(config: TokenConfig, profile: Profile, library: Arc<Library>) -> Self {
        Self {
            config,
            profile: Arc::new(profile),
            library,
            health: Health::new(),
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
        let explain = |what: &str, error: &Error| link.explain(what, error);
        library.initialize().map_err(|e| explain("the PKCS#11 library does not start", &e))?;
        let (slot, info) = find_token(library, &link.config.token)?;
        let held =
            Held::open(library, slot).map_err(|e| explain("the token opens no session", &e))?;
        link.login(&held, slot, &info).map_err(Refusal::into_error)?;
        Ok(Entered { slot, info, held, profile: Arc::clone(&link.profile) })
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

    /// Makes a KEK, which becomes the current one.
    pub(crate) fn create_kek(&self, lane: &Lane) -> Result<KekInfo, OpError> {
        let made = self.change_keks(lane, |session, keks| {
            let number = keks.next_number();
            let id = kek::generate(session, &self.config.kek_label, number, &self.profile)?;
            Ok(KekInfo { id, number })
        })?;
        info!(kek = %made.id.0, number = made.number, "KEK created");
        Ok(made)
    }

    /// Destroys a KEK with its copies, unless it is the one that seals.
    pub(crate) fn destroy_kek(&self, lane: &Lane, kek: &KekInfo) -> Result<(), OpError> {
        self.change_keks(lane, |session, keks| {
            if keks.current().is_some_and(|current| current.id == kek.id) {
                return Err(OpError::Answer(HsmError::Unsupported(format!(
                    "KEK {} seals new data: make a newer one first",
                    kek.id.0
                ))));
            }
            kek::destroy(session, &self.config.kek_label, kek)
        })?;
        info!(kek = %kek.id.0, number = kek.number, "KEK destroyed");
        Ok(())
    }

    /// Changes the keys in the token and publishes what it then holds.
    fn change_keks<T>(
        &self,
        lane: &Lane,
        change: impl FnOnce(&Session, &KekSet) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        let connection = &lane.connection;
        let mut state = self.lock();
        let (keks, done);
        {
            // The anchor lasts as long as the login, and copies of KEKs as long as their session.
            let anchor = connection.anchor.lock().unwrap_or_else(PoisonError::into_inner);
            let session = anchor.get()?;
            // Not those of the lane: another thread may have changed them since.
            let known = state.connection.as_ref().map_or(&connection.keks, |now| &now.keks);
            done = change(session, known)?;
            keks = self.find_keks(session, &mut state.counts)?;
        }
        self.publish(&mut state, |generation| connection.with(generation, keks));
        Ok(done)
    }

    /// Looks for KEKs once more: another KM, or another token of a cluster, may have made one.
    pub(crate) fn find_again(&self, lane: &Lane) -> Result<(), OpError> {
        let connection = &lane.connection;
        let mut state = self.lock();
        let keks = {
            let anchor = connection.anchor.lock().unwrap_or_else(PoisonError::into_inner);
            self.find_keks(anchor.get()?, &mut state.counts)?
        };
        if keks.list() != connection.keks.list() {
            info!("the token holds other KEKs than before");
            self.publish(&mut state, |generation| connection.with(generation, keks));
        }
        Ok(())
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
        let anchor = Held::open(&self.library, slot)
            .map_err(|e| Refusal::ForNow(self.explain("the token opens no session", &e)))?;
        self.login(&anchor, slot, &info)?;
        let keks = self.keks(&anchor, state).map_err(Refusal::ForNow)?;
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

    fn login(&self, anchor: &Held, slot: Slot, info: &TokenInfo) -> Result<(), Refusal> {
        let token = info.label();
        if info.user_pin_locked() || info.user_pin_final_try() {
            let state = if info.user_pin_locked() { "is locked" } else { "has one try left" };
            return Err(Refusal::ForGood(HsmError::Setup(format!(
                "the user PIN of token {token:?} {state}, so no login was tried: unlock it, or log \
                 in once by hand with the right PIN, then start again"
            ))));
        }
        let Some(user) = self.profile.login.user.kind() else { return Ok(()) };
        let pin = self.config.pin.read().map_err(Refusal::Ours)?;
        self.profile.login.pin.check(&pin).map_err(|what| Refusal::Ours(self.odd_pin(what)))?;
        // Moves the bytes: the secret box overwrites them when it is dropped.
        let pin = RawAuthPin::new(Box::new(take_bytes(pin)));
        let session = anchor.get().map_err(|e| Refusal::ForNow(self.explain("login", &e)))?;
        match session.login_with_raw(user, &pin) {
            // The login belongs to the process: another `Token` may have done it.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(error) if classify(&error, &self.profile.errors) == Fault::Pin => {
                Err(Refusal::ForGood(self.wrong_pin(slot, token, &error)))
            }
            Err(error) => Err(Refusal::ForNow(self.explain("the token takes no login", &error))),
        }
    }

    /// A PIN the token would not take, which was not tried.
    fn odd_pin(&self, what: &str) -> HsmError {
        let file =
            self.config.pin.path().map_or_else(|e| e.to_string(), |p| p.display().to_string());
        HsmError::Setup(format!(
            "the HSM PIN in {file} {what}, as the profile {} needs: correct the file; no login was \
             tried",
            self.profile.name
        ))
    }

    fn wrong_pin(&self, slot: Slot, token: &str, error: &Error) -> HsmError {
        let file =
            self.config.pin.path().map_or_else(|e| e.to_string(), |p| p.display().to_string());
        // PKCS#11 tells tries left by flags, never by number.
        let tries = match self.library.pkcs11.get_token_info(slot) {
            Ok(info) if info.user_pin_locked() => "the PIN is locked now",
            Ok(info) if info.user_pin_final_try() => "one try is left before it locks",
            Ok(info) if info.user_pin_count_low() => {
                "wrong PINs have been tried since the last login"
            }
            _ => "the token does not tell how many tries are left",
        };
        HsmError::Setup(format!(
            "token {token:?} refuses the PIN in {file} ({}); {tries}; correct the file and start \
             again: this process does not try a second time",
            code(error)
        ))
    }

    fn keks(&self, anchor: &Held, state: &mut State) -> Result<KekSet, HsmError> {
        let prefix = &self.config.kek_label;
        let session = anchor.get().map_err(|e| self.explain("the anchor session", &e))?;
        let find = |counts: &mut SealCounts| {
            self.find_keks(session, counts).map_err(|e| match e {
                OpError::Token(error) => self.explain("the token does not list its keys", &error),
                OpError::Answer(error) | OpError::Close(error) => error,
            })
        };
        let keks = find(&mut state.counts)?;
        if keks.current().is_some() {
            return Ok(keks);
        }
        if !self.config.create_kek || !self.current_kek().0.is_empty() {
            return Err(HsmError::Setup(format!(
                "the token with {} holds no KEK labelled {prefix:?} and a number that may {}, as \
                 the profile {} seals: restore it from the HSM's backup, or set hsm.create_kek = \
                 true for a new KM that has no data yet, or for one whose profile was changed",
                self.config.token,
                self.profile.seal.usage(),
                self.profile.name
            )));
        }
        let number = keks.next_number();
        let id = kek::generate(session, prefix, number, &self.profile)
            .map_err(|e| self.explain("the token does not generate a KEK", &e))?;
        info!(kek = %id.0, number, "first KEK created");
        find(&mut state.counts)
    }

    fn find_keks(&self, session: &Session, counts: &mut SealCounts) -> Result<KekSet, OpError> {
        KekSet::find(session, &self.config.kek_label, &self.profile.seal, counts)
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

fn take_bytes(mut pin: zeroize::Zeroizing<Vec<u8>>) -> Vec<u8> {
    std::mem::take(&mut *pin)
}

/// The error by its PKCS#11 name and the function that met it.
pub(crate) fn code(error: &Error) -> String {
    match error {
        Error::Pkcs11(RvError::VendorDefined(number), function) => {
            format!("C_{function:?} answered vendor code {number:#x}")
        }
        Error::Pkcs11(RvError::UnknownErrorCode(number), function) => {
            format!("C_{function:?} answered unknown code {number:#x}")
        }
        Error::Pkcs11(code, function) => {
            format!("C_{function:?} answered {}", standard_name(&format!("{code:?}")))
        }
        other => other.to_string(),
    }
}

/// `PinIncorrect` as operators search for it: `CKR_PIN_INCORRECT`.
fn standard_name(variant: &str) -> String {
    let mut name = "CKR".to_owned();
    for letter in variant.chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// The sentence of an error, without the words that tell its kind.
fn sentence(error: &HsmError) -> &str {
    match error {
        HsmError::Unavailable(what)
        | HsmError::Refused(what)
        | HsmError::Input(what)
        | HsmError::Unsupported(what)
        | HsmError::Full(what)
        | HsmError::Setup(what) => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;

    #[test]
    fn codes_are_told_by_their_standard_names() {
        let error = Error::Pkcs11(RvError::UserPinNotInitialized, Function::Login);
        assert_eq!(code(&error), "C_Login answered CKR_USER_PIN_NOT_INITIALIZED");
    }

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
