//! Decrypt: data with the caller's key, in the token where it can. Of data that authenticates
//! itself nothing is given out before all of it was checked.

use km_core::{material::ClearBytes, usage::Action};
use kmip::{
    SecretBytes,
    enums::{ObjectType, OperationCode},
    op::decrypt::{Request, Response},
};
use wiped::Wiped;

use crate::{
    cipher::{self, Given},
    context::Context,
    error::OpError,
    streams::{self, Input, Marks, Said},
    usage::{DECRYPT, Subject, Use, bad},
    uses::{OneUse, Step},
};

impl OneUse for Request {
    const USE: Use = DECRYPT;
    type Said = Input;

    async fn begin(self, cx: &Context<'_>) -> Result<Input, OpError> {
        let Self { id, parameters, data, iv, correlation_value, init, last, aad, tag } = self;
        let marks = Marks { correlation: correlation_value, init, last };
        let key = streams::named(cx, id, &marks)?;
        let said = Said { key, parameters: parameters.map(Box::new), iv, aad, proof: tag };
        streams::begin(cx, OperationCode::Decrypt, marks, said, data.map(Wiped::new)).await
    }

    fn input(said: &Input) -> &Input {
        said
    }

    async fn prepare(
        cx: &Context<'_>,
        subject: &Subject,
        mut input: Input,
    ) -> Result<Step, OpError> {
        let kind = subject.kind()?;
        if subject.meta.kind() == ObjectType::PublicKey {
            return Err(subject.unusable("a public key decrypts nothing"));
        }
        let given = Given { iv: input.said.iv.clone(), aad: input.said.aad.clone() };
        let cipher = cipher::cipher(subject, kind, given)?;
        let id = subject.object.uid.clone();
        let before = input.given;
        let Some((cipher, len)) = cipher::step(cipher, true, &input) else {
            let correlation_value = input.keep(cx, before);
            return Ok(Step::done(Response { id, data: None, correlation_value }));
        };
        let sealed = match input.ends() {
            true => with_tag(&mut input, cipher::tag_of(&cipher))?,
            false => input.start(len),
        };
        Ok(Step::asks(kind, Action::Decrypt(cipher), sealed, move |cx, clear| {
            let rest = |clear: &[u8]| SecretBytes::copy_from(clear.get(before..).unwrap_or(&[]));
            let data = Some(match before {
                0 => SecretBytes::new(clear.expose_whole()),
                _ => clear.expose(rest),
            });
            Response { id, data, correlation_value: input.keep(cx, len) }
        }))
    }
}

/// All the data, with the tag of `len` bytes at its end.
fn with_tag(input: &mut Input, len: Option<usize>) -> Result<ClearBytes, OpError> {
    let data = input.take(input.len());
    match (&input.said.proof, len) {
        (Some(_), None) => Err(bad("this cipher has no tag")),
        (Some(tag), Some(len)) if tag.len() != len => {
            Err(OpError::BadData("the tag has not the length that is asked for".to_owned()))
        }
        (Some(tag), _) => {
            Ok(ClearBytes::from_vec(data.expose(|data| [data, tag.as_slice()].concat())))
        }
        // It stands at the end of the data.
        (None, _) => Ok(data),
    }
}
