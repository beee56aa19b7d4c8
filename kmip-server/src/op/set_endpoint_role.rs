//! Set Endpoint Role: the server takes the client's role on this connection, to tell (Notify, Put), and
//! the client answers.

use kmip::{
    enums::EndpointRole,
    op::set_endpoint_role::{Request, Response},
};

use crate::{
    context::{Context, Roles},
    error::OpError,
};

pub(crate) async fn set_endpoint_role(
    cx: &mut Context<'_>,
    Request { role }: Request,
) -> Result<Response, OpError> {
    match role {
        // As it is.
        EndpointRole::Server => Ok(Response { role }),
        EndpointRole::Client => {
            check(cx)?;
            cx.roles = Roles::Turned;
            Ok(Response { role })
        }
        _ => Err(OpError::Invalid("an Endpoint Role is Client or Server".to_owned())),
    }
}

/// Refuses to tell anything where nobody said that the application is told, or over a connection that
/// somebody else has.
fn check(cx: &Context<'_>) -> Result<(), OpError> {
    if cx.delegate().is_some() || !cx.server.notices.is_told(cx.caller) {
        let text = "this application is told nothing; its operator can allow it by `notify` in its \
                    entry";
        return Err(OpError::Denied(text.to_owned()));
    }
    match cx.roles {
        Roles::Fixed => Err(OpError::Feature(
            "roles change on a connection of frames, not over HTTP, and by a request that is answered at \
             once and has no other item",
        )),
        Roles::Open | Roles::Turned => Ok(()),
    }
}
