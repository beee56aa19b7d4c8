//! RNG Retrieve: random bytes from the HSM.

use kmip::{
    SecretBytes,
    op::rng_retrieve::{Request, Response},
};

use crate::{context::Context, error::OpError};

/// Most bytes of one request.
const MOST: usize = 64 << 10;

pub(crate) async fn rng_retrieve(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let len = usize::try_from(request.length).ok().filter(|len| (1..=MOST).contains(len));
    let len = len.ok_or_else(|| OpError::Invalid(format!("Data Length is from 1 to {MOST}")))?;
    let random = cx.objects().vault().random().bytes(len).await?;
    Ok(Response { data: random.expose(SecretBytes::copy_from) })
}
