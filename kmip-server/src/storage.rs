//! Protection Storage Masks: where a new object may be kept (KMIP 2.0). Software is sealed bytes in the
//! store, Hardware an object inside the HSM.
//!
//! A key that never leaves the HSM in clear is wrapped by it and kept as Software. Others are kept where the
//! operator says, or inside the HSM when their client asks and the operator lets it.

use kmip::{enums::ResultReason, op::create::ProtectionStorageMasks};

use crate::{context::Context, error::OpError};

/// Sealed bytes outside the HSM.
pub(crate) const SOFTWARE: i32 = 0x1;
/// An object inside the HSM.
pub(crate) const HARDWARE: i32 = 0x2;

/// Where new objects of the caller may be kept, the usual place first. Keys that the HSM wraps are kept as
/// Software whatever the operator says.
pub(crate) fn offered(cx: &Context<'_>) -> ProtectionStorageMasks {
    let objects = cx.objects();
    let masks = match place(cx) {
        HARDWARE => vec![HARDWARE, SOFTWARE],
        _ if objects.may_keep_inside(cx.caller.tenant()) => vec![SOFTWARE, HARDWARE],
        _ => vec![SOFTWARE],
    };
    ProtectionStorageMasks { masks }
}

/// Has the new object of the item that is being done kept where `masks` allow. `wrapped`: the HSM makes it,
/// and it never leaves it in clear.
pub(crate) fn choose(
    cx: &mut Context<'_>,
    masks: Option<&ProtectionStorageMasks>,
    wrapped: bool,
) -> Result<(), OpError> {
    choose_for(cx, masks, wrapped, ResultReason::ProtectionStorageUnavailable)
}

/// The same for the keys of a pair, whose private key may be `wrapped`: masks of both, of the private key,
/// and of the public key. What is not wrapped is kept in one place.
pub(crate) fn choose_for_pair(
    cx: &mut Context<'_>,
    [both, private, public]: [Option<&ProtectionStorageMasks>; 3],
    wrapped: bool,
) -> Result<(), OpError> {
    let of_private = ResultReason::PrivateProtectionStorageUnavailable;
    let of_public = ResultReason::PublicProtectionStorageUnavailable;
    choose_for(cx, private.or(both), wrapped, of_private)?;
    choose_for(cx, public.or(both), false, of_public)?;
    match wrapped || may(private.or(both), place(cx)) {
        true => Ok(()),
        false => Err(refused(of_private, place(cx))),
    }
}

fn choose_for(
    cx: &mut Context<'_>,
    masks: Option<&ProtectionStorageMasks>,
    wrapped: bool,
    reason: ResultReason,
) -> Result<(), OpError> {
    let usual = if wrapped { SOFTWARE } else { place(cx) };
    let allowed = may(masks, usual) || (!wrapped && may(masks, HARDWARE) && cx.keep_inside());
    if allowed { Ok(()) } else { Err(refused(reason, usual)) }
}

fn may(masks: Option<&ProtectionStorageMasks>, place: i32) -> bool {
    masks.is_none_or(|masks| masks.masks.is_empty() || masks.masks.contains(&place))
}

fn place(cx: &Context<'_>) -> i32 {
    if cx.objects().keeps_inside(cx.caller.tenant()) { HARDWARE } else { SOFTWARE }
}

fn refused(reason: ResultReason, place: i32) -> OpError {
    let place = if place == HARDWARE { "Hardware" } else { "Software" };
    OpError::Check(reason, format!("this object can be kept as {place}; let the masks allow that"))
}
