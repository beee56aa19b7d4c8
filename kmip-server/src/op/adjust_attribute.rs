//! Adjust Attribute: a number more, a number less, or the opposite.

use kmip::{
    DateTime, Interval,
    attribute::{Attribute, VendorAttribute},
    enums::{AdjustmentType, ResultReason},
    op::adjust_attribute::{Request, Response},
    ttlv::Value,
};

use crate::{
    change::{Which, change},
    context::Context,
    error::OpError,
    wanted::called,
};

pub(crate) async fn adjust_attribute(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let Request { id, name, adjustment, by } = request;
    let by = match by {
        None => 1,
        Some(Value::Integer(by)) => i64::from(by),
        Some(Value::LongInteger(by)) => by,
        Some(Value::Interval(by)) => i64::from(by),
        Some(_) => return Err(bad("Adjustment Value: shall be a number or an interval")),
    };
    let act = change(cx, id, &[], |draft| {
        let adjusted = adjust(draft.value(&name)?, adjustment, by)?;
        draft.modify(Which::Only, &adjusted)
    });
    Ok(Response { id: act.await?.0 })
}

fn adjust(attribute: Attribute, how: AdjustmentType, by: i64) -> Result<Attribute, OpError> {
    let date = |DateTime(at)| number(at, how, by).map(DateTime);
    let interval = |Interval(long)| {
        let long = number(i64::from(long), how, by)?;
        u32::try_from(long).map(Interval).map_err(|_| out_of_range())
    };
    Ok(match attribute {
        Attribute::ActivationDate(at) => Attribute::ActivationDate(date(at)?),
        Attribute::ProcessStartDate(at) => Attribute::ProcessStartDate(date(at)?),
        Attribute::ProtectStopDate(at) => Attribute::ProtectStopDate(date(at)?),
        Attribute::DeactivationDate(at) => Attribute::DeactivationDate(date(at)?),
        Attribute::ProtectionPeriod(long) => Attribute::ProtectionPeriod(interval(long)?),
        Attribute::RotateInterval(long) => Attribute::RotateInterval(interval(long)?),
        Attribute::RotateOffset(long) => Attribute::RotateOffset(interval(long)?),
        Attribute::RotateAutomatic(is) => Attribute::RotateAutomatic(opposite(is, how)?),
        Attribute::Sensitive(is) => Attribute::Sensitive(opposite(is, how)?),
        Attribute::Extractable(is) => Attribute::Extractable(opposite(is, how)?),
        Attribute::Vendor(vendor) => {
            let value = match vendor.value {
                Value::Integer(n) => {
                    let n = number(i64::from(n), how, by)?;
                    Value::Integer(i32::try_from(n).map_err(|_| out_of_range())?)
                }
                Value::LongInteger(n) => Value::LongInteger(number(n, how, by)?),
                Value::DateTime(at) => Value::DateTime(number(at, how, by)?),
                Value::Interval(long) => Value::Interval(interval(Interval(long))?.0),
                Value::Boolean(is) => Value::Boolean(opposite(is, how)?),
                _ => return Err(bad("only numbers, times and Booleans can be adjusted")),
            };
            Attribute::Vendor(VendorAttribute { value, ..vendor })
        }
        other => {
            let text = format!("{} is no number, time or Boolean", called(&other.key()));
            return Err(OpError::Check(ResultReason::InvalidDataType, text));
        }
    })
}

fn number(value: i64, how: AdjustmentType, by: i64) -> Result<i64, OpError> {
    let adjusted = match how {
        AdjustmentType::Increment => value.checked_add(by),
        AdjustmentType::Decrement => value.checked_sub(by),
        AdjustmentType::Negate => value.checked_neg(),
        AdjustmentType::Other(_) => return Err(bad("Adjustment Type: unknown")),
    };
    adjusted.ok_or_else(out_of_range)
}

fn opposite(value: bool, how: AdjustmentType) -> Result<bool, OpError> {
    match how {
        AdjustmentType::Negate => Ok(!value),
        _ => Err(bad("a Boolean can only be negated")),
    }
}

fn out_of_range() -> OpError {
    OpError::Check(ResultReason::NumericRange, "the result is out of range".to_owned())
}

fn bad(text: &str) -> OpError {
    OpError::Check(ResultReason::InvalidDataType, text.to_owned())
}
