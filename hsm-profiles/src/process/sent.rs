//! One request on its way to one token, and what became of it. Enter through [`Sent::to`].

use std::sync::Arc;
use std::time::Instant;

use km_core::hsm::HsmError;

use super::line::{Coming, Line, NotSent};
use crate::request::Request;
use crate::response::Response;

pub(super) struct Sent {
    /// Which token.
    pub(super) n: usize,
    pub(super) line: Arc<Line>,
    pub(super) coming: Coming,
    pub(super) at: Instant,
}

impl Sent {
    /// Sends `request` to token `n` over `line`, to be begun before `until`.
    pub(super) fn to(
        n: usize,
        line: Arc<Line>,
        request: &Request,
        until: Instant,
    ) -> Result<Self, NotSent> {
        let at = Instant::now();
        let coming = line.send(request, until.saturating_duration_since(at))?;
        Ok(Self { n, line, coming, at })
    }
}

/// What became of a request that was sent.
pub(super) enum Outcome {
    Answered(Result<Response, HsmError>),
    /// The worker ended before it answered.
    Lost,
    Overdue(HsmError),
}

impl Outcome {
    /// Of a request that is not asked again.
    pub(super) fn into_answer(self, request: &Request) -> Result<Response, HsmError> {
        match self {
            Self::Answered(answer) => answer,
            Self::Lost => Err(lost(request)),
            Self::Overdue(error) => Err(error),
        }
    }
}

pub(super) fn lost(request: &Request) -> HsmError {
    HsmError::Unavailable(if request.is_repeatable() {
        "the HSM worker process ended before it answered, again and again: look at its log".into()
    } else {
        "the HSM worker process ended before it answered, so it is not known whether this was \
         done: look at the token before you try again"
            .into()
    })
}
