//! Bounded bodies in buffers that are overwritten on drop.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use tokio::time::timeout;
use wiped::Wiped;

/// First allocation for a body of unknown length, in bytes.
const FIRST: usize = 4096;

/// Of a body that is too long, so many times what is allowed is read and dropped: a client that still
/// sends when its connection is closed does not get to see the answer.
const DROPPED: u64 = 4;
/// And so long.
const DROP_WITHIN: Duration = Duration::from_secs(2);

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
/// allowed is refused before it is stored; a little more than that is taken from the connection.
pub async fn read_body<B>(mut body: B, max: usize, limit: Duration) -> Result<Wiped, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    // The timer is only registered when the body is not already there.
    let read = timeout(limit, collect(&mut body, max)).await;
    let read = read.map_err(|_| BodyError::Timeout { limit })?;
    if matches!(read, Err(BodyError::TooLarge { .. })) {
        drop(timeout(limit.min(DROP_WITHIN), drop_rest(&mut body, DROPPED * max as u64)).await);
    }
    read
}

/// At most `left` bytes; nothing of a body that announces more.
async fn drop_rest<B: Body<Data = Bytes> + Unpin>(body: &mut B, mut left: u64) {
    while left > 0
        && body.size_hint().lower() <= left
        && let Some(Ok(frame)) = body.frame().await
    {
        left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
    }
}

async fn collect<B>(body: &mut B, max: usize) -> Result<Wiped, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let hint = body.size_hint();
    if hint.lower() > max as u64 {
        return Err(BodyError::TooLarge { max });
    }
    if hint.exact() == Some(0) {
        return Ok(Wiped::default());
    }
    let first = hint.exact().map_or(FIRST.min(max), |exact| exact as usize);
    let mut whole = Wiped::with_capacity(first);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| BodyError::Broken(e.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > max {
            return Err(BodyError::TooLarge { max });
        }
        whole.append(&data);
    }
    Ok(whole)
}

/// A body that is overwritten in memory once it was sent. Not copied on its way to TLS.
pub fn secret_body(bytes: Wiped) -> Full<Bytes> {
    Full::new(Bytes::from_owner(SecretBytes(bytes)))
}

struct SecretBytes(Wiped);

impl AsRef<[u8]> for SecretBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
