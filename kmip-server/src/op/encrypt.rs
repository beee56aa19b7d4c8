//! Encrypt: data with the caller's key, in the token where it can.

use km_core::usage::{Action, Cipher, public};
use kmip::{
    Version,
    enums::ObjectType,
    op::encrypt::{Request, Response},
};

use crate::{
    cipher::{self, Chosen, Given},
    context::Context,
    error::OpError,
    usage::{self, ENCRYPT, Subject},
};

pub(crate) async fn encrypt(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    usage::whole(request.correlation_value.as_ref(), request.init, request.last)?;
    let subject = Subject::find(cx, request.id, request.parameters, ENCRYPT).await?;
    let data = usage::clear(request.data)?;
    let kind = subject.kind()?;
    let given = Given { iv: request.iv, aad: request.aad };
    let nonces = (&cx.server.nonces, cx.objects().vault());
    let Chosen { cipher, made } = cipher::to_encrypt(&subject, kind, given, nonces).await?;
    subject.spend(cx, data.len()).await?;
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
    let tag = match cipher {
        // Before 1.4 there is no field for it, and it stays at the end of the data.
        Cipher::Gcm { tag, .. } if cx.version >= Version::V1_4 => {
            Some(sealed.split_off(sealed.len().saturating_sub(usize::from(tag))))
        }
        _ => None,
    };
    Ok(Response {
        id: subject.object.uid,
        data: Some(sealed),
        iv: made,
        correlation_value: None,
        tag,
    })
}
