//! Bounded bodies in buffers that are overwritten on drop.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// First allocation for a body of unknown length, in bytes.
const FIRST: usize = 4096;

/// Why a body was not read.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum BodyError {
    /// Longer than allowed; answer 413.
    #[error("the body is longer than {max} bytes")]
    TooLarge {
        /// The bound.
        max: usize,
    },
    /// Not complete in time; answer 408.
    #[error("the body was not complete within {limit:?}")]
    Timeout {
        /// The deadline.
        limit: Duration,
    },
    /// The connection ended or the framing was wrong.
    #[error("the body broke off: {0}")]
    Broken(String),
}

/// Reads a whole body of at most `max` bytes within `limit`. A body longer than announced or
/// allowed is refused before it is stored.
pub async fn read_body<B>(
    body: B,
    max: usize,
    limit: Duration,
) -> Result<Zeroizing<Vec<u8>>, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    // The timer is only registered when the body is not already there.
    timeout(limit, collect(body, max)).await.map_err(|_| BodyError::Timeout { limit })?
}

async fn collect<B>(mut body: B, max: usize) -> Result<Zeroizing<Vec<u8>>, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let hint = body.size_hint();
    if hint.lower() > max as u64 {
        return Err(BodyError::TooLarge { max });
    }
    if hint.exact() == Some(0) {
        return Ok(Zeroizing::new(Vec::new()));
    }
    let first = hint.exact().map_or(FIRST.min(max), |exact| exact as usize);
    let mut whole = Zeroizing::new(Vec::with_capacity(first));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| BodyError::Broken(e.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > max {
            return Err(BodyError::TooLarge { max });
        }
        if length > whole.capacity() {
            whole = regrown(&whole, length.max(whole.capacity() * 2).min(max));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

/// A larger copy. `Vec` would free its old memory without overwriting it.
fn regrown(old: &[u8], capacity: usize) -> Zeroizing<Vec<u8>> {
    let mut larger = Zeroizing::new(Vec::with_capacity(capacity));
    larger.extend_from_slice(old);
    larger
}

/// A body that is overwritten in memory once it was sent. Not copied on its way to TLS.
pub fn secret_body(bytes: Zeroizing<Vec<u8>>) -> Full<Bytes> {
    Full::new(Bytes::from_owner(SecretBytes(bytes)))
}

struct SecretBytes(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for SecretBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
