//! Hash: of data, in this process; no key takes part.

use kmip::op::hash::{Request, Response};

use crate::{context::Context, error::OpError, usage};

pub(crate) async fn hash(_: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    usage::whole(request.correlation_value.as_ref(), request.init, request.last)?;
    let wanted = request.parameters.hashing_algorithm;
    let hash = usage::hash_of(wanted.ok_or(OpError::Missing("Hashing Algorithm is missing"))?)?;
    let data = usage::clear(request.data)?.expose(|data| hash.of(data));
    Ok(Response { data: Some(data), correlation_value: None })
}
