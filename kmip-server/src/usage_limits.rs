//! Usage Limits: how much an object may still be used. Whatever uses one up goes through
//! [`take`], which is durable before the use.

use kmip::{
    attribute::{Attribute, Attributes, UsageLimits},
    enums::ResultReason,
};

use crate::error::OpError;

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

/// Takes `count` off what is left. An object without limits allows any use.
pub(crate) fn take(rest: &mut Attributes, count: i64) -> Result<(), OpError> {
    if count < 0 {
        return Err(OpError::Invalid("Usage Limits Count: shall not be negative".to_owned()));
    }
    let limits = rest.list.iter_mut().find_map(|instance| match &mut instance.attribute {
        Attribute::UsageLimits(limits) => Some(limits),
        _ => None,
    });
    let Some(limits) = limits else { return Ok(()) };
    let left = left(limits);
    if count > left {
        let text = format!("the object may be used for {left} {:?} more, not {count}", limits.unit);
        return Err(OpError::Check(ResultReason::UsageLimitExceeded, text));
    }
    limits.count = Some(left - count);
    Ok(())
}
