//! Who did what, and when: records that are written with what they tell, and never changed.
//! Enter through [`record`].

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{
    clock::now_ms,
    records::{RecordError, Records},
};

pub(crate) const PREFIX: &[u8] = b"audit/";

/// One deed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The certificate identity of the operator, or the rule of this KM that asked for it.
    pub who: String,
    /// What was done.
    pub what: Deed,
}

/// What can be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// A new KEK epoch began.
    EpochMade(u64),
    /// One operator approved the destruction of an epoch; another one has to.
    EpochDestructionApproved(u64),
    /// The second operator approved, and the destruction is decided.
    EpochDestructionDecided(u64),
    /// The KEK of an epoch is gone from the token.
    EpochDestroyed(u64),
}

/// The record of a deed of now, for the commit that makes it. Keys are in order of time.
pub(crate) fn record(records: &Records, who: &str, what: Deed) -> (Vec<u8>, Vec<u8>) {
    let entry = Entry { at_ms: now_ms(), who: who.to_owned(), what };
    let key = [PREFIX, uuid::Uuid::now_v7().as_bytes()].concat();
    let value = records.encode(&key, &entry);
    (key, value)
}

/// The last `limit` deeds, oldest first.
///
/// # Errors
/// Those of the store, and records that were changed.
pub async fn list(records: &Records, limit: usize) -> Result<Vec<Entry>, RecordError> {
    let mut last = VecDeque::new();
    records
        .each(PREFIX, |_, entry: Entry| {
            last.push_back(entry);
            if last.len() > limit {
                last.pop_front();
            }
        })
        .await?;
    Ok(last.into())
}
