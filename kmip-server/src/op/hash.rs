//! Hash: of data, in this process; no key takes part.

use kmip::{
    SecretBytes,
    enums::OperationCode,
    op::hash::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    streams::{self, Marks, Said},
    usage,
};

pub(crate) async fn hash(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let Request { parameters, data, correlation_value, init, last } = request;
    let wanted = parameters.hashing_algorithm;
    let hash = usage::hash_of(wanted.ok_or(OpError::Missing("Hashing Algorithm is missing"))?)?;
    let marks = Marks { correlation: correlation_value, init, last };
    let data = data.map(SecretBytes::into_inner);
    let input = streams::begin(cx, OperationCode::Hash, marks, Said::default(), data).await?;
    if !input.ends() {
        return Ok(Response { data: None, correlation_value: input.keep(cx, 0) });
    }
    let data = input.whole().expose(|data| hash.of(data));
    Ok(Response { data: Some(data), correlation_value: None })
}
