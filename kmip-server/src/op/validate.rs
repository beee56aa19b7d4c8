//! Validate: whether certificates, sent along or kept here, form a chain that holds.

use authority::{Chain, Verdict};
use km_core::objects::ObjectState;
use kmip::{
    enums::{CertificateType, ObjectType, ValidityIndicator},
    op::validate::{Request, Response},
};

use crate::{context::Context, error::OpError, find, meta::Meta};

pub(crate) async fn validate(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let Request { certificates, ids, date } = request;
    if certificates.is_empty() && ids.is_empty() {
        return Err(OpError::Missing("Validate needs certificates, or identifiers of some"));
    }
    let at = date.map_or(cx.now, |date| date.0);
    let mut chain = Chain::default();
    for certificate in &certificates {
        if certificate.kind != CertificateType::X509 || !chain.add(&certificate.value) {
            return Err(unreadable());
        }
    }
    let mut revoked = false;
    for id in ids {
        let (object, _) = find::on_line(cx, Some(id)).await?;
        let meta = Meta::of(&object)?;
        if meta.kind() != ObjectType::Certificate {
            return Err(OpError::ObjectType(format!("object {} is no certificate", object.uid)));
        }
        if object.state.is_destroyed() {
            return Err(OpError::Destroyed(object.uid));
        }
        // One that was revoked, not one whose time is over: that is for the date to say.
        revoked |= object.state == ObjectState::Compromised || meta.revocation.is_some();
        if !cx.objects().open(&object).await?.expose(|der| chain.add(der)) {
            return Err(unreadable());
        }
    }
    let at = u64::try_from(at).unwrap_or(0);
    let mut verdict = chain.verdict(at);
    if let Some(certifier) = cx.server.certifier().filter(|_| verdict == Verdict::Unknown) {
        chain.add(certifier.authority.certificate());
        verdict = chain.verdict(at);
    }
    let validity = match verdict {
        _ if revoked => ValidityIndicator::Invalid,
        Verdict::Valid => ValidityIndicator::Valid,
        Verdict::Invalid => ValidityIndicator::Invalid,
        Verdict::Unknown => ValidityIndicator::Unknown,
    };
    Ok(Response { validity })
}

fn unreadable() -> OpError {
    let text = "a certificate cannot be read; a chain has at most 16, X.509 in DER";
    OpError::Invalid(text.to_owned())
}
