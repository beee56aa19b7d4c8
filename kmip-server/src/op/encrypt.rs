//! Encrypt: data with the caller's key, in the token where it can.

use km_core::usage::{Action, public};
use kmip::{
    SecretBytes, Version,
    enums::{ObjectType, OperationCode},
    op::encrypt::{Request, Response},
};

use crate::{
    cipher::{self, Chosen, Given},
    context::Context,
    error::OpError,
    streams::{self, Input, Marks, Said},
    usage::{self, ENCRYPT, Subject, Use},
    uses::{OneUse, Step},
};

impl OneUse for Request {
    const USE: Use = ENCRYPT;
    type Said = Input;

    async fn begin(self, cx: &Context<'_>) -> Result<Input, OpError> {
        let Self { id, parameters, data, iv, correlation_value, init, last, aad } = self;
        let marks = Marks { correlation: correlation_value, init, last };
        let key = streams::named(cx, id, &marks)?;
        let said = Said { key, parameters: parameters.map(Box::new), iv, aad, proof: None };
        let data = data.map(SecretBytes::into_inner);
        streams::begin(cx, OperationCode::Encrypt, marks, said, data).await
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
        let given = Given { iv: input.said.iv.clone(), aad: input.said.aad.clone() };
        let nonces = (&cx.server.nonces, cx.objects().vault());
        let Chosen { cipher, made } = cipher::to_encrypt(subject, kind, given, nonces).await?;
        input.said.iv = made.clone().or(input.said.iv);
        subject.spend(cx, input.fresh).await?;
        let id = subject.object.uid.clone();
        let Some((cipher, len)) = cipher::step(cipher, false, &input) else {
            let before = input.given;
            let correlation_value = input.keep(cx, before);
            return Ok(Step::done(Response {
                id,
                data: None,
                iv: made,
                correlation_value,
                tag: None,
            }));
        };
        let data = input.take(len);
        let sealed = Sealed { id, made, tag: cipher::tag_of(&cipher), len, input };
        Ok(match subject.meta.kind() {
            ObjectType::PublicKey => {
                let key = subject.public_key(cx).await?;
                let bytes = data.expose(|data| public::encrypt(&cipher, &key, data));
                Step::done(sealed.answer(cx, bytes.map_err(usage::unfit)?))
            }
            ObjectType::PrivateKey => {
                return Err(subject.unusable("a private key encrypts nothing"));
            }
            _ => Step::asks(kind, Action::Encrypt(cipher), data, |cx, bytes| {
                sealed.answer(cx, bytes.expose_whole().into_vec())
            }),
        })
    }
}

/// What an answer tells besides the ciphertext.
struct Sealed {
    id: String,
    made: Option<Vec<u8>>,
    tag: Option<usize>,
    /// How much of the input it is made of.
    len: usize,
    input: Input,
}

impl Sealed {
    /// With all the ciphertext from the beginning, of which the first part may have been given.
    fn answer(self, cx: &Context<'_>, mut sealed: Vec<u8>) -> Response {
        let Self { id, made: iv, tag, len, input } = self;
        let mut tag = tag
            .map(|tag| sealed.split_off(sealed.len().saturating_sub(tag)))
            .filter(|_| input.ends());
        drop(sealed.drain(..input.given.min(sealed.len())));
        if cx.version < Version::V1_4 {
            // There is no field for it, and it stays at the end of the data.
            sealed.extend(tag.take().unwrap_or_default());
        }
        let correlation_value = input.keep(cx, len);
        Response { id, data: Some(sealed), iv, correlation_value, tag }
    }
}
