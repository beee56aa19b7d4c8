//! RNG Seed: accepted and not used. The HSM's generator seeds itself, and bytes of one application
//! shall have no part in the keys of another.

use kmip::op::rng_seed::{Request, Response};

use crate::{context::Context, error::OpError};

pub(crate) async fn rng_seed(_: &mut Context<'_>, _: Request) -> Result<Response, OpError> {
    Ok(Response { length: 0 })
}
