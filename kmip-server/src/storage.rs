//! Protection Storage Masks: where a new object may be kept (KMIP 2.0). Software is sealed bytes in the
//! store, Hardware an object inside the HSM.
//!
//! What the operator set for a tenant is the least: its clients may ask for the inside of the HSM where
//! they would get sealed bytes, and not the other way round.

use kmip::{enums::ResultReason, op::create::ProtectionStorageMasks};

use crate::{context::Context, error::OpError};

/// Sealed bytes outside the HSM.
pub(crate) const SOFTWARE: i32 = 0x1;
/// An object inside the HSM.
pub(crate) const HARDWARE: i32 = 0x2;

/// Has the new objects of the item that is being done kept where `masks` allow.
pub(crate) fn choose(
    cx: &mut Context<'_>,
    masks: Option<&ProtectionStorageMasks>,
) -> Result<(), OpError> {
    choose_for(cx, masks, ResultReason::ProtectionStorageUnavailable)
}

/// The same for the keys of a pair, which are kept in one place: masks of both, of the private key, and of
/// the public key.
pub(crate) fn choose_for_pair(
    cx: &mut Context<'_>,
    [both, private, public]: [Option<&ProtectionStorageMasks>; 3],
) -> Result<(), OpError> {
    let reason = ResultReason::PrivateProtectionStorageUnavailable;
    choose_for(cx, private.or(both), reason)?;
    let kept = place(cx);
    let reason = ResultReason::PublicProtectionStorageUnavailable;
    match public.or(both).filter(|masks| !masks.masks.is_empty()) {
        Some(masks) if !masks.masks.contains(&kept) => Err(refused(reason, kept)),
        _ => Ok(()),
    }
}

fn choose_for(
    cx: &mut Context<'_>,
    masks: Option<&ProtectionStorageMasks>,
    reason: ResultReason,
) -> Result<(), OpError> {
    let Some(masks) = masks.map(|masks| &masks.masks).filter(|masks| !masks.is_empty()) else {
        return Ok(());
    };
    let may = |place: i32| masks.contains(&place);
    let usual = place(cx);
    if may(HARDWARE) && !may(SOFTWARE) && !cx.keep_inside() {
        return Err(refused(reason, usual));
    }
    match may(place(cx)) {
        true => Ok(()),
        false => Err(refused(reason, usual)),
    }
}

fn place(cx: &Context<'_>) -> i32 {
    if cx.objects().keeps_inside(cx.caller.tenant()) { HARDWARE } else { SOFTWARE }
}

fn refused(reason: ResultReason, place: i32) -> OpError {
    let place = if place == HARDWARE { "Hardware" } else { "Software" };
    OpError::Check(reason, format!("this object can be kept as {place}; let the masks allow that"))
}

/// Refuses a key that is made in the token, wrapped there and sealed outside, where that does not do.
pub(crate) fn check_wrapped(cx: &Context<'_>) -> Result<(), OpError> {
    match cx.must_be_inside() {
        false => Ok(()),
        true => {
            let text = "a key that never leaves in clear is wrapped inside the HSM and kept as Software; \
                        let the masks allow that, or let it be extractable and not sensitive";
            Err(OpError::Check(ResultReason::ProtectionStorageUnavailable, text.to_owned()))
        }
    }
}
