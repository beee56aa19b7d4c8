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
    streams::{self, Marks, Said},
    usage::{self, ENCRYPT, Subject},
};

pub(crate) async fn encrypt(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let Request { id, parameters, data, iv, correlation_value, init, last, aad } = request;
    let marks = Marks { correlation: correlation_value, init, last };
    let key = streams::named(cx, id, &marks)?;
    let said = Said { key, parameters, iv, aad, proof: None };
    let data = data.map(SecretBytes::into_inner);
    let mut input = streams::begin(cx, OperationCode::Encrypt, marks, said, data).await?;
    let subject = Subject::find(cx, input.key(), input.said.parameters.clone(), ENCRYPT).await?;
    let kind = subject.kind()?;
    let given = Given { iv: input.said.iv.clone(), aad: input.said.aad.clone() };
    let nonces = (&cx.server.nonces, cx.objects().vault());
    let Chosen { cipher, made } = cipher::to_encrypt(&subject, kind, given, nonces).await?;
    input.said.iv = made.clone().or(input.said.iv);
    subject.spend(cx, input.fresh).await?;
    let id = subject.object.uid.clone();
    let Some((cipher, len)) = cipher::step(cipher, false, &input) else {
        let before = input.given;
        let correlation_value = input.keep(cx, before);
        return Ok(Response { id, data: None, iv: made, correlation_value, tag: None });
    };
    let data = input.start(len);
    let mut sealed = match subject.meta.kind() {
        ObjectType::PublicKey => {
            let key = subject.public_key(cx).await?;
            data.expose(|data| public::encrypt(&cipher, &key, data)).map_err(usage::unfit)?
        }
        ObjectType::PrivateKey => return Err(subject.unusable("a private key encrypts nothing")),
        _ => {
            let action = Action::Encrypt(cipher.clone());
            subject.act(cx, kind, &action, &data).await?.expose(<[u8]>::to_vec)
        }
    };
    let mut tag = cipher::tag_of(&cipher)
        .map(|tag| sealed.split_off(sealed.len().saturating_sub(tag)))
        .filter(|_| input.ends());
    let mut sealed = sealed.split_off(input.given.min(sealed.len()));
    if cx.version < Version::V1_4 {
        // There is no field for it, and it stays at the end of the data.
        sealed.extend(tag.take().unwrap_or_default());
    }
    let correlation_value = input.keep(cx, len);
    Ok(Response { id, data: Some(sealed), iv: made, correlation_value, tag })
}
