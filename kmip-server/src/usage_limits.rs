//! Usage Limits: how much an object may still be used. Whatever uses one up goes through
//! [`spend`] or [`spend_use`], durable before the use. Only protecting uses count (KMIP, "Usage
//! Limits"): encrypting, signing, making a MAC, deriving.

use kmip::{
    attribute::{Attribute, Attributes, UniqueIdentifier, UsageLimits},
    enums::UsageLimitsUnit,
};

use crate::{change::change, context::Context, error::OpError, locks::Held};

/// As a new object has it: nothing used up.
pub(crate) fn begun(attribute: Attribute) -> Attribute {
    match attribute {
        Attribute::UsageLimits(limits) => {
            Attribute::UsageLimits(UsageLimits { count: Some(limits.total), ..limits })
        }
        other => other,
    }
}

/// As an object has it that was used elsewhere: what is left there is left here.
pub(crate) fn go_on(rest: &mut Attributes, elsewhere: Option<UsageLimits>) {
    let Some(elsewhere) = elsewhere else { return };
    for instance in &mut rest.list {
        if let Attribute::UsageLimits(limits) = &mut instance.attribute {
            limits.count = Some(left(&elsewhere).clamp(0, limits.total.max(0)));
        }
    }
}

/// The limits among the attributes of an object.
pub(crate) fn of(rest: &Attributes) -> Option<&UsageLimits> {
    rest.iter().find_map(|attribute| match attribute {
        Attribute::UsageLimits(limits) => Some(limits),
        _ => None,
    })
}

/// What is left.
pub(crate) fn left(limits: &UsageLimits) -> i64 {
    limits.count.unwrap_or(limits.total)
}

/// Whether any of it was used up.
pub(crate) fn is_touched(limits: &UsageLimits) -> bool {
    left(limits) != limits.total
}

/// Takes `count` off what the object a request names may still be used; durable on return, and
/// never given back. Returns its identifier.
pub(crate) async fn spend(
    cx: &Context<'_>,
    id: Option<UniqueIdentifier>,
    count: i64,
) -> Result<String, OpError> {
    let uid = cx.resolve(id)?;
    let _held = hold(cx, &uid).await;
    let id = Some(UniqueIdentifier::Text(uid));
    Ok(change(cx, id, &[], |draft| take(&mut draft.rest, count)).await?.0)
}

/// What one protecting use of `bytes` bytes takes off `limits`.
fn cost(limits: &UsageLimits, bytes: usize) -> i64 {
    match limits.unit {
        UsageLimitsUnit::Byte => i64::try_from(bytes).unwrap_or(i64::MAX),
        _ => 1,
    }
}

/// Takes one protecting use of `bytes` bytes off an object that has limits; durable on return.
pub(crate) async fn spend_use(cx: &Context<'_>, uid: &str, bytes: usize) -> Result<(), OpError> {
    cx.turn_comes().await;
    let _held = hold(cx, uid).await;
    let id = Some(UniqueIdentifier::from(uid));
    let act =
        change(cx, id, &[], |draft| match of(&draft.rest).map(|limits| cost(limits, bytes)) {
            Some(cost) => take(&mut draft.rest, cost),
            // Deleted meanwhile.
            None => Ok(()),
        });
    act.await.map(|_| ())
}

/// One after the other: many who use up one object would only undo each other's work.
async fn hold(cx: &Context<'_>, uid: &str) -> Held {
    cx.server.locks.hold(vec![format!("limits:{}/{uid}", cx.caller.tenant())]).await
}

/// Takes `count` off what is left.
fn take(rest: &mut Attributes, count: i64) -> Result<(), OpError> {
    if count < 0 {
        return Err(OpError::Invalid("Usage Limits Count: shall not be negative".to_owned()));
    }
    let limits = rest.list.iter_mut().find_map(|instance| match &mut instance.attribute {
        Attribute::UsageLimits(limits) => Some(limits),
        _ => None,
    });
    let limits = limits.ok_or_else(|| OpError::NoAttribute("Usage Limits".to_owned()))?;
    let left = left(limits);
    if count > left {
        let text = format!("the object may be used for {left} {:?} more, not {count}", limits.unit);
        return Err(OpError::Denied(text));
    }
    limits.count = Some(left - count);
    Ok(())
}
