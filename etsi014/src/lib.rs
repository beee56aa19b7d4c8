//! The messages of ETSI GS QKD 014 V1.1.1 (clauses 5 and 6), without sockets or HTTP. Servers and
//! clients of the key delivery interface are built on this; neither is here.
//!
//! - [`Status`], [`KeyRequest`], [`KeyIds`], [`ErrorBody`]: small messages, read with `parse`.
//! - [`KeyContainer`] and [`ContainerWriter`]: the answers with keys; base64 in constant time,
//!   every buffer with key bytes in it is overwritten on drop and never reallocated.
//! - [`path`]: the three URLs. [`text`]: the error texts the standard fixes.
//!
//! Members that the standard does not know are skipped, since real servers and clients add them.

mod container;
mod escape;
mod message;
mod name;
pub mod path;
mod query;
mod status;
pub mod text;

pub use container::{ContainerWriter, Full, KeyContainer, MAX_KEYS};
pub use message::{ErrorBody, KeyIds, KeyRequest, MAX_DETAILS, MAX_SAES};
pub use name::{KeyName, MAX_KEY_NAME, MAX_SAE_ID};
pub use status::Status;

/// Why bytes are not the message they should be. Never quotes a message that may carry keys.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{what}: {problem} (line {line}, column {column})")]
pub struct FormatError {
    /// The message expected, for example "key container".
    pub what: &'static str,
    /// What is wrong, at most 200 characters.
    pub problem: String,
    /// Line of the text, from 1; 0 when unknown.
    pub line: usize,
    /// Column, from 1; 0 when unknown.
    pub column: usize,
}

impl FormatError {
    /// Keeps the parser's words; only for messages without secrets.
    fn quoting(what: &'static str, error: &serde_json::Error) -> Self {
        let problem = error.to_string().chars().take(200).collect();
        Self { what, problem, line: error.line(), column: error.column() }
    }

    /// Says only where and what kind.
    fn silent(what: &'static str, error: &serde_json::Error) -> Self {
        let problem = match error.classify() {
            serde_json::error::Category::Syntax => "not JSON",
            serde_json::error::Category::Eof => "ends too early",
            _ => "JSON, but not this message",
        };
        Self { what, problem: problem.to_owned(), line: error.line(), column: error.column() }
    }

    fn plain(what: &'static str, problem: impl Into<String>) -> Self {
        Self { what, problem: problem.into(), line: 0, column: 0 }
    }
}
