//! Revoke: an object is taken out of use, for compromise or for another reason.

use km_core::objects::ObjectStep;
use kmip::{
    enums::RevocationReasonCode,
    op::revoke::{Request, Response},
};

use crate::{context::Context, error::OpError, find, wanted::has_word};

/// Longest revocation message kept, in bytes.
const MAX_MESSAGE: usize = 4096;

pub(crate) async fn revoke(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let reason = request.reason;
    if reason.message.as_ref().is_some_and(|text| text.len() > MAX_MESSAGE) {
        let text = format!("a Revocation Message has at most {MAX_MESSAGE} bytes");
        return Err(OpError::Invalid(text));
    }
    if !has_word(&reason.code) {
        return Err(OpError::NoWord("Revocation Reason Code".to_owned()));
    }
    let compromised = matches!(
        reason.code,
        RevocationReasonCode::KeyCompromise | RevocationReasonCode::CaCompromise
    );
    let occurred = request.compromise_occurrence_date.map(|date| date.0);
    let step = if compromised { ObjectStep::Compromise } else { ObjectStep::Deactivate };
    let now = cx.now;
    let object = find::step(cx, request.id, step, |meta| {
        meta.revocation = Some((reason.code.number(), reason.message.clone()));
        if compromised {
            meta.dates.compromise = Some(now);
            // When nobody knows better, it may have happened from the start.
            meta.dates.compromise_occurrence = occurred.or(Some(meta.dates.initial));
        } else {
            meta.dates.deactivation = Some(now);
        }
    });
    Ok(Response { id: object.await?.uid })
}
