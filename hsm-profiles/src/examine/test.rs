//! The conformance and speed probe of a token. Enter through [`test`](fn@test).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cryptoki::session::Session;
use km_core::hsm::{Custody, Hsm, HsmError};
use km_core::material::ClearBytes;
use serde::Serialize;

use super::abilities::{Ability, Bench, abilities};
use super::speed::{Speed, speeds};
use super::{Found, code};
use crate::config::{PinSource, TokenConfig, TokenSelector};
use crate::kek;
use crate::library;
use crate::link::{Entered, Link};
use crate::profile::Profile;
use crate::slot::find_token;
use crate::suite::{Check, hsm_suite};
use crate::token::Token;

/// What to try on a token that no product profile is made for.
const GENERIC: [&str; 2] = ["generic", "generic-wrap"];
const DEADLINE_MS: u64 = 30_000;

/// A token to examine.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The PKCS#11 library; none means those of the profile.
    pub library: Option<PathBuf>,
    /// The profile, by name or path; none means the one that fits.
    pub profile: Option<String>,
    /// Which of the library's tokens.
    pub token: TokenSelector,
    /// Where the user PIN is. It is tried once.
    pub pin: PinSource,
    /// How long each speed is measured; zero for none.
    pub time: Duration,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Examined {
    /// The token.
    pub token: Found,
    /// The profile all that follows was found with.
    pub profile: String,
    /// What that profile says of its own tests.
    pub tested: String,
    /// Profiles that were tried before it, with what was wrong.
    pub tried: Vec<(String, String)>,
    /// The conformance suite.
    pub checks: Vec<Check>,
    /// Functions with the custody of their keys.
    pub abilities: Vec<Ability>,
    /// How fast it is; empty when a check failed or no time was given.
    pub speeds: Vec<Speed>,
}

impl Examined {
    /// Whether every check passed.
    pub fn fits(&self) -> bool {
        self.checks.iter().all(|check| check.fault.is_none())
    }
}

/// Runs the conformance suite, tries what else the token can do, and measures its speed. Seals under
/// keys made for this, which are destroyed afterwards; nothing else in the token is touched.
///
/// # Errors
/// [`HsmError::Setup`] when the token is not found or refuses the PIN, which is not tried again;
/// what the token cannot do is no error.
pub async fn test(subject: Subject) -> Result<Examined, HsmError> {
    let first = match &subject.profile {
        Some(name) => Profile::load(name)?,
        None => Profile::load(GENERIC[0])?,
    };
    let library = library::load(subject.library.as_deref(), &first)?;
    let (slot, info) = find_token(&library, &subject.token)?;
    let mechanisms = library.pkcs11.get_mechanism_list(slot).map_or(0, |all| all.len());
    let found = Found::new(&library.path, &info, mechanisms);
    let candidates: Vec<String> = match (&subject.profile, found.profile) {
        (Some(name), _) => vec![name.clone()],
        (None, Some(name)) => vec![name.to_owned()],
        (None, None) => GENERIC.map(str::to_owned).to_vec(),
    };
    let mut tried = Vec::new();
    for (at, name) in candidates.iter().enumerate() {
        let last = at + 1 == candidates.len();
        let config = throw_away(&subject, &library.path, name)?;
        let prefix = config.kek_label.clone();
        let entered = Link::enter_once(config.clone(), Profile::load(name)?, &library)?;
        let session = entered.held.get().map_err(unavailable)?;
        let done = examine(&subject, config, &library, &entered, session).await;
        clean(session, &prefix)?;
        match done {
            Err(error) if last => return Err(error),
            Err(error) => tried.push((name.clone(), error.to_string())),
            Ok((checks, ..)) if !last && checks.iter().any(|check| check.fault.is_some()) => {
                let fault = checks.into_iter().find_map(|check| check.fault);
                tried.push((name.clone(), fault.unwrap_or_default()));
            }
            Ok((checks, abilities, speeds)) => {
                let (profile, tested) =
                    (entered.profile.name.clone(), entered.profile.tested.clone());
                let token = found;
                return Ok(Examined { token, profile, tested, tried, checks, abilities, speeds });
            }
        }
    }
    Err(HsmError::Setup("there is no profile to try".to_owned()))
}

type Results = (Vec<Check>, Vec<Ability>, Vec<Speed>);

async fn examine(
    subject: &Subject,
    config: TokenConfig,
    library: &library::Library,
    entered: &Entered,
    session: &Session,
) -> Result<Results, HsmError> {
    let token: Arc<dyn Hsm> = Token::open(config)?;
    let checks = hsm_suite(&*token).await;
    let bench = Bench { library, slot: entered.slot, session, profile: &entered.profile };
    let mut found = sealing(&*token).await;
    found.extend(abilities(&bench));
    // A token that fails the suite may be waiting to connect again: its speed means nothing.
    let fits = checks.iter().all(|check| check.fault.is_none());
    let speeds = match subject.time {
        time if fits && !time.is_zero() => speeds(&token, &bench, time).await?,
        _ => Vec::new(),
    };
    Ok((checks, found, speeds))
}

/// Where the keys are while short and long messages are sealed.
async fn sealing(hsm: &dyn Hsm) -> Vec<Ability> {
    let mut found = Vec::new();
    for (name, len) in [("a key (32 bytes)", 32), ("a block (64 KiB)", 65_536)] {
        let function = format!("seal and open {name}");
        let sealed = hsm.seal(b"custody", &ClearBytes::from_vec(vec![1; len])).await;
        found.push(match sealed {
            Ok(sealed) if sealed.method.custody() == Custody::InToken => {
                Ability::new(function, Custody::InToken, "")
            }
            Ok(_) => Ability::new(function, Custody::HostTransient, "by a data key each"),
            Err(error) => Ability { function, custody: None, detail: error.to_string() },
        });
    }
    found
}

/// The token with a KEK of its own name, which no KM looks for.
fn throw_away(
    subject: &Subject,
    library: &std::path::Path,
    profile: &str,
) -> Result<TokenConfig, HsmError> {
    let mut name = [0; 4];
    aws_lc_rs::rand::fill(&mut name)
        .map_err(|_| HsmError::Unavailable("this machine gives no random numbers".to_owned()))?;
    Ok(TokenConfig {
        library: Some(library.to_owned()),
        kek_label: format!("qkm-test-{}-", hex::encode(name)),
        create_kek: true,
        deadline_ms: DEADLINE_MS,
        ..TokenConfig::new(profile, subject.token.clone(), subject.pin.clone())
    })
}

/// Destroys the keys that were made for the test: the KEK, and the one that wraps in its epoch.
fn clean(session: &Session, prefix: &str) -> Result<(), HsmError> {
    let left = |error| {
        HsmError::Unavailable(format!(
            "the test's keys labelled {prefix:?} and more could not be destroyed: {}; delete them",
            code(&error)
        ))
    };
    for label in [format!("{prefix}1"), format!("{prefix}w-1")] {
        for handle in kek::labelled(session, label).map_err(left)? {
            session.destroy_object(handle).map_err(left)?;
        }
    }
    Ok(())
}

fn unavailable(error: cryptoki::error::Error) -> HsmError {
    HsmError::Unavailable(code(&error))
}
