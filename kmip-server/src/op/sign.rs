//! Sign: data or its hash with the caller's private key. The hash is made here; the key does its
//! part in the token where it can. ECDSA signatures are DER as in X.509.

use km_core::usage::Action;
use kmip::{
    enums::{ObjectType, OperationCode},
    op::sign::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    streams::{self, Input, Marks, Said},
    usage::{self, SIGN, Subject, Use},
    uses::{OneUse, Step},
};

impl OneUse for Request {
    const USE: Use = SIGN;
    /// With the Digested Data.
    type Said = (Input, Option<Vec<u8>>);

    async fn begin(self, cx: &Context<'_>) -> Result<Self::Said, OpError> {
        let Self { id, parameters, data, digested, correlation_value, init, last } = self;
        let marks = Marks { correlation: correlation_value, init, last };
        let key = streams::named(cx, id, &marks)?;
        let said = Said { key, parameters: parameters.map(Box::new), ..Said::default() };
        let (data, digested) = usage::data_or_digest(data, digested, &marks)?;
        Ok((streams::begin(cx, OperationCode::Sign, marks, said, data).await?, digested))
    }

    fn input((input, _): &Self::Said) -> &Input {
        input
    }

    async fn prepare(
        cx: &Context<'_>,
        subject: &Subject,
        (input, digested): Self::Said,
    ) -> Result<Step, OpError> {
        if subject.meta.kind() != ObjectType::PrivateKey {
            return Err(subject.unusable("only private keys sign"));
        }
        let kind = subject.kind()?;
        let scheme = subject.scheme(kind)?;
        subject.spend(cx, input.fresh).await?;
        let id = subject.object.uid.clone();
        if !input.ends() {
            let correlation_value = input.keep(cx, 0);
            return Ok(Step::done(Response { id, signature: None, correlation_value }));
        }
        let message = usage::message(scheme, input.whole(), digested)?;
        Ok(Step::asks(kind, Action::Sign(scheme), message, |_, signature| {
            let signature = Some(signature.expose_whole().into_vec());
            Response { id, signature, correlation_value: None }
        }))
    }
}
