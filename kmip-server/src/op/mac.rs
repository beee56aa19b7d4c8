//! MAC: HMAC of data with the caller's key, in the token where it can.

use km_core::{
    material::ClearBytes,
    usage::{Action, Hash, KeyKind},
};
use kmip::{
    SecretBytes,
    enums::OperationCode,
    op::mac::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    streams::{self, Input, Marks, Said},
    usage::{MAC_GENERATE, Subject, Use},
    uses::{OneUse, Step},
};

impl OneUse for Request {
    const USE: Use = MAC_GENERATE;
    type Said = Input;

    async fn begin(self, cx: &Context<'_>) -> Result<Input, OpError> {
        let Self { id, parameters, data, correlation_value, init, last } = self;
        let marks = Marks { correlation: correlation_value, init, last };
        let key = streams::named(cx, id, &marks)?;
        let said = Said { key, parameters: parameters.map(Box::new), ..Said::default() };
        let data = data.map(SecretBytes::into_inner);
        streams::begin(cx, OperationCode::Mac, marks, said, data).await
    }

    fn input(said: &Input) -> &Input {
        said
    }

    async fn prepare(cx: &Context<'_>, subject: &Subject, input: Input) -> Result<Step, OpError> {
        subject.spend(cx, input.fresh).await?;
        let id = subject.object.uid.clone();
        if !input.ends() {
            let correlation_value = input.keep(cx, 0);
            return Ok(Step::done(Response { id, mac: None, correlation_value }));
        }
        let hash = hash(subject)?;
        Ok(Step::asks(KeyKind::Hmac, Action::Mac(hash), input.whole(), |_, mac| Response {
            id,
            mac: Some(mac.expose_whole().into_vec()),
            correlation_value: None,
        }))
    }
}

/// The hash of the HMAC the request and the key agree on.
fn hash(subject: &Subject) -> Result<Hash, OpError> {
    match subject.kind()? {
        KeyKind::Hmac => {}
        // Its mask allows it, and who uses it says which HMAC.
        KeyKind::Aes if !subject.meta.in_token => {}
        _ => return Err(subject.unusable("keys of this algorithm make no HMAC")),
    }
    subject.mac_hash()
}

/// The HMAC the request and the key agree on.
pub(super) async fn make(
    cx: &Context<'_>,
    subject: &Subject,
    data: &ClearBytes,
) -> Result<ClearBytes, OpError> {
    subject.act(cx, KeyKind::Hmac, &Action::Mac(hash(subject)?), data).await
}
