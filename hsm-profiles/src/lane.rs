//! One session at work. Enter through [`Lane`]; sealing and opening are in `lane/seal.rs`, keys
//! of applications in `lane/using.rs`, data kept in the token in `lane/object.rs`.
//!
//! cryptoki asks for the output length before each operation. SoftHSM answers that on the host,
//! without cryptography: raw calls that do not ask measured the same within 3 %. For an HSM that
//! answers over the network it would be a round trip, to be avoided with raw calls when such a
//! profile is added.

use std::collections::BTreeMap;
use std::sync::Arc;

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState};
use km_core::hsm::{HsmError, KekId};
use km_core::material::ClearBytes;

use crate::library::Held;
use crate::link::{Connection, Link};
use crate::profile::{LoginUser, Profile};

mod action;
mod agree;
mod blocks;
mod brought;
mod derive;
mod gcm;
mod generator;
mod judge;
mod kem;
mod made;
mod object;
mod seal;
mod table;
mod using;

pub(crate) use kem::{Pairs, secret_template, taken, value};
use using::AtHand;
pub(crate) use using::Forgotten;

pub(crate) use gcm::{IV_BYTES, MAX_IV_BYTES, TAG_BYTES};
pub(crate) use generator::Generator;
pub(crate) use table::{FOR_DATA, UNLISTED, with_oaep};

const PROBE_BYTES: usize = 32;

/// Why an operation in the token failed.
pub(crate) enum OpError {
    /// The token said no; the session is to be closed.
    Token(Error),
    /// The answer for the caller; the session is fine.
    Answer(HsmError),
    /// The answer for the caller; the session is to be closed.
    Close(HsmError),
}

impl From<Error> for OpError {
    fn from(error: Error) -> Self {
        Self::Token(error)
    }
}

/// A session and the connection whose key handles it may use.
pub(crate) struct Lane {
    held: Held,
    pub(crate) connection: Arc<Connection>,
    profile: Arc<Profile>,
    generator: Arc<Generator>,
    /// Label prefix of the KEKs.
    prefix: String,
    /// Keys of applications in this session.
    at_hand: AtHand,
    forgotten: Arc<Forgotten>,
    /// How many of them this session has dropped.
    forgot: u64,
    /// The keys that wrap, by epoch and `CKA_ID`.
    wrapping: BTreeMap<(u64, Vec<u8>), ObjectHandle>,
}

impl Lane {
    /// Opens a session, which must find the login that the anchor holds.
    pub(crate) fn open(link: &Link, connection: Arc<Connection>) -> Result<Self, Error> {
        let held = Held::open(&link.library, connection.slot)?;
        check_login(held.get()?, &link.profile)?;
        let (profile, prefix) = (Arc::clone(&link.profile), link.config.kek_label.clone());
        Ok(Self {
            held,
            connection,
            profile,
            generator: Arc::clone(&link.generator),
            prefix,
            at_hand: AtHand::new(link.profile.limits.handles),
            forgotten: Arc::clone(&link.forgotten),
            forgot: 0,
            wrapping: BTreeMap::new(),
        })
    }

    pub(crate) fn session(&self) -> Result<&Session, Error> {
        self.held.get()
    }

    pub(crate) fn random(&self, len: u32) -> Result<ClearBytes, OpError> {
        Ok(ClearBytes::from_vec(self.session()?.generate_random_vec(len)?))
    }

    /// Seals fresh random bytes under the KEK `id`, or the current one, with the object in the
    /// token, and opens them with the one in use: both work, and are the same key.
    pub(crate) fn round_trip(&mut self, id: Option<&KekId>) -> Result<(), OpError> {
        let keks = &self.connection.keks;
        let kek = id.map_or_else(|| keks.current(), |id| keks.get(id)).cloned();
        let kek = kek.ok_or_else(no_kek)?;
        let clear = self.random(PROBE_BYTES as u32)?;
        let sealed = self.seal_under(&kek, kek.kept, b"qkm probe", &clear)?;
        let opened = self.open_sealed(b"qkm probe", &sealed)?;
        if opened != clear || clear.expose(|bytes| bytes.iter().all(|b| *b == 0)) {
            return Err(Error::InvalidValue.into());
        }
        Ok(())
    }
}

/// Whether the session is logged in.
pub(crate) fn check_login(session: &Session, profile: &Profile) -> Result<(), Error> {
    let state = session.get_session_info()?.session_state();
    let logged_in = matches!(state, SessionState::RwUser | SessionState::RoUser);
    // A vendor's own user may show as a state of the vendor's own: only the standard's is known.
    match profile.login.user == LoginUser::User && !logged_in {
        true => Err(Error::Pkcs11(RvError::UserNotLoggedIn, Function::GetSessionInfo)),
        false => Ok(()),
    }
}

fn no_kek() -> OpError {
    OpError::Answer(HsmError::Unsupported("the token holds no KEK".to_owned()))
}
