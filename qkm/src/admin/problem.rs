//! Errors of the admin API as problem details (RFC 9457).

use hyper::StatusCode;
use km_core::{copies::CopyError, epoch::EpochError, objects::ObjectError, records::RecordError};
use serde_json::{Value, json};

use crate::fault::Code;

/// One error answer.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    code: Code,
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: Code, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    pub(crate) fn not_an_operator() -> Self {
        let detail = "this certificate is none of the operators that [admin] names";
        Self::new(StatusCode::FORBIDDEN, Code::A002, detail)
    }

    pub(crate) fn not_a_custodian() -> Self {
        let detail = "this certificate is none of the custodians that [admin] names, who alone change epochs and make authorities";
        Self::new(StatusCode::FORBIDDEN, Code::A002, detail)
    }

    pub(crate) fn no_such_epoch(number: &str) -> Self {
        let shown: String = number.chars().take(20).collect();
        Self::new(StatusCode::NOT_FOUND, Code::E002, format!("there is no epoch {shown:?}"))
    }

    pub(crate) fn still_at_it() -> Self {
        let detail = "it takes longer and goes on; list the epochs to see how far it is";
        Self::new(StatusCode::GATEWAY_TIMEOUT, Code::E003, detail)
    }

    pub(crate) fn alone() -> Self {
        let detail = "this key manager has a store of its own and shares it with none";
        Self::new(StatusCode::NOT_FOUND, Code::S009, detail)
    }

    pub(crate) fn back_up_the_engine() -> Self {
        let detail = "several key managers share a store on etcd: etcd makes the backup \
                      (`etcdctl snapshot save FILE`); once it was put back, `qkm store restore`";
        Self::new(StatusCode::CONFLICT, Code::S009, detail)
    }

    pub(crate) fn wrong_method() -> Self {
        let detail = "POST goes to /v1/hsm/epochs, /v1/ca/NAME, /v1/store/backups, \
                      /v1/nodes/NAME/{invite,drain,undrain,revoke}, /v1/pools/PEER/feed/BYTES and \
                      /v1/keys/NAME/copies/SAE; all else is GET";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Code::A004, detail)
    }

    pub(super) fn not_fed(peer: &str) -> Self {
        let shown: String = peer.chars().take(64).collect();
        let detail = format!(
            "the pool with {shown:?} is not fed by relay here, or the order is not of 1 to 16777216 \
             bytes; see [[relay]] in the configuration"
        );
        Self::new(StatusCode::NOT_FOUND, Code::A004, detail)
    }

    pub(crate) fn wrong_body() -> Self {
        let detail = "a change is asked for with Content-Type: application/json and a short body";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::A004, detail)
    }

    pub(crate) fn no_such_path(path: &str) -> Self {
        let shown: String = path.chars().take(100).collect();
        let detail = format!(
            "there is nothing at {shown:?}; see /v1/pools, /v1/links, /v1/routes, /v1/keys/ID, /v1/ca/NAME, /v1/hsm/epochs"
        );
        Self::new(StatusCode::NOT_FOUND, Code::A004, detail)
    }

    pub(crate) fn no_such_key(id: &str) -> Self {
        let shown: String = id.chars().take(64).collect();
        let detail = format!("no pool key and no managed object is named {shown:?} here");
        Self::new(StatusCode::NOT_FOUND, Code::A003, detail)
    }

    pub(crate) fn to_json(&self) -> Value {
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

impl From<EpochError> for Problem {
    fn from(error: EpochError) -> Self {
        let (status, code) = match error {
            EpochError::Record(error) => return error.into(),
            EpochError::NoSuch(number) => return Self::no_such_epoch(&number.to_string()),
            EpochError::Step(_)
            | EpochError::NotEmpty { .. }
            | EpochError::NotLeading
            | EpochError::SameOperator { .. } => (StatusCode::CONFLICT, Code::E001),
            EpochError::Hsm(_) | EpochError::Missing { .. } | EpochError::Unknown => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::E003)
            }
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<CopyError> for Problem {
    fn from(error: CopyError) -> Self {
        let (status, code) = match error {
            CopyError::NotFound(_) => (StatusCode::NOT_FOUND, Code::A003),
            CopyError::Refused(_) => (StatusCode::CONFLICT, Code::A006),
            CopyError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::A007),
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
