//! Whose fault an error is: the token's, or that of the data somebody gave. Enter through
//! [`Lane::judge`].

use cryptoki::error::Error;
use cryptoki::object::ObjectHandle;
use km_core::hsm::HsmError;
use km_core::usage::{Action, Cipher, Hash, KeyKind, process};

use super::table::plain;
use super::using::TRIAL;
use super::{Lane, OpError};
use crate::fault::{Fault, classify};
use crate::link::code;

impl Lane {
    /// As [`Lane::judge`], of an action on data that somebody gave: it is to blame only if the token
    /// does the same kind of action on data that is good.
    pub(super) fn judge_use(
        &mut self,
        error: Error,
        kind: KeyKind,
        handle: ObjectHandle,
        action: &Action,
    ) -> OpError {
        if classify(&error, &self.profile.errors) != Fault::Data {
            return self.judge(error);
        }
        if let Err(sick) = self.round_trip(None) {
            return sick;
        }
        match self.try_action(kind, handle, action) {
            // It works, or cannot be tried.
            Ok(()) | Err(OpError::Answer(_)) => {
                OpError::Answer(HsmError::Input(format!("the token says {}", code(&error))))
            }
            Err(OpError::Token(again)) if self.is_over(&again) => OpError::Token(again),
            Err(OpError::Token(_)) => sick(&error),
            Err(close) => close,
        }
    }

    /// The kind of `action` with `handle` on data and parameters that are good.
    fn try_action(
        &self,
        kind: KeyKind,
        handle: ObjectHandle,
        action: &Action,
    ) -> Result<(), OpError> {
        let (one, back) = match action {
            Action::Encrypt(cipher) => (Action::Encrypt(plain(cipher)), None),
            // Without the public key nothing can be encrypted to it.
            Action::Decrypt(Cipher::RsaPkcs1 | Cipher::RsaOaep { .. }) => return Ok(()),
            Action::Decrypt(cipher) => {
                let plain = plain(cipher);
                (Action::Encrypt(plain.clone()), Some(Action::Decrypt(plain)))
            }
            Action::Sign(scheme) => (Action::Sign(*scheme), None),
            Action::Mac(hash) => (Action::Mac(*hash), None),
            Action::Agree | Action::Derive { .. } => (action.clone(), None),
        };
        let input = match action {
            Action::Sign(scheme) => vec![TRIAL[0]; scheme.hash().map_or(TRIAL.len(), Hash::len)],
            Action::Agree => process::make(kind, 0).map_err(OpError::Answer)?.public,
            _ => TRIAL.to_vec(),
        };
        let done = self.act(kind, handle, &one, &input)?;
        match back {
            Some(back)
                if done
                    .expose(|done| self.act(kind, handle, &back, done))?
                    .expose(|clear| clear != input) =>
            {
                Err(Error::InvalidValue.into())
            }
            _ => Ok(()),
        }
    }

    /// Whether it says that session or login are gone, so that a new one may do it.
    fn is_over(&self, error: &Error) -> bool {
        matches!(classify(error, &self.profile.errors), Fault::Session | Fault::Login)
    }

    /// Whose fault an error is where all data was good. A session that is logged out in the middle of a
    /// call may refuse anything: a request is refused only in one that works afterwards.
    pub(super) fn judge(&mut self, error: Error) -> OpError {
        let fault = classify(&error, &self.profile.errors);
        if matches!(fault, Fault::Data | Fault::Request)
            && let Err(gone) = self.round_trip(None)
        {
            return gone;
        }
        match fault {
            Fault::Data => sick(&error),
            Fault::Request => {
                let text = format!("the token refuses: {}", code(&error));
                OpError::Answer(HsmError::Unsupported(text))
            }
            _ => OpError::Token(error),
        }
    }

    /// As [`Lane::judge`], of an operation that may also have said what to answer.
    pub(super) fn judged(&mut self, error: OpError) -> OpError {
        match error {
            OpError::Token(error) => self.judge(error),
            answer => answer,
        }
    }
}

/// The token works otherwise, but not in this.
fn sick(error: &Error) -> OpError {
    let text = format!("the token fails with keys of applications: {}", code(error));
    OpError::Close(HsmError::Unavailable(text))
}

pub(super) fn unsupported(why: String) -> OpError {
    OpError::Answer(HsmError::Unsupported(why))
}
