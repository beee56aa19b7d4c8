//! Tokens in software, made on the spot for demonstrations and tests. Enter through [`provision`].
//!
//! Both products ([`SoftToken`]) read an environment variable once, when they are initialized. A
//! running process does not change its own environment safely, so the token is made in a child
//! process ([`provision`] starts it, it calls [`init_token`]), and whoever uses the token is started
//! with the variable set to [`Provisioned::conf`].

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use cryptoki::error::Error;
use cryptoki::session::UserType;
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use km_core::hsm::HsmError;
use zeroize::Zeroizing;

use crate::config::PinSource;
use crate::library::{self, Held, Library};
use crate::link::code;
use crate::profile::Profile;

/// A product whose tokens are files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftToken {
    /// SoftHSM 2, of the Debian package `softhsm2`.
    SoftHsm,
    /// Kryoptic, which `scripts/setup.sh tests` builds.
    Kryoptic,
}

/// The variable that tells SoftHSM where its configuration is.
pub const CONF_VARIABLE: &str = "SOFTHSM2_CONF";

impl SoftToken {
    /// The variable that tells the library where its configuration is.
    pub fn conf_variable(self) -> &'static str {
        match self {
            Self::SoftHsm => CONF_VARIABLE,
            Self::Kryoptic => "KRYOPTIC_CONF",
        }
    }

    /// The built-in profile.
    pub fn profile(self) -> &'static str {
        match self {
            Self::SoftHsm => "softhsm2",
            Self::Kryoptic => "kryoptic",
        }
    }

    /// Writes a configuration in `dir`, whose tokens will be there too (mode 0700); gives the file.
    ///
    /// # Errors
    /// [`HsmError::Setup`] naming the path.
    pub fn write_conf(self, dir: &Path) -> Result<PathBuf, HsmError> {
        let tokens = dir.join(match self {
            Self::SoftHsm => "softhsm",
            Self::Kryoptic => "kryoptic",
        });
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&tokens)
            .map_err(|e| failed(&tokens.display().to_string(), &e))?;
        let tokens =
            tokens.canonicalize().map_err(|e| failed(&tokens.display().to_string(), &e))?;
        let tokens = tokens.display();
        let (name, text) = match self {
            Self::SoftHsm => (
                "softhsm2.conf",
                format!(
                    "directories.tokendir = {tokens}\nobjectstore.backend = file\n\
                     log.level = ERROR\nslots.removable = false\n"
                ),
            ),
            // Its slots are fixed: two, for tests that need a second token.
            Self::Kryoptic => (
                "kryoptic.conf",
                [1, 2]
                    .map(|n| {
                        format!(
                            "[[slots]]\nslot = {n}\ndbtype = \"sqlite\"\n\
                             dbargs = \"{tokens}/{n}.sql\"\n"
                        )
                    })
                    .concat(),
            ),
        };
        let conf = dir.join(name);
        std::fs::write(&conf, text).map_err(|e| failed(&conf.display().to_string(), &e))?;
        conf.canonicalize().map_err(|e| failed(&conf.display().to_string(), &e))
    }

    /// The product whose configuration this process was started with.
    fn of_environment() -> Result<Self, HsmError> {
        let both = [Self::SoftHsm, Self::Kryoptic];
        let given = |product: &Self| std::env::var_os(product.conf_variable()).is_some();
        both.into_iter().find(given).ok_or_else(|| {
            HsmError::Setup(format!(
                "neither {} nor {} is set: without it the token would be made in the system's store",
                both[0].conf_variable(),
                both[1].conf_variable()
            ))
        })
    }
}

const PIN_RANDOM_BYTES: usize = 16;

/// A token that exists now.
#[derive(Clone, Debug)]
pub struct Provisioned {
    /// Value for [`SoftToken::conf_variable`] in the process that uses the token.
    pub conf: PathBuf,
    /// File with the random user PIN, mode 0600.
    pub pin_file: PathBuf,
    /// Label of the token.
    pub label: String,
}

/// Makes the token `label` with everything it needs under `dir`.
///
/// `child` is a command that calls [`init_token`] with its last two arguments, the label and the
/// PIN file, which are appended here.
///
/// # Errors
/// [`HsmError::Setup`] with what the child printed.
pub fn provision(
    product: SoftToken,
    dir: &Path,
    label: &str,
    mut child: Command,
) -> Result<Provisioned, HsmError> {
    let conf = product.write_conf(dir)?;
    let pin_file = dir.join(format!("{label}.pin"));
    let output = child
        .arg(label)
        .arg(&pin_file)
        .env(product.conf_variable(), &conf)
        .output()
        .map_err(|e| failed(&format!("starting {:?}", child.get_program()), &e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(HsmError::Setup(format!("the token {label:?} was not made: {}", said.trim())));
    }
    Ok(Provisioned { conf, pin_file, label: label.to_owned() })
}

/// Initializes a token over PKCS#11 and writes its random user PIN to `pin_file` (new, mode 0600).
///
/// Call it in a process that was started with one of [`SoftToken::conf_variable`], which decides of
/// the product. `library` as in [`crate::TokenConfig::library`]. The security officer's PIN is random too and kept nowhere:
/// such a token is thrown away, not repaired. Gives the serial number.
///
/// # Errors
/// [`HsmError::Setup`] with the step that failed; a label that exists already is refused.
pub fn init_token(
    library: Option<&Path>,
    label: &str,
    pin_file: &Path,
) -> Result<String, HsmError> {
    if label.is_empty() || label.len() > 32 {
        return Err(HsmError::Setup(format!("the token label {label:?} has not 1 to 32 bytes")));
    }
    let product = SoftToken::of_environment()?;
    let library = library::load(library, &Profile::load(product.profile())?)?;
    write_pin(pin_file)?;
    let made = initialize(&library, label, pin_file);
    if made.is_err() {
        // A PIN for a token that does not exist would only mislead.
        drop(std::fs::remove_file(pin_file));
    }
    made
}

fn initialize(
    library: &std::sync::Arc<Library>,
    label: &str,
    pin: &Path,
) -> Result<String, HsmError> {
    let step = |what: &str, error: Error| {
        HsmError::Setup(format!("making the token {label:?}: {what}: {}", code(&error)))
    };
    let free = free_slot(library, label)?;
    let so_pin = AuthPin::from(random_hex()?.as_str());
    library.pkcs11.init_token(free, &so_pin, label).map_err(|e| step("C_InitToken", e))?;
    // SoftHSM gives the token a new slot number, Kryoptic does not.
    let (slot, info) =
        crate::slot::find_token(library, &crate::TokenSelector::Label(label.to_owned()))?;
    let held = Held::open(library, slot).map_err(|e| step("C_OpenSession", e))?;
    let session = held.get().map_err(|e| step("C_OpenSession", e))?;
    session.login(UserType::So, Some(&so_pin)).map_err(|e| step("C_Login as SO", e))?;
    let pin = PinSource::File(pin.to_owned()).read()?;
    let pin = AuthPin::from(std::str::from_utf8(&pin).map_err(|e| step("PIN", Error::Utf8(e)))?);
    session.init_pin(&pin).map_err(|e| step("C_InitPIN", e))?;
    session.logout().map_err(|e| step("C_Logout", e))?;
    Ok(info.serial_number().to_owned())
}

/// A slot whose token is not initialized.
fn free_slot(library: &Library, label: &str) -> Result<Slot, HsmError> {
    let fail = |e: Error| HsmError::Setup(format!("the library lists no slots: {}", code(&e)));
    let mut free = None;
    for slot in library.pkcs11.get_slots_with_token().map_err(fail)? {
        let info = library.pkcs11.get_token_info(slot).map_err(fail)?;
        if !info.token_initialized() {
            free = Some(slot);
        } else if info.label() == label {
            return Err(HsmError::Setup(format!(
                "a token {label:?} exists already (serial {}): choose another label, or delete it",
                info.serial_number()
            )));
        }
    }
    free.ok_or_else(|| HsmError::Setup("the library offers no free slot".to_owned()))
}

fn write_pin(path: &Path) -> Result<(), HsmError> {
    let pin = random_hex()?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(pin.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()
        })
        .map_err(|e| failed(&path.display().to_string(), &e))
}

/// 128 random bits as text: a token that is not initialized has no generator to ask.
fn random_hex() -> Result<Zeroizing<String>, HsmError> {
    let mut bytes = Zeroizing::new([0u8; PIN_RANDOM_BYTES]);
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut *bytes))
        .map_err(|e| failed("/dev/urandom", &e))?;
    Ok(Zeroizing::new(hex::encode(*bytes)))
}

fn failed(what: &str, error: &std::io::Error) -> HsmError {
    HsmError::Setup(format!("making a token: {what}: {error}"))
}
