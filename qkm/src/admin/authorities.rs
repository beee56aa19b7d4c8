//! `/v1/ca/{name}`: authorities whose keys are in the HSM. Operators see the certificates, custodians
//! make them.

use authority::{Authority, AuthorityError, Span};
use hyper::StatusCode;
use km_core::clock::now_ms;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;
use transport::PeerIdentity;

use super::{epochs::Custodian, problem::Problem};
use crate::{config::KmipCa, fault::Code, serve::Inside};

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// As in `CN=Devices,O=Example`.
    subject: String,
    days: u32,
}

/// `GET`: the certificate.
pub(super) async fn show(inside: &Inside, name: &str) -> Result<Value, Problem> {
    match Authority::open(&inside.node.objects, name).await? {
        Some(authority) => Ok(shown(&authority)),
        None => {
            let detail = format!("there is no authority {name:?}; custodians make one");
            Err(Problem::new(StatusCode::NOT_FOUND, Code::A003, detail))
        }
    }
}

/// `POST`: a new authority.
pub(super) async fn make(
    inside: &Inside,
    ca: Option<&KmipCa>,
    name: &str,
    body: &[u8],
    who: Custodian,
    peer: &PeerIdentity,
) -> Result<Value, Problem> {
    let wish: Wish = serde_json::from_slice(body).map_err(|_| {
        let detail = "the body says subject (a distinguished name) and days";
        Problem::new(StatusCode::BAD_REQUEST, Code::A004, detail)
    })?;
    warn!(custodian = %who, certificate = %peer, authority = name, "an authority is asked for");
    let span = Span::days(now_ms() / 1000, wish.days);
    let authority = Authority::make(&inside.node.objects, name, &wish.subject, span).await?;
    let answer = shown(&authority);
    if let Some(ca) = ca.filter(|ca| ca.name == name) {
        inside.fronts.certify_with(ca, authority);
    }
    Ok(answer)
}

fn shown(authority: &Authority) -> Value {
    json!({
        "name": authority.name(),
        "valid_until_s": authority.valid().until,
        "certificate": authority.pem(),
    })
}

impl From<AuthorityError> for Problem {
    fn from(error: AuthorityError) -> Self {
        let (status, code) = match &error {
            AuthorityError::Exists(_) => (StatusCode::CONFLICT, Code::A005),
            AuthorityError::Name(_) | AuthorityError::Request(_) | AuthorityError::Span(_) => {
                (StatusCode::BAD_REQUEST, Code::A005)
            }
            AuthorityError::Certificate(..) => (StatusCode::INTERNAL_SERVER_ERROR, Code::A005),
            AuthorityError::Random(_) | AuthorityError::Object(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::A005)
            }
        };
        Self::new(status, code, error.to_string())
    }
}
