//! Looks at tokens without using them for data. Enter through [`list`], [`login`] or
//! [`test`](fn@test).
//!
//! The library is loaded into the calling process, so call it in one that ends soon.

mod abilities;
mod agree;
mod modern;
mod speed;
mod test;

use std::path::{Path, PathBuf};

use cryptoki::slot::{Limit, TokenInfo};
use km_core::hsm::HsmError;
use serde::Serialize;

pub use abilities::Ability;
pub use speed::Speed;
pub use test::{Examined, Subject, test};

use crate::config::{TokenConfig, TokenSelector};
use crate::kek::KekSet;
use crate::lane::OpError;
use crate::library;
use crate::link::{Link, code};
use crate::profile::{BUILT_IN, Profile};
use crate::slot;

/// One token as its library describes it.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The library it was found through.
    pub library: PathBuf,
    /// Its label, which configurations choose it by.
    pub label: String,
    /// Its serial number.
    pub serial: String,
    /// Who made it.
    pub manufacturer: String,
    /// What it is.
    pub model: String,
    /// Version of its firmware, or of the library where there is none.
    pub firmware: String,
    /// The built-in profile made for it; none is known for others.
    pub profile: Option<&'static str>,
    /// Bytes free for private objects; none where the token does not say.
    pub free_bytes: Option<usize>,
    /// Sessions open, as far as it says.
    pub sessions: Option<u64>,
    /// Most sessions it allows; none means it sets no limit or does not say.
    pub most_sessions: Option<u64>,
    /// Mechanisms it lists that have a name in PKCS#11 3.2.
    pub mechanisms: usize,
    /// What is known about its user PIN.
    pub pin: &'static str,
}

impl Found {
    fn new(library: &Path, info: &TokenInfo, mechanisms: usize) -> Self {
        Self {
            library: library.to_owned(),
            label: info.label().to_owned(),
            serial: info.serial_number().to_owned(),
            manufacturer: info.manufacturer_id().to_owned(),
            model: info.model().to_owned(),
            firmware: info.firmware_version().to_string(),
            profile: Profile::made_for(info.manufacturer_id(), info.model()),
            free_bytes: info.free_private_memory(),
            sessions: info.session_count(),
            most_sessions: match info.max_session_count() {
                Limit::Max(most) => Some(most),
                Limit::Unavailable | Limit::Infinite => None,
            },
            mechanisms,
            pin: pin_state(info),
        }
    }
}

fn pin_state(info: &TokenInfo) -> &'static str {
    if !info.user_pin_initialized() {
        "not set"
    } else if info.user_pin_locked() {
        "locked"
    } else if info.user_pin_final_try() {
        "one try left"
    } else if info.user_pin_count_low() {
        "wrong ones were tried"
    } else {
        "set"
    }
}

/// The tokens of the library at `path`, or of all libraries that built-in profiles know and this
/// machine has. Nobody is logged in.
///
/// # Errors
/// [`HsmError::Setup`] when a library does not load or start; of several, only when none does.
pub fn list(path: Option<&Path>) -> Result<Vec<Found>, HsmError> {
    if let Some(path) = path {
        return tokens_of(path, &Profile::load("generic")?);
    }
    let mut found: Vec<Found> = Vec::new();
    let mut refused = None;
    for (name, _) in BUILT_IN {
        let profile = Profile::load(name)?;
        let here = profile.libraries.iter().find_map(|path| path.canonicalize().ok());
        let Some(path) = here.filter(|path| found.iter().all(|f| f.library != *path)) else {
            continue;
        };
        match tokens_of(&path, &profile) {
            Ok(tokens) => found.extend(tokens),
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// The one token `selector` names, in the library at `path` or in those that [`list`] looks at.
///
/// # Errors
/// [`HsmError::Setup`] when there is none, or more than one.
pub fn find(path: Option<&Path>, selector: &TokenSelector) -> Result<Found, HsmError> {
    let mut tokens = list(path)?.into_iter().filter(|token| match selector {
        TokenSelector::Label(label) => token.label == *label,
        TokenSelector::Serial(serial) => token.serial == *serial,
    });
    match (tokens.next(), tokens.next()) {
        (Some(token), None) => Ok(token),
        (Some(_), Some(_)) => Err(HsmError::Setup(format!(
            "several tokens have {selector}: choose one by its serial number or library, as `qkm \
             hsm list` shows them"
        ))),
        (None, _) => Err(HsmError::Setup(format!(
            "no token with {selector}: `qkm hsm list` shows those that are found; for one of another \
             library name it"
        ))),
    }
}

fn tokens_of(path: &Path, profile: &Profile) -> Result<Vec<Found>, HsmError> {
    let library = library::load(Some(path), profile)?;
    let shown = library.path.display();
    let tokens = slot::present(&library)
        .map_err(|e| HsmError::Setup(format!("{shown} does not list its tokens: {}", code(&e))))?;
    let found = |(slot, info): &(cryptoki::slot::Slot, TokenInfo)| {
        let mechanisms = library.pkcs11.get_mechanism_list(*slot).map_or(0, |all| all.len());
        Found::new(&library.path, info, mechanisms)
    };
    Ok(tokens.iter().map(found).collect())
}

/// What a login found.
#[derive(Clone, Debug, Serialize)]
pub struct LoggedIn {
    /// The token.
    pub token: Found,
    /// The profile that was used.
    pub profile: String,
    /// KEKs under the configured label prefix, oldest first.
    pub keks: Vec<String>,
}

/// Logs in once with the configured PIN, looks, and logs out with the end of the process. Makes
/// nothing. A PIN that is refused is not tried again, and none is tried when only one try is left.
///
/// # Errors
/// [`HsmError::Setup`] with what to correct; [`HsmError::Unavailable`] when the token is away.
pub fn login(config: TokenConfig) -> Result<LoggedIn, HsmError> {
    config.check()?;
    let profile = Profile::load(&config.profile)?;
    let library = library::load(config.library.as_deref(), &profile)?;
    let prefix = config.kek_label.clone();
    let entered = Link::enter_once(config, profile, &library)?;
    let session = entered.held.get().map_err(|e| HsmError::Unavailable(code(&e)))?;
    let keks = KekSet::find(session, &prefix, &entered.profile.seal, &mut Default::default());
    let keks = keks.map_err(|error| match error {
        OpError::Answer(error) | OpError::Close(error) => error,
        OpError::Token(error) => HsmError::Unavailable(code(&error)),
    })?;
    let mechanisms = library.pkcs11.get_mechanism_list(entered.slot).map_or(0, |all| all.len());
    // Anew: the login may have changed what the token says of its PIN.
    let info = library.pkcs11.get_token_info(entered.slot).unwrap_or(entered.info);
    Ok(LoggedIn {
        token: Found::new(&library.path, &info, mechanisms),
        profile: entered.profile.name.clone(),
        keks: keks.list().into_iter().map(|kek| kek.id.0).collect(),
    })
}
