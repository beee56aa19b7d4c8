//! Interop: the name of an interoperability test for the log. A server in use resets nothing.

use kmip::{
    enums::InteropFunction,
    op::interop::{Request, Response},
};

use crate::{context::Context, error::OpError};

pub(crate) async fn interop(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    match request.function {
        InteropFunction::Begin | InteropFunction::End => {
            let test: String = request.identifier.unwrap_or_default().chars().take(64).collect();
            tracing::debug!(caller = %cx.caller.application(), function = ?request.function, ?test, "interop");
            Ok(Response {})
        }
        _ => Err(OpError::Feature("this server keeps its objects; destroy those of the test")),
    }
}
