//! Sign: data or its hash with the caller's private key. The hash is made here; the key does its
//! part in the token where it can. ECDSA signatures are DER as in X.509.

use km_core::usage::Action;
use kmip::{
    enums::{ObjectType, OperationCode},
    op::sign::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    streams::{self, Marks, Said},
    usage::{self, SIGN, Subject},
};

pub(crate) async fn sign(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let Request { id, parameters, data, digested, correlation_value, init, last } = request;
    let marks = Marks { correlation: correlation_value, init, last };
    let key = streams::named(cx, id, &marks)?;
    let said = Said { key, parameters, ..Said::default() };
    let (data, digested) = usage::data_or_digest(data, digested, &marks)?;
    let input = streams::begin(cx, OperationCode::Sign, marks, said, data).await?;
    let subject = Subject::find(cx, input.key(), input.said.parameters.clone(), SIGN).await?;
    if subject.meta.kind() != ObjectType::PrivateKey {
        return Err(subject.unusable("only private keys sign"));
    }
    let kind = subject.kind()?;
    let scheme = subject.scheme(kind)?;
    subject.spend(cx, input.fresh).await?;
    let id = subject.object.uid.clone();
    if !input.ends() {
        return Ok(Response { id, signature: None, correlation_value: input.keep(cx, 0) });
    }
    let message = usage::message(scheme, input.whole(), digested)?;
    let signature = subject.act(cx, kind, &Action::Sign(scheme), &message).await?;
    let signature = Some(signature.expose(<[u8]>::to_vec));
    Ok(Response { id, signature, correlation_value: None })
}
