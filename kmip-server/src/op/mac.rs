//! MAC: HMAC of data with the caller's key, in the token where it can.

use km_core::usage::{Action, KeyKind};
use kmip::{
    SecretBytes,
    enums::OperationCode,
    op::mac::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    streams::{self, Marks, Said},
    usage::{MAC_GENERATE, Subject},
};

pub(crate) async fn mac(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let Request { id, parameters, data, correlation_value, init, last } = request;
    let marks = Marks { correlation: correlation_value, init, last };
    let key = streams::named(cx, id, &marks)?;
    let said = Said { key, parameters, ..Said::default() };
    let data = data.map(SecretBytes::into_inner);
    let input = streams::begin(cx, OperationCode::Mac, marks, said, data).await?;
    let parameters = input.said.parameters.clone();
    let subject = Subject::find(cx, input.key(), parameters, MAC_GENERATE).await?;
    subject.spend(cx, input.fresh).await?;
    let id = subject.object.uid.clone();
    if !input.ends() {
        return Ok(Response { id, mac: None, correlation_value: input.keep(cx, 0) });
    }
    let mac = make(cx, &subject, &input.whole()).await?;
    Ok(Response { id, mac: Some(mac.expose(<[u8]>::to_vec)), correlation_value: None })
}

/// The HMAC the request and the key agree on.
pub(super) async fn make(
    cx: &Context<'_>,
    subject: &Subject,
    data: &km_core::material::ClearBytes,
) -> Result<km_core::material::ClearBytes, OpError> {
    match subject.kind()? {
        KeyKind::Hmac => {}
        // Its mask allows it, and who uses it says which HMAC.
        KeyKind::Aes if !subject.meta.in_token => {}
        _ => return Err(subject.unusable("keys of this algorithm make no HMAC")),
    }
    subject.act(cx, KeyKind::Hmac, &Action::Mac(subject.mac_hash()?), data).await
}
