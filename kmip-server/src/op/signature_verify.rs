//! Signature Verify: a signature under the caller's public key. No secret takes part.

use km_core::usage::public;
use kmip::{
    enums::{ObjectType, ValidityIndicator},
    op::signature_verify::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    usage::{self, Subject, VERIFY},
};

pub(crate) async fn signature_verify(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    usage::whole(request.correlation_value.as_ref(), request.init, request.last)?;
    let subject = Subject::find(cx, request.id, request.parameters, VERIFY).await?;
    if subject.meta.kind() != ObjectType::PublicKey {
        return Err(subject.unusable("signatures are verified with public keys"));
    }
    let signature = request.signature.ok_or(OpError::Missing("Signature Data is missing"))?;
    let kind = subject.kind()?;
    let scheme = subject.scheme(kind)?;
    let message = usage::message(scheme, request.data, request.digested)?;
    let key = subject.public_key(cx).await?;
    let fits = message
        .expose(|message| public::verify(kind, scheme, &key, message, &signature))
        .map_err(usage::unfit)?;
    let validity = if fits { ValidityIndicator::Valid } else { ValidityIndicator::Invalid };
    Ok(Response { id: subject.object.uid, validity, data: None, correlation_value: None })
}
