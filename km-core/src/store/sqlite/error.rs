//! The one place where SQLite's results become a [`StoreError`].

use rusqlite::{Error, ErrorCode};

use crate::store::StoreError;

/// Maps by what the operator can do about it.
pub(super) fn map(error: Error) -> StoreError {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(format!("{text}; free disk space")),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged(format!("{text}; put this store aside and start with an empty one"))
        }
        Some(ErrorCode::TooBig) => StoreError::TooLarge(text),
        Some(_) => StoreError::Unavailable(text),
        // Not from the engine: a column did not have the type our schema gives it.
        None => {
            StoreError::Damaged(format!("{text}; put this store aside and start with an empty one"))
        }
    }
}

/// Maps an error of the file system around the database.
pub(super) fn map_io(what: &str, path: &std::path::Path, error: &std::io::Error) -> StoreError {
    let text = format!("{what} {}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            StoreError::Full(text)
        }
        _ => StoreError::Unavailable(text),
    }
}
