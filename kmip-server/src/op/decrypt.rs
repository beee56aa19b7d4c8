//! Decrypt: data with the caller's key, in the token where it can.

use km_core::{material::ClearBytes, usage::Action};
use kmip::{
    SecretBytes,
    enums::{BlockCipherMode, ObjectType},
    op::decrypt::{Request, Response},
};

use crate::{
    cipher::{self, Given},
    context::Context,
    error::OpError,
    usage::{self, DECRYPT, Subject, bad},
};

pub(crate) async fn decrypt(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    usage::whole(request.correlation_value.as_ref(), request.init, request.last)?;
    let subject = Subject::find(cx, request.id, request.parameters, DECRYPT).await?;
    let mut data = request.data.ok_or(OpError::Missing("Data is missing"))?;
    let kind = subject.kind()?;
    if subject.meta.kind() == ObjectType::PublicKey {
        return Err(subject.unusable("a public key decrypts nothing"));
    }
    let gcm = subject.parameters.block_cipher_mode == Some(BlockCipherMode::Gcm);
    match request.tag {
        Some(_) if !gcm => return Err(bad("only GCM has a tag")),
        Some(tag) if tag.len() != usize::from(cipher::tag_len(&subject.parameters)?) => {
            return Err(OpError::BadData(
                "the tag has not the length that is asked for".to_owned(),
            ));
        }
        Some(tag) => data.extend_from_slice(&tag),
        // It stands at the end of the data.
        None => {}
    }
    let cipher = cipher::cipher(&subject, kind, Given { iv: request.iv, aad: request.aad })?;
    let input = ClearBytes::from_vec(data);
    let clear = subject.act(cx, kind, &Action::Decrypt(cipher), &input).await?;
    let data = Some(clear.expose(SecretBytes::copy_from));
    Ok(Response { id: subject.object.uid, data, correlation_value: None })
}
