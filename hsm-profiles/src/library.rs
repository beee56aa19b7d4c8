//! One loaded PKCS#11 library per path and process. Enter through [`load`].
//!
//! `C_Initialize` and `C_Finalize` act on the whole process, so tokens of one library share one
//! [`Library`]. Some libraries look for tokens only when they start: one that lost a token is
//! restarted ([`Library::restart`]), once for all who noticed.
//!
//! Invariant: every call into the library is made inside [`Library::enter`], and a restart waits
//! until nobody is inside. So no call meets a library that is being finalized, and no session of
//! before is used after, when its number may name somebody else's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use km_core::hsm::HsmError;
use tracing::info;

use crate::profile::Profile;

static LOADED: Mutex<BTreeMap<PathBuf, Arc<Library>>> = Mutex::new(BTreeMap::new());
/// How long a restart waits for running calls; longer, and one of them hangs.
const LEAVE_WAIT: Duration = Duration::from_secs(2);

/// A library that is loaded and initialized.
pub(crate) struct Library {
    pub(crate) pkcs11: Pkcs11,
    pub(crate) path: PathBuf,
    /// Counts initializations. Handles of an earlier one mean something else now.
    epoch: AtomicU64,
    /// Taken by those who start or restart the library, one at a time.
    turn: Mutex<()>,
    /// Held for reading by whoever is inside the library. Never waited for: see `enter`.
    gate: RwLock<()>,
    /// Set while a restart waits, so that no new call keeps it waiting for ever.
    closing: AtomicBool,
}

impl Library {
    fn new(pkcs11: Pkcs11, path: PathBuf) -> Self {
        Self {
            pkcs11,
            path,
            epoch: AtomicU64::new(0),
            turn: Mutex::default(),
            gate: RwLock::default(),
            closing: AtomicBool::new(false),
        }
    }

    /// Which initialization the handles made now belong to. Steady inside [`Library::enter`].
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Keeps the library from being restarted until the guard is dropped. Does not wait: during
    /// a restart it answers what the library itself would answer.
    pub(crate) fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, Error> {
        let closed = || Error::Pkcs11(RvError::CryptokiNotInitialized, Function::Initialize);
        if self.closing.load(Ordering::Acquire) {
            return Err(closed());
        }
        self.enter_anyway().ok_or_else(closed)
    }

    fn enter_anyway(&self) -> Option<RwLockReadGuard<'_, ()>> {
        match self.gate.try_read() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Initializes the library where it is not (first use, or someone finalized it). Waits for a
    /// running restart.
    pub(crate) fn initialize(&self) -> Result<(), Error> {
        self.start(&self.turn())
    }

    /// Finalizes and initializes the library, unless somebody else did since the caller saw
    /// `epoch`. The sessions and logins of all its tokens in this process are gone then.
    pub(crate) fn restart(&self, epoch: u64) -> Result<(), Error> {
        let turn = self.turn();
        if self.epoch() != epoch {
            return Ok(());
        }
        self.closing.store(true, Ordering::Release);
        let restarted = self.alone().and_then(|_alone| self.start_anew(&turn));
        self.closing.store(false, Ordering::Release);
        restarted
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_anew(&self, turn: &MutexGuard<'_, ()>) -> Result<(), Error> {
        match self.pkcs11.clone().finalize() {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiNotInitialized, _)) => {}
            Err(error) => return Err(error),
        }
        // From here on nothing of before is valid, even when the library does not start again.
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.start(turn)?;
        info!(library = %self.path.display(), "PKCS#11 library restarted to look for its tokens");
        Ok(())
    }

    fn start(&self, _turn: &MutexGuard<'_, ()>) -> Result<(), Error> {
        let args = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match self.pkcs11.initialize(args) {
            Ok(()) => {
                self.epoch.fetch_add(1, Ordering::AcqRel);
                Ok(())
            }
            Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits until nobody is inside. Asks again and again instead of queueing: a waiting writer
    /// would make a reader that is inside, and enters once more to close a session, wait for it.
    fn alone(&self) -> Result<RwLockWriteGuard<'_, ()>, Error> {
        let until = Instant::now() + LEAVE_WAIT;
        loop {
            match self.gate.try_write() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Pkcs11(RvError::FunctionFailed, Function::Finalize));
                }
            }
        }
    }
}

/// An open session that closes with its holder, unless the library was restarted meanwhile:
/// then its number may already name somebody else's session.
pub(crate) struct Held {
    session: Option<Session>,
    library: Arc<Library>,
    epoch: u64,
}

impl Held {
    /// Opens a session. All are read-write: some HSMs know no other kind.
    pub(crate) fn open(library: &Arc<Library>, slot: Slot) -> Result<Self, Error> {
        let epoch = library.epoch();
        let session = library.pkcs11.open_rw_session(slot)?;
        Ok(Self { session: Some(session), library: Arc::clone(library), epoch })
    }

    /// The session, while it is held.
    pub(crate) fn get(&self) -> Result<&Session, Error> {
        self.session.as_ref().ok_or(Error::Pkcs11(RvError::SessionClosed, Function::CloseSession))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let inside = self.library.enter_anyway();
        if inside.is_none() || self.epoch != self.library.epoch() {
            std::mem::forget(self.session.take());
        } else {
            drop(self.session.take());
        }
    }
}

/// The library of `profile`, or the one at `path` when the configuration names it.
pub(crate) fn load(path: Option<&Path>, profile: &Profile) -> Result<Arc<Library>, HsmError> {
    let path = find(path, profile)?;
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = loaded.get(&path) {
        return Ok(Arc::clone(library));
    }
    let shown = path.display().to_string();
    let pkcs11 = Pkcs11::new(&path).map_err(|error| {
        HsmError::Setup(format!(
            "{shown} does not load as a PKCS#11 library: {error}; check hsm.library"
        ))
    })?;
    let library = Arc::new(Library::new(pkcs11, path.clone()));
    library.initialize().map_err(|error| {
        HsmError::Setup(format!(
            "the PKCS#11 library {shown} does not start: {error}; check its own configuration \
             ({})",
            match profile.environment.as_slice() {
                [] => "see the vendor's manual".to_owned(),
                names =>
                    format!("the environment variable {} says where it is", names.join(" or ")),
            }
        ))
    })?;
    loaded.insert(path, Arc::clone(&library));
    Ok(library)
}

/// Canonical, so that two names of one file are one library.
fn find(path: Option<&Path>, profile: &Profile) -> Result<PathBuf, HsmError> {
    let candidates = match path {
        Some(path) => vec![path.to_path_buf()],
        None => profile.libraries.clone(),
    };
    if let Some(found) = candidates.iter().find_map(|p| p.canonicalize().ok()) {
        return Ok(found);
    }
    let tried: Vec<_> = candidates.iter().map(|p| p.display().to_string()).collect();
    let install = match &profile.package {
        Some(package) => format!("run apt-get install {package}"),
        None => "install the vendor's client".to_owned(),
    };
    Err(HsmError::Setup(format!(
        "no PKCS#11 library for the HSM profile {}: tried {}; {install}, or set hsm.library",
        profile.name,
        tried.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever is inside all the time, with one call overlapping the next, lets a restart in.
    #[test]
    fn a_restart_is_not_kept_waiting_by_new_calls() {
        let profile = Profile::load("softhsm2").unwrap();
        let path = find(None, &profile).unwrap();
        let library = Library::new(Pkcs11::new(&path).unwrap(), path);
        std::thread::scope(|scope| {
            let (inside, entered) = std::sync::mpsc::channel();
            let library = &library;
            scope.spawn(move || {
                let mut call = library.enter();
                inside.send(()).unwrap();
                while call.is_ok() {
                    let next = library.enter();
                    drop(std::mem::replace(&mut call, next));
                }
            });
            entered.recv().unwrap();
            // This process has no token: whether SoftHSM starts does not matter here.
            let kept_out = matches!(
                library.restart(library.epoch()),
                Err(Error::Pkcs11(RvError::FunctionFailed, Function::Finalize))
            );
            library.closing.store(true, Ordering::Release); // ends the thread in any case
            assert!(!kept_out);
        });
    }
}
