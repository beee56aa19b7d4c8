//! MAC Verify: the HMAC is made anew and compared in constant time.

use km_core::material::ClearBytes;
use kmip::{
    SecretBytes,
    enums::{OperationCode, ValidityIndicator},
    op::mac_verify::{Request, Response},
};

use super::mac;
use crate::{
    context::Context,
    error::OpError,
    streams::{self, Marks, Said},
    usage::{MAC_VERIFY, Subject},
};

pub(crate) async fn mac_verify(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let Request { id, parameters, data, mac: given, correlation_value, init, last } = request;
    let marks = Marks { correlation: correlation_value, init, last };
    let key = streams::named(cx, id, &marks)?;
    let said = Said { key, parameters: parameters.map(Box::new), proof: given, ..Said::default() };
    let data = data.map(SecretBytes::into_inner);
    let input = streams::begin(cx, OperationCode::MacVerify, marks, said, data).await?;
    let subject =
        Subject::find(cx, input.key(), input.said.parameters.as_deref().cloned(), MAC_VERIFY)
            .await?;
    let id = subject.object.uid.clone();
    if !input.ends() {
        // Nothing is known yet.
        let validity = ValidityIndicator::Unknown;
        return Ok(Response { id, validity, correlation_value: input.keep(cx, 0) });
    }
    let given = input.said.proof.clone().ok_or(OpError::Missing("MAC Data is missing"))?;
    let fits = mac::make(cx, &subject, &input.whole()).await? == ClearBytes::from_vec(given);
    let validity = if fits { ValidityIndicator::Valid } else { ValidityIndicator::Invalid };
    Ok(Response { id, validity, correlation_value: None })
}
