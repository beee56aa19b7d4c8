//! One loaded PKCS#11 library per path and process. Enter through [`load`].
//!
//! `C_Initialize` and `C_Finalize` act on the whole process, so tokens of one library share one
//! [`Library`], and nobody finalizes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use km_core::hsm::HsmError;

use crate::profile::Profile;

static LOADED: Mutex<BTreeMap<PathBuf, Arc<Library>>> = Mutex::new(BTreeMap::new());

/// A library that is loaded and initialized.
pub(crate) struct Library {
    pub(crate) pkcs11: Pkcs11,
    pub(crate) path: PathBuf,
    /// Counts initializations. Session handles of an earlier one mean something else now.
    epoch: AtomicU64,
}

impl Library {
    /// Which initialization the sessions opened now belong to.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Initializes the library where it is not (first use, or someone finalized it).
    pub(crate) fn initialize(&self) -> Result<(), Error> {
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
        if self.epoch != self.library.epoch() {
            std::mem::forget(self.session.take());
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
    let library = Arc::new(Library { pkcs11, path: path.clone(), epoch: AtomicU64::new(0) });
    library.initialize().map_err(|error| {
        HsmError::Setup(format!(
            "the PKCS#11 library {shown} does not start: {error}; check its own configuration \
             (SoftHSM: the file SOFTHSM2_CONF names)"
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
