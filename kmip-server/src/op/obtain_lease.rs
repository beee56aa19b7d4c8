//! Obtain Lease: how long a client may rely on what it knows of an object. No lease lasts longer
//! than the object is active.

use kmip::{
    DateTime, Interval,
    op::obtain_lease::{Request, Response},
};

use crate::{context::Context, error::OpError, find, meta::Meta, shown};

pub(crate) async fn obtain_lease(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let (object, _) = find::object(cx, request.id).await?;
    if object.state.is_destroyed() {
        return Err(OpError::Destroyed(object.uid));
    }
    let dates = Meta::of(&object)?.dates;
    let remaining = dates.deactivation.map(|end| end.saturating_sub(cx.now)).filter(|s| *s > 0);
    let remaining = remaining.and_then(|seconds| u32::try_from(seconds).ok());
    let lease_time = Interval(remaining.unwrap_or(shown::LEASE).min(shown::LEASE));
    Ok(Response { id: object.uid, lease_time, last_change_date: DateTime(dates.changed) })
}
