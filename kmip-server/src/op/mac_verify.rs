//! MAC Verify: the HMAC is made anew and compared in constant time.

use km_core::material::ClearBytes;
use kmip::{
    enums::ValidityIndicator,
    op::mac_verify::{Request, Response},
};

use super::mac;
use crate::{
    context::Context,
    error::OpError,
    usage::{self, MAC_VERIFY, Subject},
};

pub(crate) async fn mac_verify(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    usage::whole(request.correlation_value.as_ref(), request.init, request.last)?;
    let subject = Subject::find(cx, request.id, request.parameters, MAC_VERIFY).await?;
    let data = usage::clear(request.data)?;
    let given = request.mac.ok_or(OpError::Missing("MAC Data is missing"))?;
    let fits = mac::make(cx, &subject, &data).await? == ClearBytes::from_vec(given);
    let validity = if fits { ValidityIndicator::Valid } else { ValidityIndicator::Invalid };
    Ok(Response { id: subject.object.uid, validity, correlation_value: None })
}
