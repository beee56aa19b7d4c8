//! The one try with the PIN. Enter through [`Link::login`].

use cryptoki::error::{Error, RvError};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use km_core::hsm::HsmError;

use super::{Link, Refusal, code};
use crate::fault::{Fault, classify};
use crate::library::Held;

impl Link {
    pub(super) fn login(&self, anchor: &Held, slot: Slot, info: &TokenInfo) -> Result<(), Refusal> {
        let token = info.label();
        if info.user_pin_locked() || info.user_pin_final_try() {
            let state = if info.user_pin_locked() { "is locked" } else { "has one try left" };
            // To look costs no try, so looking again does no harm.
            return Err(Refusal::ForNow(HsmError::Setup(format!(
                "the user PIN of token {token:?} {state}, so no login was tried: unlock it, or log \
                 in once by hand with the right PIN"
            ))));
        }
        let Some(user) = self.profile.login.user.kind() else { return Ok(()) };
        let pin = self.config.pin.read().map_err(Refusal::Ours)?;
        self.profile.login.pin.check(&pin).map_err(|what| Refusal::Ours(self.odd_pin(what)))?;
        // Moves the bytes: the secret box overwrites them when it is dropped.
        let pin = RawAuthPin::new(Box::new(wiped::Wiped::into_vec(pin)));
        let session = anchor.get().map_err(|e| Refusal::ForNow(self.explain("login", &e)))?;
        match session.login_with_raw(user, &pin) {
            // The login belongs to the process: another `Token` may have done it.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            // No try was counted, so another does no harm.
            Err(Error::Pkcs11(RvError::UserPinNotInitialized, _)) => {
                Err(Refusal::ForNow(HsmError::Setup(format!(
                    "token {token:?} has no user PIN: set one by the HSM's means"
                ))))
            }
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
}
