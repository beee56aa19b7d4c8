//! Log: a line of a client in this server's log.

use kmip::op::log::{Request, Response};

use crate::{context::Context, error::OpError};

/// Longest line, in bytes.
const MAX_LINE: usize = 1024;

pub(crate) async fn log(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let line = request.message;
    if line.len() > MAX_LINE {
        return Err(OpError::TooMuch(format!("a Log Message has at most {MAX_LINE} bytes")));
    }
    // Quoted, so that no client writes lines of its own.
    tracing::info!(caller = %cx.caller.application(), ?line, "a client says");
    Ok(Response {})
}
