//! Sign: data or its hash with the caller's private key. The hash is made here; the key does its
//! part in the token where it can. ECDSA signatures are DER as in X.509.

use km_core::usage::Action;
use kmip::{
    enums::ObjectType,
    op::sign::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    usage::{self, SIGN, Subject},
};

pub(crate) async fn sign(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    usage::whole(request.correlation_value.as_ref(), request.init, request.last)?;
    let subject = Subject::find(cx, request.id, request.parameters, SIGN).await?;
    if subject.meta.kind() != ObjectType::PrivateKey {
        return Err(subject.unusable("only private keys sign"));
    }
    let kind = subject.kind()?;
    let scheme = subject.scheme(kind)?;
    let message = usage::message(scheme, request.data, request.digested)?;
    subject.spend(cx, message.len()).await?;
    let signature = subject.act(cx, kind, &Action::Sign(scheme), &message).await?;
    Ok(Response {
        id: subject.object.uid,
        signature: Some(signature.expose(<[u8]>::to_vec)),
        correlation_value: None,
    })
}
