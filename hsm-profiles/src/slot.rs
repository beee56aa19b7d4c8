//! Finding the token and what it can do. Enter through [`find_token`].

use std::sync::Arc;

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::slot::{Slot, TokenInfo};
use km_core::hsm::HsmError;

use crate::config::TokenSelector;
use crate::lane::{FOR_DATA, UNLISTED};
use crate::library::Library;
use crate::profile::{MechanismName, Profile};

/// The one token `selector` names, or an error that lists those present.
pub(crate) fn find_token(
    library: &Library,
    selector: &TokenSelector,
) -> Result<(Slot, TokenInfo), HsmError> {
    let shown = library.path.display();
    let tokens = present(library)
        .map_err(|e| HsmError::Setup(format!("{shown} does not list its tokens: {e}")))?;
    let mut matching = tokens.iter().filter(|(_, info)| match selector {
        TokenSelector::Label(label) => info.label() == label,
        TokenSelector::Serial(serial) => info.serial_number() == serial,
    });
    let first = matching.next();
    if matching.next().is_some() {
        return Err(HsmError::Setup(format!(
            "several tokens of {shown} have {selector}: choose one by serial; present: {}",
            list(&tokens)
        )));
    }
    first.cloned().ok_or_else(|| {
        HsmError::Setup(format!(
            "no token with {selector} in {shown}; present: {}; correct hsm.token, or initialise \
             the token",
            list(&tokens)
        ))
    })
}

pub(crate) fn present(library: &Library) -> Result<Vec<(Slot, TokenInfo)>, Error> {
    let slots = library.pkcs11.get_slots_with_token()?;
    let mut tokens = Vec::with_capacity(slots.len());
    for slot in slots {
        // A slot that answers with an error must not hide the others.
        if let Ok(info) = library.pkcs11.get_token_info(slot)
            && info.token_initialized()
        {
            tokens.push((slot, info));
        }
    }
    Ok(tokens)
}

fn list(tokens: &[(Slot, TokenInfo)]) -> String {
    if tokens.is_empty() {
        return "none".to_owned();
    }
    let named = |(_, info): &(Slot, TokenInfo)| {
        format!("{:?} (serial {})", info.label(), info.serial_number())
    };
    tokens.iter().map(named).collect::<Vec<_>>().join(", ")
}

/// Whether the token has the mechanism. Its list is not asked: cryptoki leaves out what it does not
/// know.
pub(crate) fn offers(
    library: &Library,
    slot: Slot,
    mechanism: &MechanismName,
) -> Result<bool, Error> {
    match library.pkcs11.get_mechanism_info(slot, mechanism.kind) {
        Ok(_) => Ok(true),
        Err(Error::Pkcs11(RvError::MechanismInvalid, _)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the token can do with keys of applications: its list, with what cryptoki leaves out of it and
/// without what is there for wrapping objects only.
pub(crate) fn mechanisms(library: &Library, slot: Slot) -> Result<Arc<[MechanismType]>, Error> {
    let mut all = library.pkcs11.get_mechanism_list(slot)?;
    all.retain(|mechanism| !FOR_DATA.contains(mechanism));
    for mechanism in UNLISTED.into_iter().chain(FOR_DATA) {
        match library.pkcs11.get_mechanism_info(slot, mechanism) {
            Ok(info) if FOR_DATA.contains(&mechanism) && !(info.encrypt() && info.decrypt()) => {}
            Ok(_) => all.push(mechanism),
            Err(Error::Pkcs11(RvError::MechanismInvalid, _)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all.into())
}

/// Refuses a token that lacks a mechanism the profile needs, naming all that are missing.
pub(crate) fn check_mechanisms(
    library: &Library,
    slot: Slot,
    profile: &Profile,
    token: &str,
) -> Result<(), HsmError> {
    let sealing = profile.sealing();
    let mut missing = Vec::new();
    for wanted in std::iter::once(&sealing).chain(&profile.requires) {
        let offered = offers(library, slot, wanted).map_err(|e| {
            HsmError::Unavailable(format!("token {token:?} does not tell its mechanisms: {e}"))
        })?;
        if !offered {
            missing.push(wanted.to_string());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(HsmError::Unsupported(format!(
        "token {token:?} lacks {}, which the profile {} needs: enable it in the HSM's policy, or \
         choose another profile",
        missing.join(" and "),
        profile.name
    )))
}
