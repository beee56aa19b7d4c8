//! Get Constraints: what new objects of the tenant must be like.

use kmip::op::get_constraints::{Request, Response};

use crate::{context::Context, error::OpError, house};

pub(crate) async fn get_constraints(cx: &mut Context<'_>, _: Request) -> Result<Response, OpError> {
    Ok(Response { constraints: house::of(cx).await?.constraints.clone() })
}
