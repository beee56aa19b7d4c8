//! Typed, authenticated records over the store. Enter through [`Records`].
//!
//! On disk: one format byte, the value in postcard, and a 128-bit HMAC-SHA-256 tag over key and
//! value under a key only the HSM can open. Bit rot, tampering and swapped rows are noticed.

use std::sync::Arc;

use aws_lc_rs::hmac;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::{
    material::ClearBytes,
    store::{Staged, Store, StoreError},
};

/// The format byte every record starts with.
pub const RECORD_FORMAT: u8 = 1;
const TAG: usize = 16;

/// Why a record could not be used.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Written by a newer qkm.
    #[error("record {key} is in format {found}; this qkm reads format {RECORD_FORMAT}")]
    Newer {
        /// The key, printable.
        key: String,
        /// Its format byte.
        found: u8,
    },
    /// Changed behind our back, or rotten.
    #[error(
        "record {key} is damaged: {what}; its keys are not used. Put this store aside and start with \
         an empty one"
    )]
    Damaged {
        /// The key, printable.
        key: String,
        /// What does not fit.
        what: &'static str,
    },
}

impl RecordError {
    pub(crate) fn damaged(key: &[u8], what: &'static str) -> Self {
        Self::Damaged { key: printable(key), what }
    }
}

/// The store seen as typed records.
#[derive(Clone)]
pub struct Records {
    store: Arc<dyn Store>,
    mac: hmac::Key,
}

impl Records {
    /// `key`: 32 bytes, from the vault.
    pub fn new(store: Arc<dyn Store>, key: &ClearBytes) -> Self {
        let mac = key.expose(|bytes| hmac::Key::new(hmac::HMAC_SHA256, bytes));
        Self { store, mac }
    }

    /// The store below.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// The same records over a stage: what is committed to them waits there to be published.
    pub fn staged(&self) -> (Self, Arc<Staged>) {
        let stage = Arc::new(Staged::over(self.store.clone()));
        (Self { store: stage.clone(), mac: self.mac.clone() }, stage)
    }

    fn tag(&self, key: &[u8], body: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.mac);
        context.update(&(key.len() as u64).to_be_bytes());
        context.update(key);
        context.update(body);
        context.sign()
    }

    /// The bytes to store for `value` at `key`.
    pub fn encode<T: Serialize>(&self, key: &[u8], value: &T) -> Vec<u8> {
        let mut body = vec![RECORD_FORMAT];
        // Records are plain owned data; postcard fails only on types it has no form for.
        body = postcard::to_extend(value, body).unwrap_or_default();
        let tag = self.tag(key, &body);
        body.extend_from_slice(&tag.as_ref()[..TAG]);
        body
    }

    /// Reads what [`Records::encode`] wrote for the same key.
    pub fn decode<T: DeserializeOwned>(&self, key: &[u8], stored: &[u8]) -> Result<T, RecordError> {
        let damaged = |what| RecordError::damaged(key, what);
        let (body, tag) = stored
            .len()
            .checked_sub(TAG)
            .map(|at| stored.split_at(at))
            .ok_or_else(|| damaged("too short"))?;
        let (format, value) = body.split_first().ok_or_else(|| damaged("too short"))?;
        if *format > RECORD_FORMAT {
            return Err(RecordError::Newer { key: printable(key), found: *format });
        }
        let right = self.tag(key, body);
        if !bool::from(subtle::ConstantTimeEq::ct_eq(&right.as_ref()[..TAG], tag)) {
            return Err(damaged("its authentication tag does not fit"));
        }
        postcard::from_bytes(value).map_err(|_| damaged("its contents do not parse"))
    }

    /// Reads one record.
    pub async fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, RecordError> {
        match self.store.get(key).await? {
            Some(record) => self.decode(key, &record.value).map(Some),
            None => Ok(None),
        }
    }

    /// Reads every record under `prefix`, page by page, in key order.
    pub async fn each<T: DeserializeOwned>(
        &self,
        prefix: &[u8],
        mut seen: impl FnMut(&[u8], T),
    ) -> Result<(), RecordError> {
        let mut after = std::ops::Bound::Unbounded;
        loop {
            let page = self.store.range(prefix, after, crate::store::MAX_RANGE).await?;
            for record in &page {
                seen(&record.key, self.decode(&record.key, &record.value)?);
            }
            match page.last() {
                Some(last) => after = std::ops::Bound::Excluded(last.key.clone()),
                None => return Ok(()),
            }
        }
    }
}

/// Reads a field that was added to a kind of record, at its end: records of before do not have it, and
/// programs of before pass it over.
pub(crate) fn added<'de, D, T>(record: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(T::deserialize(record).ok())
}

/// Writes a record, and at its end what was added to its kind, where there is anything to say.
pub(crate) fn with_added<S: Serializer>(
    record: &impl Serialize,
    added: Option<&impl Serialize>,
    into: S,
) -> Result<S::Ok, S::Error> {
    match added {
        Some(added) => (record, added).serialize(into),
        None => record.serialize(into),
    }
}

fn printable(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

/// Checks the shape of any bytes as a stored record of `T`, tag aside; for the fuzzer.
#[doc(hidden)]
pub fn parse_unauthenticated<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (format, value) = bytes.split_first()?;
    (*format == RECORD_FORMAT).then(|| postcard::from_bytes(value).ok()).flatten()
}
