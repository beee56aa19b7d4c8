//! The tokens that take KEKs, and what waits in the store for each of them.

use std::ops::Bound;

use super::EpochError;
use crate::{
    hsm::{Hsm, HsmError, KekParcel, KekReceiver},
    records::{RecordError, Records},
    store::{Check, Commit, MAX_RANGE, Outcome, StoreError},
};

const RECEIVER: &[u8] = b"share/receiver/";
const PARCEL: &[u8] = b"share/parcel/";
/// Written whenever a token is added.
const SET: &[u8] = b"share/set";
/// Longest name of a KM.
const MAX_NAME: usize = 64;

pub(super) fn check_name(name: &str) -> Result<(), EpochError> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains('/') {
        let what = "the name of a key manager has 1 to 64 bytes and no slash";
        return Err(HsmError::Unsupported(what.to_owned()).into());
    }
    Ok(())
}

pub(super) async fn put_receiver(
    records: &Records,
    name: &str,
    receiver: &KekReceiver,
) -> Result<(), EpochError> {
    let key = receiver_key(name);
    let known: Option<KekReceiver> = records.get(&key).await?;
    if known.as_ref() == Some(receiver) {
        return Ok(());
    }
    if known.is_some_and(|known| known.kem.is_some()) && receiver.kem.is_none() {
        tracing::warn!(
            node = name,
            alarm = "kek-without-ml-kem",
            "its token took KEKs by ML-KEM as well, and asks for RSA-OAEP alone now"
        );
    }
    let value = records.encode(&key, receiver);
    let commit = Commit::new().put(key, value).put(SET, records.encode(SET, &()));
    done(records.store().commit(commit).await)
}

/// That no token was added.
pub(super) async fn set_as_it_is(records: &Records) -> Result<Check, EpochError> {
    let found = records.store().get(SET).await.map_err(RecordError::from)?;
    Ok(match found {
        Some(found) => Check::Is(SET.to_vec(), found.version),
        None => Check::Absent(SET.to_vec()),
    })
}

pub(super) async fn remove_receiver(records: &Records, name: &str) -> Result<(), EpochError> {
    let (store, key) = (records.store(), receiver_key(name));
    let parcels = store.range(&parcels_of(name), Bound::Unbounded, MAX_RANGE).await;
    let mut keys: Vec<Vec<u8>> = vec![key];
    keys.extend(parcels.map_err(RecordError::from)?.into_iter().map(|parcel| parcel.key));
    for some in keys.chunks(crate::store::MAX_OPS) {
        let commit = some.iter().fold(Commit::new(), |commit, key| commit.delete(key.clone()));
        done(store.commit(commit).await)?;
    }
    Ok(())
}

pub(super) async fn receivers(
    records: &Records,
) -> Result<Vec<(String, KekReceiver)>, RecordError> {
    let mut all = Vec::new();
    let named = |key: &[u8]| String::from_utf8_lossy(&key[RECEIVER.len()..]).into_owned();
    records.each(RECEIVER, |key, receiver| all.push((named(key), receiver))).await?;
    Ok(all)
}

/// The record of how the token of `name` takes KEKs. Without it, it gets none.
pub fn receiver_key(name: &str) -> Vec<u8> {
    [RECEIVER, name.as_bytes()].concat()
}

pub(super) fn parcels_of(name: &str) -> Vec<u8> {
    [PARCEL, name.as_bytes(), b"/"].concat()
}

pub(super) fn parcel_key(name: &str, number: u64) -> Vec<u8> {
    [parcels_of(name), number.to_be_bytes().to_vec()].concat()
}

/// Takes what is there for `me`; how many epochs.
pub(super) async fn receive(
    hsm: &dyn Hsm,
    records: &Records,
    me: &str,
) -> Result<usize, EpochError> {
    let mut parcels = Vec::new();
    let keep = |key: &[u8], parcel: KekParcel| parcels.push((key.to_vec(), parcel));
    records.each(&parcels_of(me), keep).await?;
    for (key, parcel) in &parcels {
        hsm.take_kek(parcel).await?;
        done(records.store().commit(Commit::new().delete(key.clone())).await)?;
    }
    Ok(parcels.len())
}

fn done(outcome: Result<Outcome, StoreError>) -> Result<(), EpochError> {
    match outcome.map_err(RecordError::from)? {
        Outcome::Committed(_) => Ok(()),
        Outcome::Conflict | Outcome::Unknown => Err(EpochError::Unknown),
    }
}
