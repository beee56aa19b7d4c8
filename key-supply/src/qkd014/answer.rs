//! Answers and refusals as HTTP (clauses 5 and 6.5): the one place that knows status codes.

use std::fmt;

use bytes::Bytes;
use etsi014::{ContainerWriter, ErrorBody, FormatError, KeyName, MAX_DETAILS, text};
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use km_core::{
    pool::{CollectError, SuppliedKey},
    supply::SupplyError,
};
use transport::http::{BodyError, secret_body};
use wiped::Wiped;

use super::way;

pub(super) type Answer = Response<Full<Bytes>>;

const KEYS_AWAY: &str = "keys cannot be supplied now because the link to the other KME, the HSM \
                         or the store is away; try again later";

/// Why a request gets nothing. Nothing was delivered.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Not a known SAE, not an allowed pair, or not this SAE's key. Says no more on purpose.
    Unauthorized,
    /// The request is wrong.
    BadRequest(ErrorBody),
    /// The request is right, and may succeed later.
    Unavailable(ErrorBody),
    /// Not a URL of this interface.
    NoSuchPath,
    /// A URL of this interface, with a method it does not have.
    Method { allowed: &'static str },
    /// The body is longer than any sound request: more than so many bytes.
    TooLarge(usize),
    /// The body did not arrive in time.
    TooSlow,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::TooLarge(max) => return write!(f, "the body is longer than {max} bytes"),
            Self::Unauthorized => "not authorised",
            Self::BadRequest(body) | Self::Unavailable(body) => &body.message,
            Self::NoSuchPath => "no such path; see ETSI GS QKD 014 V1.1.1, clause 5",
            Self::Method { .. } => "this path does not have this method",
            Self::TooSlow => "the body did not arrive in time",
        };
        f.write_str(text)
    }
}

/// 200 with the JSON text; the text is overwritten once it was sent.
pub(super) fn granted(json: Wiped) -> Answer {
    answer(StatusCode::OK, Some(json))
}

/// The refusal as the standard wants it.
pub(super) fn refused(refusal: Refusal) -> Answer {
    let plain = ErrorBody::new(refusal.to_string());
    let (status, body) = match refusal {
        Refusal::Unauthorized => return answer(StatusCode::UNAUTHORIZED, None),
        Refusal::BadRequest(body) => (StatusCode::BAD_REQUEST, body),
        Refusal::Unavailable(body) => (StatusCode::SERVICE_UNAVAILABLE, body),
        Refusal::NoSuchPath => (StatusCode::NOT_FOUND, plain),
        Refusal::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, plain),
        Refusal::TooSlow => (StatusCode::REQUEST_TIMEOUT, plain),
        Refusal::Method { allowed } => {
            let mut refused = error(StatusCode::METHOD_NOT_ALLOWED, &plain);
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            return refused;
        }
    };
    error(status, &body)
}

fn error(status: StatusCode, body: &ErrorBody) -> Answer {
    answer(status, Some(Wiped::new(body.to_json())))
}

fn answer(status: StatusCode, json: Option<Wiped>) -> Answer {
    let typed = json.is_some();
    let mut answer = Response::new(json.map_or_else(Full::default, secret_body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if typed {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    answer
}

/// The key container (clause 6.3), in one buffer; `told`: with the way of each key.
pub(super) fn container(keys: &[SuppliedKey], told: bool) -> Result<Wiped, Refusal> {
    let longest = keys.iter().map(|key| key.bytes.len()).max().unwrap_or(0);
    let ways = if told { way::extensions(keys) } else { Vec::new() };
    let longest_way = ways.iter().map(|way| way.len()).max().unwrap_or(0);
    let mut writer = ContainerWriter::with_extensions(keys.len(), longest, longest_way);
    for (at, key) in keys.iter().enumerate() {
        let name = KeyName::from(key.id.uuid());
        let way = ways.get(at).map_or("", |way| way);
        let fits = key.bytes.expose(|bytes| writer.push_with(&name, bytes, way));
        // The writer was made for exactly these keys.
        fits.map_err(|full| unavailable(full.to_string()))?;
    }
    Ok(writer.finish())
}

/// dec_keys asked for keys that are not here.
pub(super) fn not_found(ids: impl IntoIterator<Item = impl fmt::Display>) -> Refusal {
    let ids = ids.into_iter().take(MAX_DETAILS);
    let start = ErrorBody::new(text::KEYS_NOT_FOUND);
    Refusal::BadRequest(ids.fold(start, |body, id| body.with("key_ID", id.to_string())))
}

fn unavailable(message: impl Into<String>) -> Refusal {
    Refusal::Unavailable(ErrorBody::new(message))
}

/// Several KMs of this cluster share its keys, and none of them leads.
const NOTHING_DONE: &str =
    "keys cannot be supplied at this moment, and nothing was done; ask again";

/// What is away, and why, is for the operator to read, not for applications.
fn away(reason: &dyn fmt::Display) -> Refusal {
    tracing::warn!(%reason, "cannot supply keys");
    unavailable(KEYS_AWAY)
}

impl From<SupplyError> for Refusal {
    fn from(error: SupplyError) -> Self {
        match error {
            SupplyError::NotPaired { .. } => Self::Unauthorized,
            SupplyError::BadSlaves(text) | SupplyError::OutOfBounds(text) => {
                Self::BadRequest(ErrorBody::new(text))
            }
            SupplyError::BelowGrade { .. } | SupplyError::Quota(_) | SupplyError::Full => {
                unavailable(error.to_string())
            }
            SupplyError::NoKeys(_) => unavailable(format!("{error}; try again later")),
            SupplyError::Collect(CollectError::NotFound(ids)) => not_found(ids),
            SupplyError::Collect(CollectError::NotYours(_)) => Self::Unauthorized,
            SupplyError::Collect(CollectError::Pool(error)) => away(&error),
            SupplyError::Unavailable(reason) => away(&reason),
            SupplyError::NotLed(reason) => {
                tracing::warn!(%reason, "no key manager of this cluster leads");
                unavailable(NOTHING_DONE)
            }
        }
    }
}

impl From<FormatError> for Refusal {
    fn from(error: FormatError) -> Self {
        let text = match error.line {
            // In a query there are no lines.
            0 => format!("{}: {}", error.what, error.problem),
            _ => error.to_string(),
        };
        Self::BadRequest(ErrorBody::new(text))
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { max } => Self::TooLarge(max),
            BodyError::Timeout { .. } => Self::TooSlow,
            BodyError::Broken(reason) => Self::BadRequest(ErrorBody::new(reason)),
        }
    }
}
