//! Frames between a KM and its HSM worker process, without the socket. Write with [`Outbox`],
//! read with [`Inbox`].
//!
//! A frame is its length (4 bytes, little-endian) and a postcard message. Messages may hold clear
//! bytes, so both buffers are overwritten when they are emptied, grown or dropped. The length is
//! judged before memory is taken.

use serde::Serialize;
use serde::de::DeserializeOwned;
use wiped::{Wiped, wipe};

const LENGTH_BYTES: usize = 4;
/// Longest message and longest header a profile may allow, and what else a frame says.
pub(crate) const MAX_FRAME: usize = (16 << 20) + (1 << 20) + (64 << 10);
/// What is read at a time, at least: many small frames.
const READ_BYTES: usize = 64 << 10;

/// The other side sent what it cannot mean: the connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    #[error("a frame holds no message")]
    Malformed,
}

/// Where a message is written.
struct Into<'a>(&'a mut Wiped);

impl postcard::ser_flavors::Flavor for Into<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.append(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Frames on their way out.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Wiped,
    sent: usize,
}

impl Outbox {
    /// Adds a frame, or nothing when the message is too long.
    pub(crate) fn push<T: Serialize>(&mut self, message: &T) -> Result<(), WireError> {
        let start = self.bytes.len();
        self.bytes.append(&[0; LENGTH_BYTES]);
        let written = postcard::serialize_with_flavor(message, Into(&mut self.bytes));
        let len = self.bytes.len() - start - LENGTH_BYTES;
        let fits = u32::try_from(len).ok().filter(|_| len <= MAX_FRAME && written.is_ok());
        let (Some(len), Some(at)) = (fits, self.bytes.get_mut(start..start + LENGTH_BYTES)) else {
            self.bytes.truncate(start);
            return Err(WireError::TooLong(len));
        };
        at.copy_from_slice(&len.to_le_bytes());
        Ok(())
    }

    /// What is still to be sent.
    pub(crate) fn waiting(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// `count` more bytes have been sent.
    pub(crate) fn sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
    }
}

/// Frames on their way in.
#[derive(Default)]
pub(crate) struct Inbox {
    /// Always as long as its capacity was made; what counts is between `start` and `end`.
    bytes: Wiped,
    start: usize,
    end: usize,
}

impl Inbox {
    /// Where the next bytes go; never empty. Call [`Inbox::filled`] with how many came.
    ///
    /// # Errors
    /// When the frame that has begun is too long.
    pub(crate) fn room(&mut self) -> Result<&mut [u8], WireError> {
        let missing = match self.length()? {
            Some(len) => (LENGTH_BYTES + len).saturating_sub(self.end - self.start),
            None => LENGTH_BYTES,
        };
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            let moved = self.end - self.start;
            wipe(self.bytes.get_mut(moved..self.end).unwrap_or_default());
            (self.start, self.end) = (0, moved);
        }
        if self.bytes.len() < self.end + missing.max(READ_BYTES / 2) {
            let more = (self.end + missing.max(READ_BYTES)) - self.bytes.len();
            self.bytes.grow_to(self.bytes.len() + more);
        }
        Ok(self.bytes.get_mut(self.end..).unwrap_or_default())
    }

    /// `count` bytes were written to the start of [`Inbox::room`].
    pub(crate) fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// The next message that is here whole.
    ///
    /// # Errors
    /// When what came is no message; nothing after it can be read.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let Some(len) = self.length()? else { return Ok(None) };
        let to = self.start + LENGTH_BYTES + len;
        let Some(frame) = self.bytes.get_mut(self.start..to).filter(|_| to <= self.end) else {
            return Ok(None);
        };
        let message = postcard::take_from_bytes(frame.get(LENGTH_BYTES..).unwrap_or_default());
        let message = message.ok().filter(|(_, rest)| rest.is_empty()).map(|(message, _)| message);
        wipe(frame);
        self.start = to;
        message.map(Some).ok_or(WireError::Malformed)
    }

    /// The length of the frame that begins at `start`.
    fn length(&self) -> Result<Option<usize>, WireError> {
        let begun = self.bytes.get(self.start..self.end).unwrap_or_default();
        let Some(length) = begun.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        match u32::from_le_bytes(*length) as usize {
            len if len > MAX_FRAME => Err(WireError::TooLong(len)),
            len => Ok(Some(len)),
        }
    }
}

/// How [`km_core::material::ClearBytes`] travel: `#[serde(with = "wire::clear")]`, in this crate
/// alone, and only into the buffers above.
pub(crate) mod clear {
    use std::fmt;

    use km_core::material::ClearBytes;
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(clear: &ClearBytes, to: S) -> Result<S::Ok, S::Error> {
        clear.expose(|bytes| to.serialize_bytes(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ClearBytes, D::Error> {
        from.deserialize_bytes(Bytes)
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = ClearBytes;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<ClearBytes, E> {
            Ok(ClearBytes::copy_from(bytes))
        }
    }
}

/// How uses of a key travel, as [`clear`] does.
pub(crate) mod uses {
    use std::sync::Arc;

    use km_core::material::ClearBytes;
    use km_core::usage::{Action, KeyUse};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize)]
    struct Lent<'a>(
        &'a Action,
        #[serde(serialize_with = "super::clear::serialize")] &'a ClearBytes,
    );

    #[derive(Deserialize)]
    struct Own(Action, #[serde(with = "super::clear")] ClearBytes);

    pub(crate) fn serialize<S: Serializer>(uses: &[KeyUse], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(uses.iter().map(|one| Lent(&one.action, &one.input)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<[KeyUse]>, D::Error> {
        let uses = Vec::<Own>::deserialize(from)?;
        Ok(uses.into_iter().map(|Own(action, input)| KeyUse { action, input }).collect())
    }
}

/// How several [`km_core::material::ClearBytes`] travel, as [`clear`] does.
pub(crate) mod results {
    use km_core::material::ClearBytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize)]
    struct Lent<'a>(#[serde(serialize_with = "super::clear::serialize")] &'a ClearBytes);

    #[derive(Deserialize)]
    struct Own(#[serde(with = "super::clear")] ClearBytes);

    pub(crate) fn serialize<S: Serializer>(all: &[ClearBytes], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(all.iter().map(Lent))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<ClearBytes>, D::Error> {
        Ok(Vec::<Own>::deserialize(from)?.into_iter().map(|Own(clear)| clear).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use km_core::hsm::{HsmError, KekId, SealMethod, Sealed, TokenKey};
    use km_core::material::ClearBytes;
    use km_core::usage::{Action, Cipher, KeyKind, KeyUse};

    use super::*;
    use crate::request::Request;
    use crate::response::Response;

    fn requests() -> Vec<Request> {
        let sealed =
            Sealed::new(KekId("aa".into()), SealMethod::TokenGcm, vec![1; 12], vec![9; 70_000]);
        let key = TokenKey {
            name: vec![3; 32],
            kind: KeyKind::Aes,
            wrapped: true,
            aad: vec![],
            sealed: sealed.clone(),
        };
        let gcm = Cipher::Gcm { iv: vec![5; 12], aad: vec![], tag: 16 };
        let uses = [gcm, Cipher::Ecb { padded: false }].map(|cipher| KeyUse {
            action: Action::Encrypt(cipher),
            input: ClearBytes::copy_from(&[0xC5; 64]),
        });
        vec![
            Request::Seal { aad: b"head".to_vec(), clear: ClearBytes::copy_from(&[0xC5; 32]) },
            Request::Open { aad: vec![], sealed },
            Request::Random { len: 4097 },
            Request::Probe,
            Request::CreateKek,
            Request::UseKey { key: Box::new(key), uses: Arc::from(uses) },
        ]
    }

    fn read<T: DeserializeOwned>(inbox: &mut Inbox, bytes: &[u8], part: usize) -> Vec<T> {
        let mut all = Vec::new();
        for mut part in bytes.chunks(part) {
            while !part.is_empty() {
                let room = inbox.room().unwrap();
                let count = room.len().min(part.len());
                room[..count].copy_from_slice(&part[..count]);
                part = &part[count..];
                inbox.filled(count);
                while let Some(message) = inbox.next().unwrap() {
                    all.push(message);
                }
            }
        }
        all
    }

    #[test]
    fn many_frames_in_one_piece_and_one_frame_in_many() {
        let mut outbox = Outbox::default();
        requests().iter().for_each(|request| outbox.push(request).unwrap());
        for part in [1, 7, 4096, usize::MAX >> 1] {
            let mut inbox = Inbox::default();
            assert_eq!(read::<Request>(&mut inbox, outbox.waiting(), part), requests());
            assert_eq!(inbox.start, inbox.end);
        }
    }

    #[test]
    fn answers_travel_with_their_errors() {
        let results = [b"one".as_slice(), b""].map(ClearBytes::copy_from);
        let answers: [Result<Response, HsmError>; 5] = [
            Ok(Response::Used(Vec::from(results))),
            Ok(Response::Clear(ClearBytes::copy_from(&[7; 48]))),
            Ok(Response::Done),
            Err(HsmError::Refused("changed".into())),
            Err(HsmError::Setup("no token".into())),
        ];
        let mut outbox = Outbox::default();
        answers.iter().for_each(|answer| outbox.push(answer).unwrap());
        let read = read::<Result<Response, HsmError>>(&mut Inbox::default(), outbox.waiting(), 11);
        assert_eq!(read, answers);
    }

    #[test]
    fn buffers_hold_no_clear_bytes_once_they_are_empty() {
        let mut outbox = Outbox::default();
        requests().iter().for_each(|request| outbox.push(request).unwrap());
        let bytes = outbox.waiting().to_vec();
        assert!(bytes.windows(32).any(|w| w == [0xC5; 32]));
        let mut inbox = Inbox::default();
        read::<Request>(&mut inbox, &bytes, 50_000);
        assert!(inbox.bytes.iter().all(|b| *b == 0));
        let before = outbox.bytes.as_ptr();
        outbox.sent(10);
        assert_eq!(outbox.waiting(), &bytes[10..]);
        outbox.sent(bytes.len() - 10);
        assert!(outbox.waiting().is_empty());
        outbox.bytes.append(&bytes);
        assert_eq!(outbox.bytes.as_ptr(), before, "the same memory");
    }

    #[test]
    fn lengths_are_judged_before_memory_is_taken() {
        let mut inbox = Inbox::default();
        let claimed = u32::try_from(MAX_FRAME + 1).unwrap().to_le_bytes();
        inbox.room().unwrap()[..4].copy_from_slice(&claimed);
        inbox.filled(4);
        assert_eq!(inbox.next::<Request>(), Err(WireError::TooLong(MAX_FRAME + 1)));
        assert_eq!(inbox.room().map(|room| room.len()), Err(WireError::TooLong(MAX_FRAME + 1)));
        assert!(inbox.bytes.len() <= READ_BYTES);
        let mut outbox = Outbox::default();
        outbox.push(&Request::Probe).unwrap();
        let before = outbox.waiting().to_vec();
        let huge = ClearBytes::from_vec(vec![1; MAX_FRAME]);
        assert!(outbox.push(&Request::Seal { aad: vec![], clear: huge }).is_err());
        assert_eq!(outbox.waiting(), before);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for frame in [&[0, 0, 0, 0][..], &[1, 0, 0, 0, 200], &[2, 0, 0, 0, 3, 0]] {
            let mut inbox = Inbox::default();
            inbox.room().unwrap()[..frame.len()].copy_from_slice(frame);
            inbox.filled(frame.len());
            assert_eq!(inbox.next::<Request>(), Err(WireError::Malformed));
        }
    }
}
