//! MAC: HMAC of data with the caller's key, in the token where it can.

use km_core::usage::{Action, KeyKind};
use kmip::op::mac::{Request, Response};

use crate::{
    context::Context,
    error::OpError,
    usage::{self, MAC_GENERATE, Subject},
};

pub(crate) async fn mac(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    usage::whole(request.correlation_value.as_ref(), request.init, request.last)?;
    let subject = Subject::find(cx, request.id, request.parameters, MAC_GENERATE).await?;
    let data = usage::clear(request.data)?;
    subject.spend(cx, data.len()).await?;
    let mac = make(cx, &subject, &data).await?;
    let mac = Some(mac.expose(<[u8]>::to_vec));
    Ok(Response { id: subject.object.uid, mac, correlation_value: None })
}

/// The HMAC the request and the key agree on.
pub(super) async fn make(
    cx: &Context<'_>,
    subject: &Subject,
    data: &km_core::material::ClearBytes,
) -> Result<km_core::material::ClearBytes, OpError> {
    if subject.kind()? != KeyKind::Hmac {
        return Err(subject.unusable("keys of this algorithm make no HMAC"));
    }
    subject.act(cx, KeyKind::Hmac, &Action::Mac(subject.mac_hash()?), data).await
}
