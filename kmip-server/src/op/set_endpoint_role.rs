//! Set Endpoint Role: who asks and who answers stays as it is.

use kmip::{
    enums::EndpointRole,
    op::set_endpoint_role::{Request, Response},
};

use crate::{context::Context, error::OpError};

pub(crate) async fn set_endpoint_role(
    _: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    match request.role {
        EndpointRole::Client => Ok(Response { role: EndpointRole::Client }),
        _ => Err(OpError::Feature(
            "the roles on a connection stay; what this server tells, it tells at an endpoint of the client's",
        )),
    }
}
