//! Signature Verify: a signature under the caller's public key. No secret takes part.

use km_core::usage::{Scheme, public};
use kmip::{
    enums::{ObjectType, OperationCode, ValidityIndicator},
    op::signature_verify::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    streams::{self, Marks, Said},
    usage::{self, Subject, VERIFY},
};

pub(crate) async fn signature_verify(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let Request { id, parameters, data, digested, signature, correlation_value, init, last } =
        request;
    let marks = Marks { correlation: correlation_value, init, last };
    let key = streams::named(cx, id, &marks)?;
    let said =
        Said { key, parameters: parameters.map(Box::new), proof: signature, ..Said::default() };
    let (data, digested) = usage::data_or_digest(data, digested, &marks)?;
    let input = streams::begin(cx, OperationCode::SignatureVerify, marks, said, data).await?;
    let subject =
        Subject::find(cx, input.key(), input.said.parameters.as_deref().cloned(), VERIFY).await?;
    if subject.meta.kind() != ObjectType::PublicKey {
        return Err(subject.unusable("signatures are verified with public keys"));
    }
    let id = subject.object.uid.clone();
    if !input.ends() {
        // Nothing is known yet.
        let validity = ValidityIndicator::Unknown;
        let correlation_value = input.keep(cx, 0);
        return Ok(Response { id, validity, data: None, correlation_value });
    }
    let signature = input.said.proof.clone();
    let signature = signature.ok_or(OpError::Missing("Signature Data is missing"))?;
    let kind = subject.kind()?;
    let scheme = subject.scheme(kind)?;
    let message = usage::message(scheme, input.whole(), digested)?;
    let key = subject.public_key(cx).await?;
    let fits = message
        .expose(|message| match scheme {
            // Who signed chose the salt; without a word about it, any length does.
            Scheme::RsaPss { hash, .. } if subject.parameters.salt_length.is_none() => {
                public::verify_any_salt(hash, &key, message, &signature)
            }
            _ => public::verify(kind, scheme, &key, message, &signature),
        })
        .map_err(usage::unfit)?;
    let validity = if fits { ValidityIndicator::Valid } else { ValidityIndicator::Invalid };
    Ok(Response { id, validity, data: None, correlation_value: None })
}
