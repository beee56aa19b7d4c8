//! Errors of the admin API as problem details (RFC 9457).

use hyper::StatusCode;
use km_core::{objects::ObjectError, records::RecordError};
use serde_json::{Value, json};

use crate::fault::Code;

/// One error answer.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    code: Code,
    detail: String,
}

impl Problem {
    fn new(status: StatusCode, code: Code, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    pub(super) fn not_an_operator() -> Self {
        let detail = "this certificate is none of the operators that [admin] names";
        Self::new(StatusCode::FORBIDDEN, Code::A002, detail)
    }

    pub(super) fn wrong_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Code::A004, "only GET is supported")
    }

    pub(super) fn no_such_path(path: &str) -> Self {
        let shown: String = path.chars().take(100).collect();
        let detail =
            format!("there is nothing at {shown:?}; see /v1/pools, /v1/links, /v1/keys/ID");
        Self::new(StatusCode::NOT_FOUND, Code::A004, detail)
    }

    pub(super) fn no_such_key(id: &str) -> Self {
        let shown: String = id.chars().take(64).collect();
        let detail = format!("no pool key and no managed object is named {shown:?} here");
        Self::new(StatusCode::NOT_FOUND, Code::A003, detail)
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "type": format!("urn:qkm:error:{}", self.code.id()),
            "title": self.code.title(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code.id(),
        })
    }
}

impl From<RecordError> for Problem {
    fn from(error: RecordError) -> Self {
        let (status, code) = match &error {
            RecordError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::S001),
            RecordError::Newer { .. } => (StatusCode::INTERNAL_SERVER_ERROR, Code::S002),
            RecordError::Damaged { .. } => (StatusCode::INTERNAL_SERVER_ERROR, Code::S003),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<ObjectError> for Problem {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::NotFound(id) => Self::no_such_key(&id),
            ObjectError::Record(error) => error.into(),
            other => {
                let detail = other.to_string();
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::S001, detail)
            }
        }
    }
}
